"""What a direction must be compared with: random directions, confounds taken out, the 2×2 of caring and tone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from probes.geometry import cross_product
from probes.inference import Estimate, jackknife_error, mean_interval, t_limits
from probes.metrics import dprime, spread
from probes.sides import Sides

RANDOM_DRAWS = 1000


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class RandomDirections:
    """|d′| of random directions on one slice: isotropic, and drawn with the spread of the rows within a side."""

    isotropic: Float[np.ndarray, "draw"]
    matched: Float[np.ndarray, "draw"]


def random_directions(sides: Sides, *, draws: int = RANDOM_DRAWS, seed: int) -> RandomDirections:
    """Score a slice by random directions.

    Isotropic u ~ N(0, I) are the weaker null: most of them point where the residual stream hardly varies. Matched ones
    u ~ N(0, Σ), Σ the covariance of the rows about their own side's mean, vary as the texts do; Σ holds no signal. No
    label is used, so nothing has to be held out.
    """
    rng = np.random.default_rng(seed)
    k, width = sides.positive.shape
    rows = np.concatenate([sides.positive, sides.negative])
    within = np.concatenate([s - s.mean(axis=0) for s in (sides.positive, sides.negative)])
    found = []
    for scores in (rows @ rng.normal(size=(width, draws)), (rows @ within.T) @ rng.normal(size=(2 * k, draws))):
        found.append(np.abs(dprime(scores[:k].T.copy(), scores[k:].T.copy())))
    return RandomDirections(isotropic=found[0], matched=found[1])


def matched_directions(sides: Sides, *, draws: int = RANDOM_DRAWS, seed: int) -> Float[np.ndarray, "draw"]:
    """|d′| of random directions with the spread of the rows within a side, as in `random_directions`, alone."""
    k = len(sides.positive)
    rows = np.concatenate([sides.positive, sides.negative])
    within = np.concatenate([s - s.mean(axis=0) for s in (sides.positive, sides.negative)])
    scores = (rows @ within.T) @ np.random.default_rng(seed).normal(size=(2 * k, draws))
    return np.abs(dprime(scores[:k].T.copy(), scores[k:].T.copy()))


def exceedance(observed: float, null: Float[np.ndarray, "draw"]) -> float:
    """One-sided p of |observed| against a null: (1 + nulls at least as large)/(1 + nulls); NaN for NaN."""
    if not np.isfinite(observed):
        return float("nan")
    return float((1 + (null >= abs(observed)).sum()) / (1 + len(null)))


def without(
    direction: Float[np.ndarray, "*batch d"], confounds: Float[np.ndarray, "c d"]
) -> Float[np.ndarray, "*batch d"]:
    """u⊥ = (I − CC⁺)u: what of a direction lies outside the span of the confounds' directions (not renormalised)."""
    basis, _ = np.linalg.qr(confounds.T)
    return direction - (direction @ basis) @ basis.T


def unbiased_cosine(a: Float[np.ndarray, "s d"], b: Float[np.ndarray, "t d"]) -> Estimate:
    """Cosine of two mean differences from different scenarios, noise taken out of both lengths; NaN where none is left.

    Limits by the two-sample jackknife.
    """
    own_a, own_b = cross_product(a, a), cross_product(b, b)
    if own_a.value <= 0 or own_b.value <= 0:
        return Estimate(value=np.nan, low=np.nan, high=np.nan)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    value = float(mean_a @ mean_b / np.sqrt(own_a.value * own_b.value))
    errors = []
    for rows, other, own, fixed in ((a, mean_b, own_a, own_b), (b, mean_a, own_b, own_a)):
        left = (rows.sum(axis=0) - rows) / (len(rows) - 1)
        if (own.without <= 0).any():
            return Estimate(value=value, low=np.nan, high=np.nan)
        errors.append(jackknife_error(left @ other / np.sqrt(own.without * fixed.value)))
    return t_limits(value, float(np.hypot(errors[0], errors[1])), min(len(a), len(b)) - 1)


def leace(rows: Float[np.ndarray, "row d"], labels: Float[np.ndarray, "row"]) -> Callable[[np.ndarray], np.ndarray]:
    """Closed-form linear erasure of a two-class concept (LEACE, arXiv:2306.03819), by the concept-erasure package.

    Returns:
        A function that erases the concept from rows [row, d]; no linear reader fitted on `rows` separates them then.
    """
    import torch
    from concept_erasure import LeaceEraser

    eraser = LeaceEraser.fit(torch.from_numpy(rows), torch.from_numpy(labels))
    return lambda x: np.asarray(eraser(torch.from_numpy(x)).numpy())


@dataclass(frozen=True, kw_only=True, slots=True)
class Factorial:
    """Effects along a direction in a {caring, uncaring} × {warm, plain} set, in SDs within a cell pair's side."""

    caring: Estimate
    tone: Estimate
    interaction: Estimate


def factorial(warm: Sides, plain: Sides, direction: Float[np.ndarray, "d"]) -> Factorial:
    """Caring effect ½[(CW − UW) + (CP − UP)], tone effect ½[(CW − CP) + (UW − UP)], interaction (CW − UW) − (CP − UP).

    Args:
        warm, plain: caring (positive) and uncaring (negative) answers in either tone, the same scenarios in order.
        direction: fitted on other scenarios.
    """
    cw, uw, cp, up = (rows @ direction for rows in (warm.positive, warm.negative, plain.positive, plain.negative))
    sigma = float(spread(np.stack([cw, cp]), np.stack([uw, up])).mean())
    return Factorial(
        caring=mean_interval(((cw - uw) + (cp - up)) / 2 / sigma),
        tone=mean_interval(((cw - cp) + (uw - up)) / 2 / sigma),
        interaction=mean_interval(((cw - uw) - (cp - up)) / sigma),
    )
