"""Metrics in batches against scikit-learn, loops and simulation."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from probes.evaluate import evaluate, separation
from probes.metrics import auroc, balanced_accuracy, dprime, fragility, noisy_auroc, paired_d, recall_at_fpr, win_rate


def scores(seed: int, *batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(1, 1, (*batch, 30)).round(1), rng.normal(0, 2, (*batch, 30)).round(1)  # rounded: with ties


def test_batches_equal_one_at_a_time_and_scikit_learn():
    p, n = scores(0, 3, 4)
    y = np.r_[np.ones(30), np.zeros(30)]
    for i in range(3):
        for j in range(4):
            both = np.r_[p[i, j], n[i, j]]
            assert auroc(p, n)[i, j] == pytest.approx(roc_auc_score(y, both))
            off = both[both != 0], y[both != 0]
            if len(off[0]) == 60:
                assert balanced_accuracy(p, n)[i, j] == pytest.approx(balanced_accuracy_score(y, both > 0))
            one = separation(p[i, j], n[i, j])
            assert one.dprime == pytest.approx(dprime(p, n)[i, j])
            assert one.fisher == pytest.approx(one.dprime**2)
            difference = p[i, j] - n[i, j]
            assert one.dz == pytest.approx(difference.mean() / difference.std(ddof=1))
            assert one.win_rate == pytest.approx(np.mean(np.where(difference == 0, 0.5, difference > 0)))


def test_noise_is_added_in_closed_form():
    p, n = scores(1)
    rng = np.random.default_rng(2)
    draws = auroc(p + 1.5 * rng.normal(size=(4000, 30)), n + 1.5 * rng.normal(size=(4000, 30)))
    expected = noisy_auroc(p[None], n[None], np.array([1.5]))[0]
    assert expected == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / np.sqrt(4000))


def test_fragility_is_where_half_of_the_separation_is_gone():
    p, n = scores(3, 5)
    p = p + 2
    sd = fragility(p, n)
    np.testing.assert_allclose(noisy_auroc(p, n, sd), (auroc(p, n) + 0.5) / 2, atol=2e-4)
    assert np.isnan(fragility(n - 5, p)).all()  # reads below one half: nothing to lose
    assert np.isnan(fragility(np.ones((1, 4)), np.zeros((1, 4)))).all()


def test_recall_counts_positives_above_their_own_limit():
    assert recall_at_fpr(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[1.0, 1.0, 3.0, 5.0]]))[0] == 0.25


def test_recall_on_neutral_texts_of_one_distribution_is_five_per_cent_and_more_with_signal():
    rng = np.random.default_rng(4)
    folds, neutral = np.arange(400) % 5, rng.normal(size=(2000, 6))
    null = evaluate(rng.normal(size=(400, 6)), rng.normal(size=(400, 6)), folds, neutral=neutral)
    assert null.recall == pytest.approx(0.05, abs=0.035)
    shifted = rng.normal(size=(400, 6)) + 2.0
    assert evaluate(shifted, rng.normal(size=(400, 6)), folds, neutral=neutral).recall > 0.8
    assert np.isnan(evaluate(shifted, rng.normal(size=(400, 6)), folds).recall)


def test_a_side_without_spread_has_no_dprime():
    assert np.isnan(dprime(np.ones((1, 5)), np.zeros((1, 5))))[0]
    assert np.isnan(paired_d(np.ones((1, 5)), np.zeros((1, 5))))[0]
    assert win_rate(np.ones((1, 5)), np.zeros((1, 5)))[0] == 1.0
