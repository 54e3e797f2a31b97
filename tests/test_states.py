"""States: flat is tested first, lost is a loss, and an interval that shows nothing is unclear."""

import numpy as np
import pytest

from activations.study import SmallestEffect
from analysis.states import DOWN, FLAT, LOST, UNCLEAR, UP, Limits, limits, regions, state
from probes.geometry import Product
from probes.inference import jackknife_interval

RATIO = regions(SmallestEffect())["ratio"]


def found(low_90, high_90, low_adjusted, high_adjusted):
    middle = (low_90 + high_90) / 2
    return Limits(
        value=middle,
        low=low_adjusted,
        high=high_adjusted,
        low_90=low_90,
        high_90=high_90,
        low_adjusted=low_adjusted,
        high_adjusted=high_adjusted,
    )


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ((0.95, 1.05, 0.93, 1.07), FLAT),
        ((1.005, 1.007, 1.004, 1.008), FLAT),  # told from 1, and far too small to matter
        ((0.85, 0.89, 0.84, 0.90), FLAT),
        ((0.60, 0.80, 0.55, 0.85), DOWN),
        ((0.75, 0.95, 0.72, 0.99), DOWN),
        ((0.0, 0.5, 0.0, 0.6), LOST),
        ((0.0, 1.2, 0.0, 1.5), UNCLEAR),  # reaches from nothing to no change
        ((0.75, 1.02, 0.70, 1.08), UNCLEAR),
        ((1.30, 1.50, 1.20, 1.60), UP),
        ((np.nan, np.nan, np.nan, np.nan), UNCLEAR),
    ],
)
def test_the_state_of_a_retention(limits, wanted):
    assert state(found(*limits), RATIO, size=True) == wanted


def test_only_a_size_can_be_lost():
    assert state(found(-0.2, 0.5, -0.3, 0.6), RATIO) == DOWN


def test_the_smallest_effect_of_a_ratio_is_even_on_the_log_scale():
    assert RATIO.low * RATIO.high == pytest.approx(1)


def test_a_family_widens_only_the_adjusted_limits():
    values = np.random.default_rng(0).normal(size=40)
    mean = Product(value=float(values.mean()), without=(values.sum() - values) / 39)
    one, twelve = (limits(lambda level: jackknife_interval(mean, level=level), n) for n in (1, 12))
    assert (one.low, one.low_90) == (twelve.low, twelve.low_90)
    assert one.low_adjusted == one.low > twelve.low_adjusted
    assert one.low < one.low_90
