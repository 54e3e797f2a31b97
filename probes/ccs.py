"""Contrast-consistent search: a direction without labels, from what the two sides of a pair must have in common."""

import numpy as np
import torch
from jaxtyping import Float

STEPS, RATE, RESTARTS = 300, 0.02, 4


def solve_ccs(
    positive: Float[np.ndarray, "problem pair f"],
    negative: Float[np.ndarray, "problem pair f"],
    *,
    seed: int,
    restarts: int = RESTARTS,
) -> tuple[Float[np.ndarray, "problem f"], Float[np.ndarray, "problem"]]:
    """The direction and offset of each problem with the smallest CCS loss over random starts.

    With p± = σ(w·h± + b) of a pair's sides, the loss is the mean over pairs of (p⁺ + p⁻ − 1)² + min(p⁺, p⁻)²
    (Burns et al., arXiv:2212.03827, eq. 1–3). Full-batch Adam; all problems and starts at once.

    Args:
        positive, negative: the sides, centred and scaled together. (Burns et al. centre each side by itself, because
            theirs differ in a word that is no part of the question. Here what tells the sides apart is the question.
            The loss is the same with a pair's sides swapped, so that joint centring shows it no label.)
        seed: seeds the starts.

    Returns:
        w [problem, f] and b [problem]; the sign is arbitrary, since no label is seen.
    """
    plus, minus = (torch.from_numpy(side.astype(np.float32)) for side in (positive, negative))
    n_problems, _, n_features = plus.shape
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn((n_problems, n_features, restarts), generator=generator, dtype=plus.dtype) / n_features**0.5
    b = torch.zeros((n_problems, 1, restarts), dtype=plus.dtype)
    first = [torch.zeros_like(w), torch.zeros_like(b)]
    second = [torch.zeros_like(w), torch.zeros_like(b)]
    values = [w, b]

    def losses() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        p, q = torch.sigmoid(plus @ values[0] + values[1]), torch.sigmoid(minus @ values[0] + values[1])
        return ((p + q - 1) ** 2 + torch.minimum(p, q) ** 2).mean(dim=1), p, q

    for step in range(1, STEPS + 1):
        _, p, q = losses()
        common = 2 * (p + q - 1)
        gp = (common + 2 * torch.where(p <= q, p, torch.zeros_like(p))) * p * (1 - p) / p.shape[1]
        gq = (common + 2 * torch.where(p > q, q, torch.zeros_like(q))) * q * (1 - q) / p.shape[1]
        gradients = [
            plus.transpose(1, 2) @ gp + minus.transpose(1, 2) @ gq,
            (gp + gq).sum(dim=1, keepdim=True),
        ]
        for i, gradient in enumerate(gradients):
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            size = (second[i] / (1 - 0.999**step)).sqrt() + 1e-8
            values[i] = values[i] - RATE * first[i] / (1 - 0.9**step) / size
    best = losses()[0].argmin(dim=1)
    rows = torch.arange(n_problems)
    return values[0][rows, :, best].double().numpy(), values[1][rows, 0, best].double().numpy()
