"""How well held-out scores separate the two sides: one code path for real directions and controls alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, stats
from sklearn.base import BaseEstimator, clone

from probes.sides import Sides


@dataclass(frozen=True, kw_only=True, slots=True)
class Separation:
    """Held-out separation of the two sides. `gap` and `sigma` are in the units of the scores."""

    auroc: float
    auroc_low: float
    auroc_high: float
    dprime: float
    win_rate: float
    gap: float
    sigma: float


def auroc(positive: Float[np.ndarray, "p"], negative: Float[np.ndarray, "n"]) -> float:
    """P(positive > negative) + ½ P(equal), over all cross pairs."""
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    n_pos, n_neg = len(positive), len(negative)
    return float((ranks[:n_pos].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def auroc_interval(area: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score-type limits with the Hanley–McNeil variance, n rows a side (Newcombe 2006, method 5).

    Keeps a positive width at an area of 0 or 1, where Wald and bootstrap intervals collapse. Rows of a scenario are
    treated as unrelated, which widens it where they agree.
    """
    z = float(stats.norm.ppf(0.5 + level / 2))

    def spread(t: float) -> float:
        return z * np.sqrt(max(t * (1 - t) * (1 + (n - 1) * ((1 - t) / (2 - t) + t / (1 + t))), 0.0)) / n

    def lower(value: float) -> float:
        if value <= 0:
            return 0.0
        # At 1 itself the variance is 0, so that 1 solves the equation too; the limit is the root below it.
        return float(optimize.brentq(lambda t: value - t - spread(t), 0.0, min(value, 1 - 1e-9)))

    return lower(area), 1 - lower(1 - area)


def separation(positive: Float[np.ndarray, "scenario"], negative: Float[np.ndarray, "scenario"]) -> Separation:
    """Separation from one held-out score a scenario and side.

    d′ = gap/σ, σ² the mean of the two within-side variances (unbiased); NaN where σ is 0.
    """
    area = auroc(positive, negative)
    low, high = auroc_interval(area, len(positive))
    gap = float(positive.mean() - negative.mean())
    sigma = float(np.sqrt((positive.var(ddof=1) + negative.var(ddof=1)) / 2))
    wins = float(np.mean(positive > negative) + np.mean(positive == negative) / 2)
    return Separation(
        auroc=area,
        auroc_low=low,
        auroc_high=high,
        dprime=gap / sigma if sigma > 0 else float("nan"),
        win_rate=wins,
        gap=gap,
        sigma=sigma,
    )


def cross_scores(
    positive: Any, negative: Any, folds: Int[np.ndarray, "scenario"], estimator: BaseEstimator
) -> tuple[Float[np.ndarray, "scenario"], Float[np.ndarray, "scenario"]]:
    """Held-out scores of both sides: each scenario is scored by an estimator fitted on the other folds.

    Args:
        positive, negative: one row a scenario and side: features [scenario, feature], or texts [scenario].
        folds: the fold of every scenario.
        estimator: cloned for every fold; its decision function is the score, so its own threshold is taken off.
    """
    plus, minus = np.zeros(len(folds)), np.zeros(len(folds))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        y = np.repeat([1, 0], train.sum())
        fitted = clone(estimator).fit(np.concatenate([positive[train], negative[train]]), y)
        plus[test] = fitted.decision_function(positive[test])
        minus[test] = fitted.decision_function(negative[test])
    return plus, minus


def mass_mean_scores(
    train: Sides, test: Sides, folds: Int[np.ndarray, "scenario"], signs: Float[np.ndarray, "draw scenario"]
) -> tuple[Float[np.ndarray, "draw scenario"], Float[np.ndarray, "draw scenario"]]:
    """Cross-fitted mass-mean scores for many relabellings at once.

    Args:
        train: sides the direction is fitted on; test: sides that are scored (the same scenarios; another checkpoint's
            for a frozen reading).
        signs: +1 keeps a scenario's labels, −1 swaps them; a row of ones is the real direction.

    Returns:
        Scores of the (relabelled) positive and negative sides, centred on the training midpoint, per unit length.
    """
    delta = train.difference
    shape = signs.shape
    positive, negative = np.zeros(shape), np.zeros(shape)
    for fold in np.unique(folds):
        held, kept = folds == fold, folds != fold
        direction = signs[:, kept] @ delta[kept] / kept.sum()
        unit = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-300)
        middle = unit @ (train.positive[kept] + train.negative[kept]).mean(axis=0) / 2
        plus = unit @ test.positive[held].T - middle[:, None]
        minus = unit @ test.negative[held].T - middle[:, None]
        swapped = signs[:, held] < 0
        positive[:, held] = np.where(swapped, minus, plus)
        negative[:, held] = np.where(swapped, plus, minus)
    return positive, negative
