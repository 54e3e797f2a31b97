"""How well held-out scores separate the two sides: one code path for real directions and controls alike."""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, stats
from sklearn.base import BaseEstimator, clone

from probes import metrics
from probes.readers import Readers, fit_readers
from probes.sides import Sides


@dataclass(frozen=True, kw_only=True, slots=True)
class Separation:
    """Held-out separation of the two sides. `gap`, `sigma` and `fragility` are in the units of the scores.

    auroc: P(positive > negative), ties ½. dprime: gap/σ. dz: mean over SD of the scenarios' differences. win_rate:
    share of scenarios whose positive side scores higher. fisher: gap²/σ². accuracy: balanced, at the training
    threshold. recall: share of positive sides above what 5 % of neutral texts exceed. fragility: the noise SD at which
    the expected AUROC has fallen half-way to ½. NaN where a quantity is not estimable.
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    dprime: float
    dz: float
    win_rate: float
    fisher: float
    accuracy: float
    recall: float
    fragility: float
    gap: float
    sigma: float


NOT_ESTIMABLE = Separation(**dict.fromkeys(Separation.__dataclass_fields__, float("nan")))


def auroc(positive: Float[np.ndarray, "p"], negative: Float[np.ndarray, "n"]) -> float:
    """P(positive > negative) + ½ P(equal), over all cross pairs."""
    return float(metrics.auroc(positive[None], negative[None])[0])


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


def separation(
    positive: Float[np.ndarray, "scenario"],
    negative: Float[np.ndarray, "scenario"],
    limit: Float[np.ndarray, "scenario"] | None = None,
) -> Separation:
    """Separation from one held-out score a scenario and side.

    Args:
        limit: the score that 5 % of neutral texts exceed, under each scenario's own reader.
    """
    return separations(positive[None], negative[None], None if limit is None else limit[None])[0]


def separations(
    positive: Float[np.ndarray, "set scenario"],
    negative: Float[np.ndarray, "set scenario"],
    limit: Float[np.ndarray, "set scenario"] | None = None,
) -> list[Separation]:
    """`separation` of many score sets of the same scenarios at once."""
    area = metrics.auroc(positive, negative)
    d = metrics.dprime(positive, negative)
    columns = {
        "auroc": area,
        "dprime": d,
        "dz": metrics.paired_d(positive, negative),
        "win_rate": metrics.win_rate(positive, negative),
        "fisher": d**2,
        "accuracy": metrics.balanced_accuracy(positive, negative),
        "recall": np.full_like(area, np.nan) if limit is None else metrics.recall_at_fpr(positive, limit),
        "fragility": metrics.fragility(positive, negative),
        "gap": positive.mean(axis=-1) - negative.mean(axis=-1),
        "sigma": metrics.spread(positive, negative),
    }
    found = []
    for i in range(len(area)):
        if not np.isfinite(area[i]):
            found.append(NOT_ESTIMABLE)
            continue
        low, high = auroc_interval(float(area[i]), positive.shape[-1])
        found.append(
            Separation(auroc_low=low, auroc_high=high, **{name: float(values[i]) for name, values in columns.items()})
        )
    return found


def by_fold(
    scores: Float[np.ndarray, "reader row"], readers: Readers, method: str, slice_: str, folds: Int[np.ndarray, "row"]
) -> Float[np.ndarray, "row"]:
    """Each row's score by the reader of this method and slice that has not seen the row's fold.

    Args:
        scores: `Readers.scores` of the rows.
        folds: the fold of every row's scenario.
    """
    return scores[readers.rows(method, slice_, folds), np.arange(len(folds))]


def evaluate(
    positive: Float[np.ndarray, "scenario d"],
    negative: Float[np.ndarray, "scenario d"],
    folds: Int[np.ndarray, "scenario"],
    *,
    method: str = "mass-mean",
    test: Sides | None = None,
    neutral: Float[np.ndarray, "text d"] | None = None,
    seed: int = 0,
) -> Separation:
    """Held-out separation of two sides by one method: refit, or frozen where `test` comes from another checkpoint.

    Args:
        positive, negative: residuals of the sides, one row a scenario (average paraphrases first).
        folds: the fold of every scenario; each is scored by a reader fitted on the other folds.
        method: one of `probes.readers.METHODS`.
        test: what is scored, the same scenarios in order; the training sides without.
        neutral: residuals of neutral texts, for the recall.

    Raises:
        ValueError: shapes that differ, values that are not finite, an unknown method, or fewer than two folds.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> a, b = rng.normal(size=(2, 40, 8)); a[:, 0] += 4
        >>> evaluate(a, b, np.arange(40) % 5).auroc > 0.95
        True
    """
    train = Sides(positive=np.asarray(positive, dtype=np.float64), negative=np.asarray(negative, dtype=np.float64))
    scored = test or train
    if train.positive.shape != train.negative.shape or len(folds) != len(train.positive):
        raise ValueError(f"sides of {train.positive.shape} and {train.negative.shape} with {len(folds)} folds")
    if len(np.unique(folds)) < 2:
        raise ValueError("held-out scores need at least two folds")
    for rows in (train.positive, train.negative, scored.positive, scored.negative):
        if not np.isfinite(rows).all():
            raise ValueError("residuals must be finite")
    readers = fit_readers(train, {"all": np.arange(len(folds))}, folds, methods=(method,), seed=seed)
    plus, minus = (
        by_fold(readers.scores(rows), readers, method, "all", folds) for rows in (scored.positive, scored.negative)
    )
    limit = None
    if neutral is not None:
        limit = neutral_limits(readers, neutral)[readers.rows(method, "all", folds)]
    return separation(plus, minus, limit)


def neutral_limits(readers: Readers, neutral: Float[np.ndarray, "text d"]) -> Float[np.ndarray, "reader"]:
    """The score that 5 % of neutral texts exceed, for every reader."""
    return np.quantile(readers.scores(neutral), 1 - metrics.FPR, axis=1)


def cross_scores(
    positive: Any, negative: Any, folds: Int[np.ndarray, "scenario"], estimator: BaseEstimator
) -> tuple[Float[np.ndarray, "scenario"], Float[np.ndarray, "scenario"]]:
    """Held-out scores of both sides: each scenario is scored by an estimator fitted on the other folds.

    Args:
        positive, negative: one row a scenario and side: features [scenario, feature], or texts [scenario].
        folds: the fold of every scenario.
        estimator: cloned for every fold; its decision function is the score, so its own threshold is taken off. Told
            the scenarios as `groups` where its `fit` takes them.
    """
    plus, minus = np.zeros(len(folds)), np.zeros(len(folds))
    grouped = "groups" in signature(estimator.fit).parameters
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        y = np.repeat([1, 0], train.sum())
        scenarios = {"groups": np.tile(np.flatnonzero(train), 2)} if grouped else {}
        fitted = clone(estimator).fit(np.concatenate([positive[train], negative[train]]), y, **scenarios)
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
