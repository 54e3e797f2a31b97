"""Sign-flip tests with refit: what a reader would reach if sides were named at random, over all slices and sites.

Under the null a scenario's two sides are exchangeable, so its difference δ_s may change sign. Every flip is refitted:
the direction of fold f is Σ_{t∉f} ε_t δ_t, and scenario s of fold f reads ε_s δ_s along it. All of that is in the Gram
matrix of the differences, so that a thousand refits are a few matrix products. The same flips serve every site and
slice, which is what a max-T adjustment needs (Westfall & Young 1993).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

DRAWS = 1000


def draw_signs(n: int, draws: int, seed: int) -> Float[np.ndarray, "draw scenario"]:
    """Random signs, the first row all +1: the labels as they are."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws + 1, n))
    signs[0] = 1.0
    return signs


def held_out_differences(
    gram: Float[np.ndarray, "s s"], folds: Int[np.ndarray, "s"], signs: Float[np.ndarray, "draw s"]
) -> Float[np.ndarray, "draw s"]:
    """Held-out pair differences along the refitted unit mass-mean direction, for every row of signs.

    Args:
        gram: δ_s·δ_t of one slice's scenarios.
        folds: the fold of every scenario.
        signs: ±1 for each scenario.
    """
    names = np.unique(folds)
    flipped = (
        signs[:, None, :] * (folds[None, :] == names[:, None])[None]
    )  # [draw, fold, s]: a fold's part of Σ ε_t δ_t
    along = flipped.reshape(-1, len(folds)) @ gram
    along = along.reshape(flipped.shape)  # along[:, g, s] = δ_s · Σ_{t in g} ε_t δ_t
    total = along.sum(axis=1)
    found = np.empty_like(total)
    products = np.einsum("dgs,dhs->dgh", flipped, along)  # between the folds' parts
    for i, name in enumerate(names):
        others = np.arange(len(names)) != i
        squared = products[:, others][:, :, others].sum(axis=(1, 2))
        held = folds == name
        length = np.sqrt(np.maximum(squared, 1e-300))
        found[:, held] = signs[:, held] * (total - along[:, i])[:, held] / length[:, None]
    return found


def t_statistics(differences: Float[np.ndarray, "draw s"]) -> Float[np.ndarray, "draw"]:
    """Mean over its standard error; 0 where all differences are equal."""
    sd = differences.std(axis=1, ddof=1)
    mean = differences.mean(axis=1) * np.sqrt(differences.shape[1])
    return np.divide(mean, sd, out=np.zeros_like(mean), where=sd > 0)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FlipTest:
    """Statistics of the labels as they are, with one-sided p-values: each by itself, and adjusted over all of them."""

    statistic: Float[np.ndarray, "test"]
    p: Float[np.ndarray, "test"]
    p_adjusted: Float[np.ndarray, "test"]


def max_t(statistics: Float[np.ndarray, "draw test"]) -> FlipTest:
    """p = (1 + draws at least as large)/(1 + draws); adjusted: step-down over the largest statistics.

    Args:
        statistics: row 0 for the labels as they are, the others for random signs, the same signs for all tests.
    """
    observed, null = statistics[0], statistics[1:]
    p = (1 + (null >= observed).sum(axis=0)) / (1 + len(null))
    order = np.argsort(-observed, kind="stable")
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]  # over each test and all smaller ones
    stepped = (1 + (largest >= observed[order]).sum(axis=0)) / (1 + len(null))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return FlipTest(statistic=observed, p=p, p_adjusted=adjusted)
