"""Random directions, confounds and the 2×2: known answers."""

import numpy as np
import pytest

from probes.controls import exceedance, factorial, leace, random_directions, unbiased_cosine, without
from probes.evaluate import evaluate
from probes.inference import bootstrap_t
from probes.sides import Sides


def test_matched_random_directions_vary_as_the_rows_do_and_isotropic_ones_do_not():
    """A gap along a direction of large spread: many matched directions share it, hardly any isotropic one."""
    rng = np.random.default_rng(0)
    spread = np.r_[np.full(3, 10.0), np.full(197, 0.1)]
    sides = Sides(positive=rng.normal(size=(60, 200)) * spread, negative=rng.normal(size=(60, 200)) * spread)
    sides.positive[:, 50] += 1.0  # ten SDs in a quiet coordinate
    found = random_directions(sides, seed=1)
    assert len(found.matched) == len(found.isotropic) == 1000
    assert np.median(found.matched) < 0.6
    folds = np.arange(60) % 5
    real = evaluate(sides.positive, sides.negative, folds, method="whitened").dprime
    assert exceedance(real, found.matched) == pytest.approx(1 / 1001)
    assert np.isnan(exceedance(float("nan"), found.matched))


def test_without_signal_the_p_among_random_directions_is_uniform():
    rng = np.random.default_rng(2)
    p = []
    for seed in range(150):
        sides = Sides(positive=rng.normal(size=(20, 30)), negative=rng.normal(size=(20, 30)))
        u = np.random.default_rng(seed + 10_000).normal(size=30)
        a, b = sides.positive @ u, sides.negative @ u
        d = (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
        p.append(exceedance(d, random_directions(sides, draws=200, seed=seed).isotropic))
    assert np.mean(np.asarray(p) <= 0.1) == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / 150))


def test_what_lies_outside_the_confounds():
    rng = np.random.default_rng(3)
    confounds, u = rng.normal(size=(3, 10)), rng.normal(size=10)
    rest = without(u, confounds)
    np.testing.assert_allclose(confounds @ rest, 0, atol=1e-12)
    expected = u - np.linalg.pinv(confounds) @ (confounds @ u)
    np.testing.assert_allclose(rest, expected, atol=1e-12)
    np.testing.assert_allclose(without(np.stack([u, 2 * u]), confounds), np.stack([rest, 2 * rest]), atol=1e-12)


def test_unbiased_cosine_covers_the_truth_where_the_plain_one_is_too_small():
    rng = np.random.default_rng(4)
    a, b = np.zeros(200), np.zeros(200)
    a[0], b[0], b[1] = 2.0, 1.2, 1.6  # cosine .6
    plain, found = [], []
    for _ in range(200):
        x, y = a + rng.normal(size=(40, 200)), b + rng.normal(size=(60, 200))
        plain.append(x.mean(0) @ y.mean(0) / np.linalg.norm(x.mean(0)) / np.linalg.norm(y.mean(0)))
        found.append(unbiased_cosine(x, y))
    assert np.mean(plain) < 0.35
    assert np.mean([e.value for e in found]) == pytest.approx(0.6, abs=0.03)
    assert np.mean([e.low <= 0.6 <= e.high for e in found]) >= 0.92
    assert np.isnan(unbiased_cosine(rng.normal(size=(4, 5)) * 0 + np.eye(4, 5), np.eye(4, 5)).low)


def test_leace_leaves_nothing_for_a_linear_reader():
    rng = np.random.default_rng(5)
    labels = np.repeat([1.0, 0.0], 100)
    rows = rng.normal(size=(200, 12))
    rows[:100, :2] += 3.0
    erased = leace(rows, labels)(rows)
    folds = np.arange(100) % 5
    assert evaluate(rows[:100], rows[100:], folds, method="lda").auroc > 0.95  # positive control
    assert np.abs(erased[:100].mean(0) - erased[100:].mean(0)).max() < 1e-6
    assert evaluate(erased[:100], erased[100:], folds, method="lda").auroc < 0.6


def test_the_two_by_two_separates_caring_from_tone():
    rng = np.random.default_rng(6)
    k, d = 80, 6
    u = np.zeros(d)
    u[0] = 1.0

    def cell(caring: float, tone: float) -> np.ndarray:
        return rng.normal(size=(k, d)) + np.outer(np.ones(k), (1.5 * caring + 0.7 * tone + 0.4 * caring * tone) * u)

    warm = Sides(positive=cell(1, 1), negative=cell(0, 1))
    plain = Sides(positive=cell(1, 0), negative=cell(0, 0))
    found = factorial(warm, plain, u)
    for estimate, truth in ((found.caring, 1.7), (found.tone, 0.9), (found.interaction, 0.4)):
        assert abs(estimate.value - truth) < (estimate.high - estimate.low)  # four standard errors
        assert estimate.high - estimate.low < 1.2


def test_bootstrap_t_covers_where_the_percentile_bootstrap_does_not():
    rng = np.random.default_rng(7)
    values = rng.exponential(size=(400, 12))  # skewed, few
    low, high = bootstrap_t(values, draws=500)
    covered = np.mean((low <= 1.0) & (high >= 1.0))
    picks = rng.integers(0, 12, (500, 12))
    plain = np.quantile(values[:, picks].mean(axis=-1), [0.025, 0.975], axis=1)
    percentile = np.mean((plain[0] <= 1.0) & (plain[1] >= 1.0))
    assert covered >= 0.92
    assert percentile < covered - 0.03


def test_bootstrap_t_of_a_batch_is_that_of_each():
    values = np.random.default_rng(8).normal(size=(3, 20))
    low, high = bootstrap_t(values)
    for i in range(3):
        alone = bootstrap_t(values[[i]])
        assert (alone[0][0], alone[1][0]) == pytest.approx((low[i], high[i]))
