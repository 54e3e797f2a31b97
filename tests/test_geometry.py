"""Unbiased products: equal to the double sum, delete-one values exact, truth recovered where the naive one errs."""

import numpy as np
import pytest

from probes.geometry import cosine, cross_product, signed_root
from probes.inference import jackknife_interval, root_ratio


def double_sum(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    return sum(a[s] @ b[t] for s in range(n) for t in range(n) if s != t) / (n * (n - 1))


def test_cross_product_equals_the_sum_over_different_scenarios():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 9, 5))
    found = cross_product(a, b)
    assert found.value == pytest.approx(double_sum(a, b), rel=1e-12)
    for i in range(9):
        keep = np.arange(9) != i
        assert found.without[i] == pytest.approx(double_sum(a[keep], b[keep]), rel=1e-10)


def test_float32_differences_agree_with_float64():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 64)) + 0.3
    single = a.astype(np.float32).astype(np.float64)
    assert cross_product(single, single).value == pytest.approx(cross_product(a, a).value, rel=1e-5)


def test_size_is_unbiased_where_the_naive_size_is_not():
    rng = np.random.default_rng(1)
    d, k, truth = 100, 24, 1.0
    unit = np.eye(d)[0]
    unbiased, naive = [], []
    for _ in range(400):
        delta = truth * unit + rng.normal(size=(k, d)) * 1.5
        unbiased.append(cross_product(delta, delta).value)
        naive.append(float(np.sum(delta.mean(axis=0) ** 2)))
    error = np.std(unbiased) / np.sqrt(len(unbiased))
    assert abs(np.mean(unbiased) - truth**2) < 3 * error
    assert np.mean(naive) > 5  # positive control: noise alone adds d·σ²/K = 9.4


def test_cosine_is_unbiased_when_two_checkpoints_share_item_noise():
    rng = np.random.default_rng(2)
    d, k = 60, 100
    u, v = np.eye(d)[0], 0.5 * np.eye(d)[0] + np.sqrt(0.75) * np.eye(d)[1]
    honest, naive = [], []
    for _ in range(300):
        shared = rng.normal(size=(k, d)) * np.sqrt(0.9)
        a = u + shared + rng.normal(size=(k, d)) * np.sqrt(0.1)
        b = v + shared + rng.normal(size=(k, d)) * np.sqrt(0.1)
        honest.append(cosine(cross_product(a, b), cross_product(a, a), cross_product(b, b)).value)
        ma, mb = a.mean(axis=0), b.mean(axis=0)
        naive.append(ma @ mb / np.linalg.norm(ma) / np.linalg.norm(mb))
    assert np.mean(honest) == pytest.approx(0.5, abs=0.03)
    assert np.mean(naive) > 0.6  # positive control: shared noise looks like shared direction


def test_cosine_with_nothing_is_not_a_number():
    a = np.array([[1.0, 0], [-1.0, 0], [0.5, 0], [-0.5, 0]])
    b = np.ones((4, 2))
    assert cross_product(a, a).value < 0
    assert np.isnan(cosine(cross_product(a, b), cross_product(a, a), cross_product(b, b)).value)


def test_signed_root_keeps_the_sign():
    assert signed_root(-4.0) == -2.0
    assert signed_root(9.0) == 3.0


def test_too_few_scenarios_are_refused():
    with pytest.raises(ValueError, match="at least 3 scenarios, got 2"):
        cross_product(np.ones((2, 3)), np.ones((2, 3)))


def test_retention_recovers_a_true_loss_with_honest_intervals():
    rng = np.random.default_rng(3)
    d, k, truth = 80, 60, 0.7
    u = np.eye(d)[0]
    values, covered = [], 0
    for _ in range(300):
        noise = rng.normal(size=(k, d)) * 0.4
        a = u + noise + rng.normal(size=(k, d)) * 0.1
        b = truth * u + noise + rng.normal(size=(k, d)) * 0.1
        found = root_ratio(cross_product(b, b), cross_product(a, a))
        values.append(found.value)
        covered += found.low <= truth <= found.high
    assert np.mean(values) == pytest.approx(truth, abs=0.01)
    assert covered / 300 >= 0.93


def test_jackknife_interval_of_a_size_covers_it():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        delta = np.eye(40)[0] + rng.normal(size=(30, 40)) * 0.5
        found = jackknife_interval(cross_product(delta, delta))
        covered += found.low <= 1.0 <= found.high
    assert covered / 300 >= 0.92
