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
INNER_FOLDS = 4
Key = tuple[str, str, int]  # method, slice, fold


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Readers:
    """Unit directions and thresholds. A score is the signed distance from the threshold, in the residual's units.

    `gain` times a score is the fitted log-odds of the logistic readers (1 for the others).
    """

    keys: tuple[Key, ...]
    direction: Float[np.ndarray, "reader d"]
    offset: Float[np.ndarray, "reader"]
    gain: Float[np.ndarray, "reader"]

    def rows(self, method: str, slice_: str, folds: Sequence[int]) -> Int[np.ndarray, "fold"]:
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
        One reader for each method, slice and fold. Signs follow the training labels; where a method sees none
        (pca, ccs) its sign is set by them afterwards.

    Raises:
        ValueError: no method of this name, or a slice that has nothing to fit in a fold.
    """
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise ValueError(f"no method {sorted(unknown)[0]!r}; methods: {', '.join(METHODS)}")
    names = list(units) if units is not None else [str(i) for i in range(len(folds))]
    found: dict[Key, tuple[np.ndarray, float, float]] = {}
    searched: list[tuple[Key, np.ndarray, np.ndarray]] = []
    for name, members in slices.items():
        for fold in np.unique(folds[members]):
            train = members[folds[members] != fold]
            part = sides.rows(train)
            shared = (root or sides).rows(train)
            for method in methods:
                if method == "ccs":
                    searched.append(((method, name, int(fold)), part.positive, part.negative))
                elif method == "logistic":
                    inner = balanced_folds([names[i] for i in train], ["" for _ in train], INNER_FOLDS, seed)
                    found[method, name, int(fold)] = _logistic(part, inner)
                else:
                    found[method, name, int(fold)] = _closed(method, part, shared)
    found |= _ccs(searched, seed)
    keys = tuple(found)
    directions, offsets, gains = (np.asarray(v) for v in zip(*found.values(), strict=True))
    return Readers(keys=keys, direction=directions, offset=offsets, gain=gains)


def _closed(method: str, part: Sides, shared: Sides) -> tuple[np.ndarray, float, float]:
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


def _unit(vector: np.ndarray, part: Sides) -> tuple[np.ndarray, float, float]:
    """Unit direction and the offset that puts 0 half way between the sides' training means."""
    norm = float(np.linalg.norm(vector))
    unit = vector / norm if norm > 0 else vector
    return unit, -float(unit @ (part.positive + part.negative).mean(axis=0)) / 2, 1.0


def _logistic(part: Sides, inner: np.ndarray) -> tuple[np.ndarray, float, float]:
    rows = np.concatenate([part.positive, part.negative])
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0.0] = 1.0
    labels = np.repeat([1.0, -1.0], len(part.positive))
    features, basis = span((rows - mean) / scale)
    c = choose_c(features, labels, np.tile(inner, 2))
    w, b = solve_logistic(features, labels, np.ones((1, len(rows))), np.asarray([c]))
    vector = (basis @ w[0]) / scale
    intercept = float(b[0] - vector @ mean)
    norm = float(np.linalg.norm(vector)) or 1.0
    return vector / norm, intercept / norm, norm


def _ccs(searched: list[tuple[Key, np.ndarray, np.ndarray]], seed: int) -> dict[Key, tuple[np.ndarray, float, float]]:
    """All searches of one training size at once."""
    found: dict[Key, tuple[np.ndarray, float, float]] = {}
    for size in {p.shape[0] for _, p, _ in searched}:
        group = [s for s in searched if s[1].shape[0] == size]
        prepared = []
        for _, positive, negative in group:
            rows = np.concatenate([positive, negative])
            mean = rows.mean(axis=0)
            scale = float(np.sqrt(((rows - mean) ** 2).sum(axis=1).mean())) or 1.0
            features, basis = span((rows - mean) / scale)
            prepared.append((features, basis, mean, scale))
        width = max(f.shape[1] for f, *_ in prepared)
        padded = np.zeros((len(group), 2 * size, width))
        for i, (features, *_) in enumerate(prepared):
            padded[i, :, : features.shape[1]] = features * np.sqrt(features.shape[1])
        w, b = solve_ccs(padded[:, :size], padded[:, size:], seed=seed)
        for i, ((key, positive, negative), (features, basis, mean, scale)) in enumerate(
            zip(group, prepared, strict=True)
        ):
            n_features = features.shape[1]
            vector = basis @ w[i, :n_features] * (np.sqrt(n_features) / scale)
            sign = 1.0 if vector @ (positive - negative).mean(axis=0) >= 0 else -1.0
            norm = float(np.linalg.norm(vector)) or 1.0
            found[key] = (sign * vector / norm, sign * float(b[i] - vector @ mean) / norm, 1.0)
    return found
