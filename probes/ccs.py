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
    optimiser = torch.optim.Adam([w.requires_grad_(), b.requires_grad_()], lr=RATE, fused=True)

    def losses() -> torch.Tensor:
        p, q = torch.sigmoid(plus @ w + b), torch.sigmoid(minus @ w + b)
        return ((p + q - 1) ** 2 + torch.minimum(p, q) ** 2).mean(dim=1)

    for _ in range(STEPS):
        optimiser.zero_grad()
        losses().sum().backward()  # type: ignore[no-untyped-call]  # problems and starts share nothing, so that the sum's gradient is each one's own
        optimiser.step()
    with torch.no_grad():
        best = losses().argmin(dim=1)
        rows = torch.arange(n_problems)
        return w[rows, :, best].double().numpy(), b[rows, 0, best].double().numpy()
