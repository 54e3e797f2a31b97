"""Unbiased size and cosine of mean difference vectors (crossnobis): products of *different* scenarios only.

|mean δ|² counts each scenario's own noise and reads too large; a sum over s ≠ t does not, because two scenarios share
no noise. Every quantity here comes with its delete-one values, from which inference.py makes intervals.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Product:
    """An unbiased inner product of two mean vectors, and its values with each scenario left out."""

    value: float
    without: Float[np.ndarray, "scenario"]

    def scaled(self, factor: float) -> "Product":
        """The same in other units."""
        return Product(value=self.value * factor, without=self.without * factor)


def cross_product(a: Float[np.ndarray, "scenario d_model"], b: Float[np.ndarray, "scenario d_model"]) -> Product:
    """1/(K(K−1)) Σ_{s≠t} a_s·b_t: unbiased for the product of the two mean vectors, also where a_s, b_s share noise.

    With a = b this is the crossnobis squared size D² (METHOD §3; Walther et al. 2016, eq. 9, with M = I). It can be
    negative, and then stays so.

    Args:
        a, b: difference vectors of the same scenarios in the same order, two or more (three for `without`).

    Returns:
        The product, in the squared units of the inputs, with its K delete-one values.
    """
    n = len(a)
    if n < 3:
        raise ValueError(f"needs at least 3 scenarios, got {n}")
    total_a, total_b = a.sum(axis=0), b.sum(axis=0)
    own = np.einsum("sd,sd->s", a, b)
    whole = float(total_a @ total_b)
    left = whole - a @ total_b - b @ total_a + own  # (Σa − a_i)·(Σb − b_i)
    return Product(
        value=(whole - own.sum()) / (n * (n - 1)),
        without=(left - (own.sum() - own)) / ((n - 1) * (n - 2)),
    )


def signed_root(value: float) -> float:
    """√ that keeps the sign: the size that belongs to a squared size which may be negative."""
    return float(np.sign(value) * np.sqrt(abs(value)))


def cosine(ab: Product, aa: Product, bb: Product) -> Product:
    """Unbiased cosine of two mean vectors with its delete-one values; NaN where a squared size is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = ab.value / np.sqrt(aa.value * bb.value) if aa.value > 0 and bb.value > 0 else np.nan
        product = np.where((aa.without > 0) & (bb.without > 0), aa.without * bb.without, np.nan)
        return Product(value=float(value), without=ab.without / np.sqrt(product))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Alignment:
    """Coordinates in which the same texts lie alike in two checkpoints, on the leading components of those texts."""

    basis_parent: Float[np.ndarray, "d k"]
    basis_child: Float[np.ndarray, "d k"]

    def parent(self, vectors: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch k"]:
        """The parent's vectors in the common coordinates."""
        return vectors @ self.basis_parent

    def child(self, vectors: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch k"]:
        """The child's vectors in the common coordinates."""
        return vectors @ self.basis_child


def align(parent: Float[np.ndarray, "text d"], child: Float[np.ndarray, "text d"]) -> Alignment | None:
    """Orthogonal Procrustes on the same texts: R = argmin |H_A − H_B R|, within n/5 principal components of each.

    Args:
        parent, child: centred residuals of the same neutral texts.

    Returns:
        The alignment; None with fewer than ten texts, which determine no rotation worth the name.
    """
    k = min(len(parent) // 5, parent.shape[1])
    if k < 2:
        return None
    bases = [_leading(rows, k) for rows in (parent, child)]
    turn, _ = orthogonal_procrustes(child @ bases[1], parent @ bases[0])
    return Alignment(basis_parent=bases[0], basis_child=bases[1] @ turn)


def _leading(rows: Float[np.ndarray, "text d"], k: int) -> Float[np.ndarray, "d k"]:
    """The leading principal axes, from the texts' Gram matrix (texts are fewer than dimensions)."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return rows.T @ vectors[:, : -k - 1 : -1] / np.sqrt(values[: -k - 1 : -1])
