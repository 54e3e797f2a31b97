"""Intervals and p-values against scipy, closed forms and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from probes.geometry import Product
from probes.inference import holm, jackknife_interval, mean_interval, ratio_interval, root_ratio


def leave_one_out_mean(x: np.ndarray) -> Product:
    return Product(value=float(x.mean()), without=(x.sum() - x) / (len(x) - 1))


def test_mean_interval_is_the_t_interval_and_test():
    x = np.random.default_rng(0).normal(0.4, size=25)
    found = mean_interval(x)
    reference = stats.ttest_1samp(x, 0.0)
    low, high = reference.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-9)


def test_fieller_limits_are_the_ratios_the_paired_t_test_does_not_reject():
    rng = np.random.default_rng(1)
    bottom = rng.normal(2.0, 0.5, size=30)
    top = 0.6 * bottom + rng.normal(0, 0.3, size=30)
    found = ratio_interval(leave_one_out_mean(top), leave_one_out_mean(bottom))
    for limit in (found.low, found.high):
        assert stats.ttest_1samp(top - limit * bottom, 0.0).pvalue == pytest.approx(0.05, rel=1e-6)
    assert found.p == pytest.approx(stats.ttest_rel(top, bottom).pvalue, rel=1e-9)


def test_a_ratio_over_nothing_is_not_estimable():
    rng = np.random.default_rng(2)
    bottom = rng.normal(0.0, 1.0, size=30)
    bottom += 0.01 - bottom.mean()
    found = ratio_interval(leave_one_out_mean(rng.normal(size=30)), leave_one_out_mean(bottom))
    assert np.isnan(found.value)
    assert np.isnan(found.low)


def test_equal_numerator_and_denominator_read_exactly_one():
    x = leave_one_out_mean(np.random.default_rng(3).normal(2, 0.2, size=12))
    found = root_ratio(x, x)
    assert (found.value, found.low, found.high, found.p) == (1.0, 1.0, 1.0, 1.0)


def test_a_lost_size_reads_zero_as_its_lower_limit():
    rng = np.random.default_rng(4)
    found = root_ratio(leave_one_out_mean(rng.normal(0.0, 1, size=30)), leave_one_out_mean(rng.normal(5, 0.5, size=30)))
    assert found.low == 0.0
    assert found.high < 0.5


def test_intervals_of_undefined_statistics_are_undefined():
    found = jackknife_interval(Product(value=float("nan"), without=np.ones(5)))
    assert np.isnan(found.low)


def test_holm_steps_down_and_ignores_untested():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(holm(p), [0.03, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])


def test_holm_holds_the_family_error_and_has_power():
    rng = np.random.default_rng(5)
    null = rng.uniform(size=(4000, 12))
    assert np.mean([holm(row).min() <= 0.05 for row in null]) == pytest.approx(0.05, abs=0.012)
    null[:, 0] = 1e-4
    assert np.mean([holm(row)[0] <= 0.05 for row in null]) == 1.0
