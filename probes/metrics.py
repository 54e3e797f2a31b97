"""How well scores separate two sides, for many score sets at once: arrays [set, …, scenario] in, [set, …] out.

Scores are held-out signed distances from the training threshold (0), one a scenario and side.
"""

import numpy as np
from jaxtyping import Float
from scipy import special, stats

FPR = 0.05
BISECTIONS = 15  # of 14 log units: to four parts in ten thousand


def auroc(
    positive: Float[np.ndarray, "*batch p"], negative: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """P(positive > negative) + ½ P(equal), over all cross pairs."""
    n_pos, n_neg = positive.shape[-1], negative.shape[-1]
    ranks = stats.rankdata(np.concatenate([positive, negative], axis=-1), axis=-1)
    return (ranks[..., :n_pos].sum(axis=-1) - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def spread(
    positive: Float[np.ndarray, "*batch p"], negative: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """σ: root mean of the two within-side variances (unbiased)."""
    return np.sqrt((positive.var(axis=-1, ddof=1) + negative.var(axis=-1, ddof=1)) / 2)


def dprime(
    positive: Float[np.ndarray, "*batch p"], negative: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """d′ = (mean positive − mean negative)/σ; NaN where σ is 0."""
    sigma = spread(positive, negative)
    gap = positive.mean(axis=-1) - negative.mean(axis=-1)
    return np.divide(gap, sigma, out=np.full_like(gap, np.nan), where=sigma > 0)


def paired_d(
    positive: Float[np.ndarray, "*batch s"], negative: Float[np.ndarray, "*batch s"]
) -> Float[np.ndarray, "*batch"]:
    """d_z: mean over SD of the scenarios' own differences; NaN where they do not differ."""
    difference = positive - negative
    sd = difference.std(axis=-1, ddof=1)
    mean = difference.mean(axis=-1)
    return np.divide(mean, sd, out=np.full_like(mean, np.nan), where=sd > 0)


def win_rate(
    positive: Float[np.ndarray, "*batch s"], negative: Float[np.ndarray, "*batch s"]
) -> Float[np.ndarray, "*batch"]:
    """Share of scenarios whose positive side scores above its negative side, ties ½."""
    return (positive > negative).mean(axis=-1) + (positive == negative).mean(axis=-1) / 2


def balanced_accuracy(
    positive: Float[np.ndarray, "*batch p"], negative: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """Mean share of either side on its side of the training threshold, a score of 0 counting ½."""
    hits = (positive > 0).mean(axis=-1) + (positive == 0).mean(axis=-1) / 2
    rejections = (negative < 0).mean(axis=-1) + (negative == 0).mean(axis=-1) / 2
    return (hits + rejections) / 2


def recall_at_fpr(
    positive: Float[np.ndarray, "*batch p"], limit: Float[np.ndarray, "*batch p"]
) -> Float[np.ndarray, "*batch"]:
    """Share of positive scores above the limit that 5 % of neutral texts exceed, each under its own fold's reader."""
    return (positive > limit).mean(axis=-1)


def noisy_auroc(
    positive: Float[np.ndarray, "*batch p"],
    negative: Float[np.ndarray, "*batch n"],
    sd: Float[np.ndarray, "*batch"],
) -> Float[np.ndarray, "*batch"]:
    """Expected AUROC once independent Gaussian noise of this SD is added to every score, in closed form."""
    gaps = positive[..., :, None] - negative[..., None, :]
    return special.ndtr(gaps / (np.sqrt(2) * sd[..., None, None])).mean(axis=(-2, -1))


def fragility(
    positive: Float[np.ndarray, "*batch p"], negative: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """The noise SD at which the expected AUROC has fallen half-way to ½; NaN where there is nothing to lose.

    In the units of the scores. White noise on the residual of that SD in every coordinate is the same thing, since
    readers have unit length.
    """
    area = auroc(positive, negative)
    goal = (area + 0.5) / 2
    sigma = spread(positive, negative)
    low, high = np.full_like(area, -7.0), np.full_like(area, 7.0)
    unit = np.where(sigma > 0, sigma, 1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = noisy_auroc(positive, negative, unit * np.exp(middle)) > goal
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where((area > 0.5) & (sigma > 0), unit * np.exp((low + high) / 2), np.nan)
