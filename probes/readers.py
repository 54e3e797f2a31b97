"""All readers of one site: every method, slice and fold as one matrix of unit vectors, so that one product scores all.

A reader is fitted on the scenarios of a slice (a domain, or all of them) outside one fold. Held-out, frozen,
cross-domain, cross-language and cross-checkpoint readings differ only in which rows of which checkpoint are scored by
which readers: `Readers.scores`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from probes.ccs import solve_ccs
from probes.logistic import choose_c, solve_logistic, span
from probes.shrinkage import LowRankCovariance, ledoit_wolf, within_class
from probes.sides import Sides, balanced_folds

METHODS = ("mass-mean", "whitened", "lda", "logistic", "pca", "ccs")
CLOSED_FORM = ("mass-mean", "whitened", "lda", "pca")
INNER_FOLDS = 3
MAX_INNER = 150  # scenarios of the training part that choose the logistic penalty
MAX_SEARCHED = 150  # scenarios of the training part that CCS searches
Key = tuple[str, str, int]  # method, slice, fold
Fitted = tuple[np.ndarray, float, float]  # unit direction, offset, gain


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Readers:
    """Unit directions and thresholds. A score is the signed distance from the threshold, in the residual's units.

    `gain` times a score is the fitted log-odds of the logistic readers (1 for the others).
    """

    keys: tuple[Key, ...]
    direction: Float[np.ndarray, "reader d"]
    offset: Float[np.ndarray, "reader"]
    gain: Float[np.ndarray, "reader"]

    def rows(self, method: str, slice_: str, folds: Sequence[int] | np.ndarray) -> Int[np.ndarray, "fold"]:
        """Row numbers of a method's readers of a slice, one a fold."""
        index = {key: i for i, key in enumerate(self.keys)}
        return np.asarray([index[method, slice_, int(fold)] for fold in folds])

    def scores(self, residual: Float[np.ndarray, "row d"]) -> Float[np.ndarray, "reader row"]:
        """Every reader's score of every row."""
        return self.direction @ residual.T + self.offset[:, None]


def fit_readers(
    sides: Sides,
    slices: dict[str, np.ndarray],
    folds: Int[np.ndarray, "scenario"],
    *,
    methods: Sequence[str] = METHODS,
    root: Sides | None = None,
    units: Sequence[str] | None = None,
    seed: int = 0,
) -> Readers:
    """Fit every method on every slice, leaving out one fold at a time.

    Args:
        sides: one site's residuals [scenario, d].
        slices: scenario numbers of each slice.
        folds: the fold of every scenario.
        methods: which of METHODS.
        root: the lineage's root at this site, for the one covariance all checkpoints share; this checkpoint without.
        units: names of the scenarios, so that inner folds do not hang on their order.
        seed: seeds inner folds and the starts of CCS.

    Returns:
        One reader for each method, slice and fold, not a number where there is nothing to fit. Signs follow the
        training labels; where a method sees none (pca, ccs) its sign is set by them afterwards.

    Raises:
        ValueError: no method of this name.
    """
    _known(methods)
    names = list(units) if units is not None else [str(i) for i in range(len(folds))]
    found: dict[Key, Fitted] = {}
    searched: dict[Key, Sides] = {}
    for name, members in slices.items():
        for fold in np.unique(folds[members]):
            train = members[folds[members] != fold]
            part, shared = sides.rows(train), (root or sides).rows(train)
            for method in methods:
                if method == "ccs":  # a comparison row: a part of the scenarios does
                    few = np.random.default_rng([seed, len(train)]).permutation(len(train))[:MAX_SEARCHED]
                    searched[method, name, int(fold)] = part.rows(np.sort(few))
                else:
                    inner = [names[i] for i in train]
                    found[method, name, int(fold)] = _fit(method, part, shared, inner, seed)
    found |= _ccs(searched, seed)
    directions, offsets, gains = (np.asarray(v) for v in zip(*found.values(), strict=True))
    return Readers(keys=tuple(found), direction=directions, offset=offsets, gain=gains)


def fit_reader(sides: Sides, method: str, *, seed: int = 0) -> tuple[Float[np.ndarray, "d"], float]:
    """One method on all scenarios given: its unit direction, and the offset that puts the threshold at 0.

    Raises:
        ValueError: no method of this name, or sides that give it nothing to fit.
    """
    _known((method,))
    if method == "ccs":
        vector, offset, _ = _ccs({(method, "all", 0): sides}, seed)[method, "all", 0]
    else:
        vector, offset, _ = _fit(method, sides, sides, [str(i) for i in range(len(sides.positive))], seed)
    if not np.isfinite(vector).all() or not vector.any():
        raise ValueError(f"{method}: the sides do not differ, or are too few")
    return vector, offset


