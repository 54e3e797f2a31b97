"""Intervals and p-values with the scenario as the unit: jackknife, Fieller, bootstrap-t, Holm."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from probes.geometry import Product

POWER = 0.80


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with its confidence limits, and the two-sided p of the stated null (NaN where none was tested)."""

    value: float
    low: float
    high: float
    p: float = float("nan")


NOT_ESTIMABLE = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))


def jackknife_covariance(*without: Float[np.ndarray, "scenario"]) -> Float[np.ndarray, "q q"]:
    """Jackknife covariance of statistics from their delete-one values: (K−1)/K Σ (θ_(i) − θ_(·))(…)ᵀ."""
    values = np.stack(without)
    n = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    return (n - 1) / n * centred @ centred.T


def jackknife_error(without: Float[np.ndarray, "scenario"]) -> float:
    """Jackknife standard error of a statistic from its delete-one values."""
    return float(np.sqrt(jackknife_covariance(without)[0, 0]))


def t_quantile(probability: float, df: int | float) -> float:
    """Quantile of Student's t."""
    return float(special.stdtrit(df, probability))


def two_sided(t: float, df: int | float) -> float:
    """Two-sided p of a t statistic."""
    return float(2 * special.stdtr(df, -abs(t)))


def smallest_detectable(error: float, df: int | float, *, level: float = 0.95) -> float:
    """The change that a two-sided test at 1 − level finds in 80 of 100 studies: (t_{level} + t_{.80})·error."""
    return (t_quantile(0.5 + level / 2, df) + t_quantile(POWER, df)) * error


def t_limits(value: float, error: float, df: int | float, *, level: float = 0.95) -> Estimate:
    """Value ± t·error."""
    reach = t_quantile(0.5 + level / 2, df) * error
    return Estimate(value=value, low=value - reach, high=value + reach)


def jackknife_interval(statistic: Product, *, null: float = 0.0, level: float = 0.95) -> Estimate:
    """Value ± t·SE with the jackknife SE and K−1 degrees of freedom; p against `null`."""
    if not (np.isfinite(statistic.value) and np.isfinite(statistic.without).all()):
        return NOT_ESTIMABLE
    n = len(statistic.without)
    error = jackknife_error(statistic.without)
    if error == 0.0:
        p = 1.0 if statistic.value == null else 0.0
    else:
        p = two_sided((statistic.value - null) / error, n - 1)
    limits = t_limits(statistic.value, error, n - 1, level=level)
    return Estimate(value=limits.value, low=limits.low, high=limits.high, p=p)


def mean_interval(values: Float[np.ndarray, "scenario"], *, level: float = 0.95) -> Estimate:
    """Mean with its t interval; p against 0."""
    n = len(values)
    return jackknife_interval(
        Product(value=float(values.mean()), without=(values.sum() - values) / (n - 1)), level=level
    )


def bootstrap_t(
    values: Float[np.ndarray, "*batch scenario"], *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Studentised bootstrap limits of the mean over scenarios (Efron & Tibshirani 1993, §12.5), many means at once.

    The percentile bootstrap covers too little with few scenarios (.88 at 8, .93 at 20 for a nominal .95); resampling
    the t statistic does not. One resample of scenarios serves the whole batch.
    """
    n = values.shape[-1]
    picks = np.random.default_rng(seed).integers(0, n, (draws, n))
    counts = np.zeros((draws, n))
    np.add.at(counts, (np.arange(draws)[:, None], picks), 1.0)
    mean, error = values.mean(axis=-1), values.std(axis=-1, ddof=1) / np.sqrt(n)
    centred = values - mean[..., None]
    means = centred @ counts.T / n
    variances = (np.square(centred) @ counts.T / n - means**2) * n / (n - 1)
    scale = np.sqrt(np.maximum(variances, 0.0) / n)
    t = np.divide(means, scale, out=np.zeros_like(means), where=scale > 0)
    low, high = np.quantile(t, [0.5 - level / 2, 0.5 + level / 2], axis=-1)
    return mean - high * error, mean - low * error


def ratio_interval(top: Product, bottom: Product, *, level: float = 0.95) -> Estimate:
    """top/bottom with Fieller's interval from jackknife covariances; p against a ratio of 1.

    The interval is every ratio R that the jackknife test of top − R·bottom = 0 does not reject. Not estimable where
    the denominator's own interval includes 0: then no ratio can be excluded.
    """
    n = len(top.without)
    (v_tt, v_tb), (_, v_bb) = jackknife_covariance(top.without, bottom.without)
    t = t_quantile(0.5 + level / 2, n - 1)
    a = bottom.value**2 - t**2 * v_bb
    if bottom.value <= 0 or a <= 0:
        return NOT_ESTIMABLE
    b = top.value * bottom.value - t**2 * v_tb
    c = top.value**2 - t**2 * v_tt
    reach = np.sqrt(max(b * b - a * c, 0.0))
    spread = v_tt - 2 * v_tb + v_bb
    gap = top.value - bottom.value
    if spread <= 0:
        p = 1.0 if gap == 0 else 0.0
    else:
        p = two_sided(gap / np.sqrt(spread), n - 1)
    return Estimate(value=top.value / bottom.value, low=float((b - reach) / a), high=float((b + reach) / a), p=p)


def root_ratio(top: Product, bottom: Product, *, level: float = 0.95) -> Estimate:
    """√(top/bottom), the retention of a size, with the square roots of Fieller's limits (a negative limit reads 0)."""
    ratio = ratio_interval(top, bottom, level=level)
    if np.isnan(ratio.value):
        return NOT_ESTIMABLE
    value, low, high = (float(np.sqrt(max(v, 0.0))) for v in (ratio.value, ratio.low, ratio.high))
    return Estimate(value=value, low=low, high=high, p=ratio.p)


def exponential(estimate: Estimate) -> Estimate:
    """A log-scale estimate on the ratio scale."""
    return Estimate(
        value=float(np.exp(estimate.value)),
        low=float(np.exp(estimate.low)),
        high=float(np.exp(estimate.high)),
        p=estimate.p,
    )


def holm(p: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm-adjusted p-values (family-wise); NaN stays NaN and does not count as a test."""
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    factor = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1.0)
    return adjusted
