"""Ledoit-Wolf covariances as they are used: a multiple of the identity (or a diagonal) plus few rows, never a matrix.

A shrunk covariance of n rows in d features is Σ = diag(base) + RᵀR with R [n, d]. Its inverse acts through an n × n
system (Woodbury), so that nothing of size d × d is made.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LowRankCovariance:
    """Σ = diag(base) + rowsᵀ·rows."""

    base: Float[np.ndarray, "d"]
    rows: Float[np.ndarray, "n d"]

    def solve(self, vectors: Float[np.ndarray, "v d"]) -> Float[np.ndarray, "v d"]:
        """Σ⁻¹ applied to each vector."""
        scaled = self.rows / self.base
        inner = np.eye(len(self.rows)) + scaled @ self.rows.T
        plain = vectors / self.base
        return plain - np.linalg.solve(inner, self.rows @ plain.T).T @ scaled


def shrinkage(centred: Float[np.ndarray, "n d"]) -> float:
    """The Ledoit-Wolf intensity of centred rows (Ledoit & Wolf 2004; as scikit-learn's), from their Gram matrix."""
    n, d = centred.shape
    gram = centred @ centred.T
    norms = np.diag(gram)
    trace = norms.sum() / n
    mean = trace / d
    squared = float((gram**2).sum()) / n**2  # |S|² = |XXᵀ|²/n²
    beta = (float((norms**2).sum()) / n - squared) / (d * n)
    delta = (squared - 2 * mean * trace + d * mean**2) / d
    return 0.0 if min(beta, delta) == 0 else float(min(beta, delta) / delta)


def ledoit_wolf(rows: Float[np.ndarray, "n d"]) -> LowRankCovariance:
    """The shrunk covariance of rows about their mean.

    Raises:
        ValueError: rows that all coincide.
    """
    centred = rows - rows.mean(axis=0)
    n, d = rows.shape
    rho = shrinkage(centred)
    mean = float((centred**2).sum()) / (n * d)
    if mean == 0.0 or rho == 0.0:
        raise ValueError("no covariance: fewer than two different rows")
    return LowRankCovariance(base=np.full(d, rho * mean), rows=np.sqrt((1 - rho) / n) * centred)


def within_class(classes: list[Float[np.ndarray, "n d"]]) -> LowRankCovariance:
    """scikit-learn's LDA covariance (shrinkage="auto"): per class, shrunk on standardised features, then averaged.

    Weights are the classes' shares of the rows.

    Raises:
        ValueError: a feature that is constant in every class.
    """
    total = sum(len(c) for c in classes)
    base, parts = np.zeros(classes[0].shape[1]), []
    for rows in classes:
        share = len(rows) / total
        centred = rows - rows.mean(axis=0)
        scale = np.sqrt((centred**2).mean(axis=0))
        scale[scale == 0.0] = 1.0
        standard = centred / scale
        rho = shrinkage(standard)
        mean = float((standard**2).sum()) / standard.size
        base += share * rho * mean * scale**2
        parts.append(np.sqrt(share * (1 - rho) / len(rows)) * centred)
    if not (base > 0).all():
        raise ValueError("no covariance: too few different rows in a class")
    return LowRankCovariance(base=base, rows=np.concatenate(parts))
