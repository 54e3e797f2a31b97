"""Sign flips with refit: the slow way, scikit-learn's permutation test, and the family-wise error they promise."""

import numpy as np
import pytest
from sklearn.model_selection import PredefinedSplit, permutation_test_score

from probes.estimators import MassMean
from probes.permutation import draw_signs, held_out_differences, max_t, t_statistics


def refitted(delta: np.ndarray, folds: np.ndarray, signs: np.ndarray) -> np.ndarray:
    flipped, found = signs[:, None] * delta, np.zeros(len(delta))
    for fold in np.unique(folds):
        direction = flipped[folds != fold].sum(axis=0)
        found[folds == fold] = flipped[folds == fold] @ (direction / np.linalg.norm(direction))
    return found


def test_from_the_gram_matrix_as_the_slow_way():
    rng = np.random.default_rng(0)
    delta, folds, signs = rng.normal(size=(23, 40)), np.arange(23) % 5, draw_signs(23, 6, 1)
    found = held_out_differences(delta @ delta.T, folds, signs)
    for row, expected in zip(found, signs, strict=True):
        np.testing.assert_allclose(row, refitted(delta, folds, expected), atol=1e-10)
    assert (signs[0] == 1).all()


def test_p_agrees_with_scikit_learns_permutation_test_on_the_same_statistic_and_folds():
    """Shuffling labels within a scenario is flipping its sign; the statistic is the mean held-out gap."""
    rng = np.random.default_rng(1)
    k, d = 25, 12
    positive, negative = rng.normal(size=(2, k, d))
    positive[:, 0] += 0.55
    folds = np.arange(k) % 5
    signs = draw_signs(k, 1500, 2)
    ours = held_out_differences((positive - negative) @ (positive - negative).T, folds, signs).mean(axis=1)
    p = (1 + (ours[1:] >= ours[0]).sum()) / 1501

    def gap(model, X, y):
        scores = model.decision_function(X)
        return scores[y == 1].mean() - scores[y == 0].mean()

    score, _, theirs = permutation_test_score(
        MassMean(),
        np.concatenate([positive, negative]),
        np.repeat([1, 0], k),
        groups=np.tile(np.arange(k), 2),
        cv=PredefinedSplit(np.tile(folds, 2)),
        scoring=gap,
        n_permutations=400,
        random_state=0,
    )
    assert score == pytest.approx(ours[0], rel=1e-9)
    assert p == pytest.approx(theirs, abs=4 * np.sqrt(max(p, 0.01) * (1 - p) * (1 / 1500 + 1 / 400)))


def test_step_down_max_t_by_hand():
    statistics = np.array([[3.0, 1.0, 2.0], [0.0, 2.5, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 2.2]])
    found = max_t(statistics)
    np.testing.assert_allclose(found.p, [2 / 4, 2 / 4, 2 / 4])
    # 3.0 against the largest of all: 2.5, 4.0, 2.2; 2.0 against the largest of tests 2, 3; never below the one before.
    np.testing.assert_allclose(found.p_adjusted, [2 / 4, 3 / 4, 3 / 4])


def correlated(rng: np.random.Generator, k: int, layers: int, d: int, effect: float) -> list[np.ndarray]:
    """Differences at several layers of one stream: a heavy spectrum, each layer the one before and something new."""
    scales = np.exp(-np.arange(d) / 8.0)
    at = rng.normal(size=(k, d)) * scales
    found = []
    for _ in range(layers):
        at = 0.8 * at + 0.6 * rng.normal(size=(k, d)) * scales
        found.append(at + effect * scales)
    return found


def smallest_adjusted(rng: np.random.Generator, effect: float) -> float:
    k, domains, layers = 36, 3, 4
    groups, folds = np.arange(k) % domains, np.arange(k) // domains % 4
    signs = draw_signs(k, 199, int(rng.integers(1 << 30)))
    statistics = []
    for delta in correlated(rng, k, layers, 24, effect):
        gram = delta @ delta.T
        for members in [*(np.flatnonzero(groups == g) for g in range(domains)), np.arange(k)]:
            part = gram[np.ix_(members, members)]
            statistics.append(t_statistics(held_out_differences(part, folds[members], signs[:, members])))
    return float(max_t(np.stack(statistics, axis=1)).p_adjusted.min())


def test_family_wise_error_is_five_per_cent_with_correlated_layers():
    rng = np.random.default_rng(3)
    n = 400
    wrong = np.mean([smallest_adjusted(rng, 0.0) <= 0.05 for _ in range(n)])
    assert wrong == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / n))
    found = np.mean([smallest_adjusted(rng, 0.6) <= 0.05 for _ in range(20)])
    assert found > 0.9  # positive control


def test_differences_that_do_not_vary_have_no_statistic():
    assert (t_statistics(np.ones((3, 5))) == 0).all()
