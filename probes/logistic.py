"""L2-regularised logistic regression for many subsets and penalties at once, in the span of the rows.

With n rows and d > n features the solution is w = Zᵀa, so that everything happens in the Gram matrix K = ZZᵀ. A subset
of the rows (an inner fold's training part) is a 0/1 weight on each row; all subsets and penalties then have one shape
and are solved by one batched Newton iteration. Where d ≤ n the same iteration runs on the features.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_STEPS, TOLERANCE = 60, 1e-9


def solve_logistic(
    features: Float[np.ndarray, "row f"],
    labels: Float[np.ndarray, "row"],
    weights: Float[np.ndarray, "problem row"],
    penalties: Float[np.ndarray, "problem"],
    *,
    tolerance: float = TOLERANCE,
) -> tuple[Float[np.ndarray, "problem f"], Float[np.ndarray, "problem"]]:
    """Minimise C·Σ_i weight_i·log(1 + exp(−y_i(w·x_i + b))) + ½|w|² for every problem; the intercept is not penalised.

    The objective is scikit-learn's. Newton steps with halving where a step does not lower it.

    Args:
        features: rows in any orthonormal basis of a space that holds them all (see `span`).
        labels: +1 or −1.
        weights: weight of each row in each problem; both classes must be present in each.
        penalties: C of each problem.
        tolerance: a problem is solved when the largest change of w in a step falls below it, relatively.

    Returns:
        w [problem, f] and b [problem].

    Raises:
        ValueError: a problem holds one class only, or has not converged.
    """
    x = torch.from_numpy(np.concatenate([features, np.ones((len(features), 1))], axis=1))
    y, weight, c = torch.from_numpy(labels), torch.from_numpy(weights), torch.from_numpy(penalties)
    if not (((weight > 0) & (y > 0)).any(dim=1) & ((weight > 0) & (y < 0)).any(dim=1)).all():
        raise ValueError("a logistic fit needs rows of both classes")
    n_features = x.shape[1]
    ridge = torch.ones(n_features, dtype=x.dtype)
    ridge[-1] = 0.0
    beta = torch.zeros((len(c), n_features), dtype=x.dtype)
    active = torch.arange(len(c))

    def objective(at: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        margins = y * (at @ x.T)
        losses = torch.nn.functional.softplus(-margins)
        return c[which] * (weight[which] * losses).sum(dim=1) + 0.5 * (ridge * at * at).sum(dim=1)

    for _ in range(MAX_STEPS):
        now = beta[active]
        p = torch.sigmoid(now @ x.T)
        scale = c[active, None] * weight[active]
        gradient = (scale * (p - (y + 1) / 2)) @ x + ridge * now
        curvature = scale * p * (1 - p)
        hessian = x.T @ (curvature[:, :, None] * x) + torch.diag(ridge)
        hessian[:, -1, -1] += 1e-12
        step = torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(hessian))[:, :, 0]
        before, size = objective(now, active), torch.ones(len(active), dtype=x.dtype)
        for _ in range(30):
            worse = objective(now - size[:, None] * step, active) > before + 1e-12 * before.abs()
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        beta[active] = now - size[:, None] * step
        moved = (size[:, None] * step).abs().amax(dim=1) / (1e-12 + beta[active].abs().amax(dim=1))
        active = active[moved > tolerance]
        if len(active) == 0:
            return beta[:, :-1].numpy(), beta[:, -1].numpy()
    raise ValueError(f"{len(active)} logistic fits did not converge in {MAX_STEPS} Newton steps")


def span(rows: Float[np.ndarray, "row d"]) -> tuple[Float[np.ndarray, "row f"], Float[np.ndarray, "d f"]]:
    """Rows in an orthonormal basis of their span: (coordinates, basis); the rows themselves where d ≤ n."""
    n, d = rows.shape
    if d <= n:
        return rows, np.eye(d)
    squares, left = np.linalg.eigh(rows @ rows.T)
    kept = squares > squares[-1] * 1e-12
    if not kept.any() or squares[-1] <= 0:
        return np.zeros((n, 1)), np.zeros((d, 1))
    left, lengths = left[:, kept], np.sqrt(squares[kept])
    return left * lengths, rows.T @ (left / lengths)


def choose_c(
    features: Float[np.ndarray, "row f"],
    labels: Float[np.ndarray, "row"],
    inner: Int[np.ndarray, "row"],
    grid: Sequence[float] = C_GRID,
) -> float:
    """The penalty with the smallest held-out log loss over grouped inner folds (ties: the stronger penalty)."""
    folds = np.unique(inner)
    weights = np.repeat((inner[None] != folds[:, None]).astype(np.float64), len(grid), axis=0)
    penalties = np.tile(np.asarray(grid, dtype=np.float64), len(folds))
    w, b = solve_logistic(features, labels, weights, penalties, tolerance=1e-4)
    losses = np.logaddexp(0.0, -labels * (w @ features.T + b[:, None])) * (1 - weights)
    total = losses.sum(axis=1).reshape(len(folds), len(grid)).sum(axis=0)
    return float(grid[int(np.argmin(total))])
