"""Probes as scikit-learn estimators: its own checks, and its own answers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes.estimators import CCS, LogisticProbe, MassMean, PCADifference, Whitened


@parametrize_with_checks([MassMean(), Whitened(), LogisticProbe(), PCADifference(), CCS()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("n", "d"), [(40, 100), (100, 20), (30, 30)])
def test_logistic_probe_equals_the_full_width_solution(n, d):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, d)), np.arange(n) % 2
    X[y == 1, 0] += 1
    new = rng.normal(size=(7, d))
    full = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-12, max_iter=100_000)).fit(X, y)
    probe = LogisticProbe(C=0.01).fit(X, y)
    np.testing.assert_allclose(probe.decision_function(new), full.decision_function(new), atol=1e-6)


def test_mass_mean_is_the_difference_of_means_thresholded_half_way():
    X = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0]])
    probe = MassMean().fit(X, [0, 0, 1, 1])
    np.testing.assert_allclose(probe.coef_, [4.0, 0.0])
    np.testing.assert_allclose(probe.decision_function([[3.0, 9.0], [5.0, -9.0]]), [0.0, 2.0])


def test_mass_mean_recovers_a_planted_direction_as_theory_says():
    """cos² → δ²/(δ² + 2σ²d/n) for δ along one axis, n rows a class, noise σ in d dimensions."""
    rng = np.random.default_rng(1)
    d, n, gap = 300, 50, 2.0
    cosines = []
    for _ in range(60):
        X = rng.normal(size=(2 * n, d))
        y = np.repeat([0, 1], n)
        X[y == 1, 0] += gap
        probe = MassMean().fit(X, y)
        cosines.append(probe.coef_[0] / np.linalg.norm(probe.coef_))
    assert np.mean(cosines) == pytest.approx(np.sqrt(gap**2 / (gap**2 + 2 * d / n)), abs=0.02)


def test_sides_that_coincide_score_zero_instead_of_noise():
    X = np.ones((6, 3))
    np.testing.assert_array_equal(MassMean().fit(X, [0, 1] * 3).decision_function(X), np.zeros(6))


@pytest.mark.parametrize("estimator", [Whitened(), LogisticProbe(), PCADifference(), CCS(), MassMean()])
def test_an_estimator_and_the_reader_of_its_name_score_alike(estimator):
    from probes.evaluate import auroc, cross_scores, evaluate

    rng = np.random.default_rng(3)
    positive, negative = rng.normal(size=(2, 40, 30))
    positive[:, 0] += 5.0 if isinstance(estimator, CCS | PCADifference) else 1.5
    folds = np.arange(40) % 5
    method = {"LogisticProbe": "logistic", "MassMean": "mass-mean"}.get(type(estimator).__name__)
    method = method or estimator.method
    found = evaluate(positive, negative, folds, method=method)
    # Inner folds are dealt out by scenario names, which differ, so that the penalty may too; so do the starts of CCS.
    near = 0.1 if isinstance(estimator, CCS) else 0.02
    assert auroc(*cross_scores(positive, negative, folds, estimator)) == pytest.approx(found.auroc, abs=near)
    assert found.auroc > 0.7


def test_rows_of_a_scenario_are_averaged_before_they_are_paired():
    rng = np.random.default_rng(4)
    X, y, groups = rng.normal(size=(48, 5)), np.tile([1, 0], 24), np.repeat(np.arange(12), 4)
    X[y == 1] += 1
    means = [[X[(groups == g) & (y == c)].mean(axis=0) for g in range(12)] for c in (0, 1)]
    expected = Whitened().fit(np.concatenate(means), np.repeat([0, 1], 12), np.tile(np.arange(12), 2))
    np.testing.assert_allclose(Whitened().fit(X, y, groups).coef_, expected.coef_)
    with pytest.raises(ValueError, match="no scenario has samples of both"):
        Whitened().fit(X, y, np.arange(48))