def _known(methods: Sequence[str]) -> None:
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise ValueError(f"no method {sorted(unknown)[0]!r}; methods: {', '.join(METHODS)}")


def _fit(method: str, part: Sides, shared: Sides, units: list[str], seed: int) -> Fitted:
    """One reader; not a number throughout where the rows give the method nothing to fit."""
    try:
        if method == "logistic":
            return fit_logistic(part, units, seed)
        return _closed(method, part, shared)
    except ValueError:
        return np.full(part.positive.shape[1], np.nan), float("nan"), 1.0


def _closed(method: str, part: Sides, shared: Sides) -> Fitted:
    delta = part.difference.mean(axis=0)
    if method == "mass-mean":
        vector = delta
    elif method == "whitened":
        vector = covariance(shared).solve(delta[None])[0]
    elif method == "lda":
        vector = within_class([part.negative, part.positive]).solve(delta[None])[0]
    else:
        basis_coordinates, basis = span(part.difference)
        _, _, right = np.linalg.svd(basis_coordinates, full_matrices=False)
        vector = basis @ right[0]
        vector = vector if vector @ delta >= 0 else -vector
    return _unit(vector, part)


def covariance(sides: Sides) -> LowRankCovariance:
    """The spread of the scenarios' differences about their mean, shrunk (METHOD §1: it holds no signal)."""
    return ledoit_wolf(sides.difference)


def _unit(vector: np.ndarray, part: Sides) -> Fitted:
    """Unit direction and the offset that puts 0 half way between the sides' training means."""
    norm = float(np.linalg.norm(vector))
    unit = vector / norm if norm > 0 else vector
    return unit, -float(unit @ (part.positive + part.negative).mean(axis=0)) / 2, 1.0


def fit_logistic(part: Sides, units: Sequence[str], seed: int) -> Fitted:
    """Logistic regression on standardised features, its penalty chosen over inner folds of the scenarios.

    Standardising sees no labels, so the inner folds share it.

    Returns:
        Unit direction and offset in the residual's own coordinates, and the gain that makes a score the log-odds.

    Raises:
        ValueError: fewer scenarios than inner folds.
    """
    inner = balanced_folds(units, ["" for _ in units], INNER_FOLDS, seed)
    rows = np.concatenate([part.positive, part.negative])
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0.0] = 1.0
    labels = np.repeat([1.0, -1.0], len(part.positive))
    features, basis = span((rows - mean) / scale)
    few = np.arange(len(inner)) if len(inner) <= MAX_INNER else _spread_out(inner)
    both = np.concatenate([few, few + len(inner)])
    coordinates = features if len(few) == len(inner) else span(features[both])[0]
    c = choose_c(coordinates, labels[both], np.tile(inner[few], 2))
    w, b = solve_logistic(features, labels, np.ones((1, len(rows))), np.asarray([c]))
    vector = (basis @ w[0]) / scale
    intercept = float(b[0] - vector @ mean)
    norm = float(np.linalg.norm(vector)) or 1.0
    return vector / norm, intercept / norm, norm


def _spread_out(inner: np.ndarray) -> np.ndarray:
    """MAX_INNER scenarios, as many of each inner fold."""
    return np.sort(np.concatenate([np.flatnonzero(inner == f)[: MAX_INNER // INNER_FOLDS] for f in np.unique(inner)]))


def _ccs(searched: dict[Key, Sides], seed: int) -> dict[Key, Fitted]:
    """All searches of one training size at once."""
    found: dict[Key, Fitted] = {}
    for size in {len(s.positive) for s in searched.values()}:
        keys = [key for key, s in searched.items() if len(s.positive) == size]
        prepared = []
        for key in keys:
            rows = np.concatenate([searched[key].positive, searched[key].negative])
            mean = rows.mean(axis=0)
            scale = float(np.sqrt(((rows - mean) ** 2).sum(axis=1).mean())) or 1.0
            features, basis = span((rows - mean) / scale)
            # A row's features are made as long as there are of them, so that starts of one size suit all.
            prepared.append((features * np.sqrt(features.shape[1]), basis, mean, scale))
        padded = np.zeros((len(keys), 2 * size, max(f.shape[1] for f, *_ in prepared)))
        for i, (features, *_) in enumerate(prepared):
            padded[i, :, : features.shape[1]] = features
        w, b = solve_ccs(padded[:, :size], padded[:, size:], seed=seed)
        for i, (key, (features, basis, mean, scale)) in enumerate(zip(keys, prepared, strict=True)):
            vector = basis @ w[i, : features.shape[1]] * (np.sqrt(features.shape[1]) / scale)
            sign = 1.0 if vector @ searched[key].difference.mean(axis=0) >= 0 else -1.0
            norm = float(np.linalg.norm(vector)) or 1.0
            found[key] = (sign * vector / norm, sign * float(b[i] - vector @ mean) / norm, 1.0)
    return found
