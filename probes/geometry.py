"""Unbiased size and cosine of mean difference vectors (crossnobis): products of *different* scenarios only.

|mean δ|² counts each scenario's own noise and reads too large; a sum over s ≠ t does not, because two scenarios share
no noise. Every quantity here comes with its delete-one values, from which inference.py makes intervals.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


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
