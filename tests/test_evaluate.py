"""Separation and cross-fitting: references, nulls at one half, positive controls beside them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probes.estimators import LogisticProbe, MassMean
from probes.evaluate import auroc, auroc_interval, cross_scores, mass_mean_scores, separation
from probes.sides import Sides


def drawn(rng: np.random.Generator, k: int, d: int, gap: float) -> Sides:
    scenario = rng.normal(size=(k, d)) * 2  # what a scenario is about: the same on both sides
    shift = np.zeros(d)
    shift[0] = gap
    return Sides(positive=scenario + shift + rng.normal(size=(k, d)), negative=scenario + rng.normal(size=(k, d)))


def folds_of(k: int, n: int = 5) -> np.ndarray:
    return np.arange(k) % n


def test_auroc_equals_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    p, n = rng.integers(0, 5, 40).astype(float), rng.integers(0, 4, 30).astype(float)
    expected = roc_auc_score(np.r_[np.ones(40), np.zeros(30)], np.r_[p, n])
    assert auroc(p, n) == pytest.approx(expected, abs=1e-12)


def test_auroc_limits_keep_a_width_at_one_and_are_symmetric():
    low, high = auroc_interval(1.0, 30)
    assert high == 1.0
    assert 0.8 < low < 0.97
    mirrored = auroc_interval(0.3, 30)
    low, high = auroc_interval(0.7, 30)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)


def test_auroc_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    truth = 0.7602  # P(N(1, 1) > N(0, 1)) = Φ(1/√2)
    covered = 0
    for _ in range(400):
        low, high = auroc_interval(auroc(rng.normal(1, 1, 30), rng.normal(0, 1, 30)), 30)
        covered += low <= truth <= high
    assert covered / 400 >= 0.93


def test_dprime_is_the_gap_over_the_within_side_sd():
    rng = np.random.default_rng(2)
    found = separation(rng.normal(3, 1, 4000), rng.normal(1, 1, 4000))
    assert found.dprime == pytest.approx(2.0, abs=0.06)
    assert found.win_rate == pytest.approx(0.921, abs=0.02)


@pytest.mark.parametrize("estimator", [MassMean(), LogisticProbe()])
def test_meaningless_labels_read_one_half_and_planted_ones_do_not(estimator):
    rng = np.random.default_rng(3)
    null, real = [], []
    for _ in range(60):
        for gap, areas in ((0.0, null), (3.0, real)):
            sides = drawn(rng, 30, 60, gap)
            areas.append(auroc(*cross_scores(sides.positive, sides.negative, folds_of(30), estimator)))
    assert np.mean(null) == pytest.approx(0.5, abs=3 * np.std(null) / np.sqrt(60))
    assert np.mean(real) > 0.7  # positive control


def test_item_level_folds_would_have_failed_that_test():
    """What grouped folds avoid: with its other side in training, a scenario reads far below one half under the null."""
    rng = np.random.default_rng(4)
    areas = []
    for _ in range(40):
        sides = drawn(rng, 30, 60, 0.0)
        X = np.concatenate([sides.positive, sides.negative])
        y = np.repeat([1, 0], 30)
        scores, fold = np.zeros(60), rng.permutation(60) % 5
        for f in range(5):
            scores[fold == f] = MassMean().fit(X[fold != f], y[fold != f]).decision_function(X[fold == f])
        areas.append(roc_auc_score(y, scores))
    assert np.mean(areas) < 0.4


def test_batched_mass_mean_equals_the_estimator_fold_by_fold():
    rng = np.random.default_rng(5)
    sides, folds = drawn(rng, 23, 17, 1.0), folds_of(23)
    plus, minus = mass_mean_scores(sides, sides, folds, np.ones((1, 23)))
    expected = cross_scores(sides.positive, sides.negative, folds, MassMean())
    np.testing.assert_allclose(plus[0], expected[0], atol=1e-10)
    np.testing.assert_allclose(minus[0], expected[1], atol=1e-10)


def test_a_flipped_scenario_is_a_scenario_with_its_sides_swapped():
    rng = np.random.default_rng(6)
    sides, folds = drawn(rng, 15, 8, 1.0), folds_of(15)
    signs = rng.choice([-1.0, 1.0], (1, 15))
    flip = signs[0, :, None] < 0
    swapped = Sides(
        positive=np.where(flip, sides.negative, sides.positive), negative=np.where(flip, sides.positive, sides.negative)
    )
    got = mass_mean_scores(sides, sides, folds, signs)
    expected = cross_scores(swapped.positive, swapped.negative, folds, MassMean())
    np.testing.assert_allclose(got[0][0], expected[0], atol=1e-10)
    np.testing.assert_allclose(got[1][0], expected[1], atol=1e-10)


def test_frozen_reading_of_an_unchanged_child_shows_no_erosion():
    rng = np.random.default_rng(7)
    d, k = 200, 24
    gaps = []
    for _ in range(100):
        sides = drawn(rng, k, d, 3.0)
        plus, minus = mass_mean_scores(sides, sides, folds_of(k), np.ones((1, k)))
        fresh = drawn(rng, 400, d, 3.0)
        unit = MassMean().fit(np.concatenate([sides.positive, sides.negative]), np.repeat([1, 0], k))
        honest = (plus - minus).mean()
        gaps.append(honest / (unit.decision_function(fresh.positive) - unit.decision_function(fresh.negative)).mean())
    assert np.mean(gaps) == pytest.approx(1.0, abs=0.1)
