"""Every method against an independent reference: scikit-learn, closed forms, a fit done the long way."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.preprocessing import StandardScaler

from probes.ccs import RATE, STEPS, solve_ccs
from probes.codelength import codelength
from probes.evaluate import by_fold, evaluate
from probes.fit import fit
from probes.logistic import C_GRID, solve_logistic, span
from probes.readers import INNER_FOLDS, METHODS, fit_reader, fit_readers
from probes.shrinkage import ledoit_wolf
from probes.sides import Sides, balanced_folds


def drawn(seed: int, k: int = 40, d: int = 90, gap: float = 2.0) -> Sides:
    """Sides that share what their scenario is about, in coordinates of very different spread."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(size=d))
    scenario = 2 * rng.normal(size=(k, d)) * spread
    shift = np.zeros(d)
    shift[:3] = gap * spread[:3]
    return Sides(
        positive=scenario + shift + rng.normal(size=(k, d)) * spread + 5,
        negative=scenario + rng.normal(size=(k, d)) * spread + 5,
    )


def stacked(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([sides.negative, sides.positive]), np.repeat([0, 1], len(sides.positive))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("d", [20, 90])
def test_ledoit_wolf_in_few_rows_is_scikit_learns(d):
    rows = np.random.default_rng(0).normal(size=(30, d)) * np.linspace(0.1, 3, d) + 2
    ours, theirs = ledoit_wolf(rows), LedoitWolf().fit(rows)
    np.testing.assert_allclose(np.diag(ours.base) + ours.rows.T @ ours.rows, theirs.covariance_, atol=1e-10)
    vectors = np.random.default_rng(1).normal(size=(3, d))
    np.testing.assert_allclose(ours.solve(vectors), np.linalg.solve(theirs.covariance_, vectors.T).T, atol=1e-8)


@pytest.mark.parametrize(("k", "d"), [(25, 80), (60, 20)])
def test_lda_is_scikit_learns_with_automatic_shrinkage(k, d):
    sides = drawn(1, k, d)
    vector, offset = fit_reader(sides, "lda")
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(*stacked(sides))
    np.testing.assert_allclose(vector, unit(theirs.coef_[0]), atol=1e-9)
    assert offset * np.linalg.norm(theirs.coef_[0]) == pytest.approx(theirs.intercept_[0], rel=1e-6)


def test_whitened_is_the_inverse_shrunk_covariance_of_the_roots_differences():
    child, root = drawn(2), drawn(3)
    folds = np.arange(40) % 5
    readers = fit_readers(child, {"all": np.arange(40)}, folds, methods=("whitened",), root=root)
    for fold in range(5):
        train = folds != fold
        covariance = LedoitWolf().fit(root.difference[train]).covariance_
        expected = unit(np.linalg.solve(covariance, child.difference[train].mean(axis=0)))
        np.testing.assert_allclose(readers.direction[readers.rows("whitened", "all", [fold])[0]], expected, atol=1e-9)


def test_pca_is_the_first_direction_of_the_differences_signed_by_the_labels():
    sides = drawn(4)
    vector, _ = fit_reader(sides, "pca")
    theirs = TruncatedSVD(1, algorithm="arpack", random_state=0).fit(sides.difference).components_[0]
    assert abs(vector @ theirs) == pytest.approx(1.0, abs=1e-9)
    assert vector @ sides.difference.mean(axis=0) > 0


@pytest.mark.parametrize(("n", "d"), [(30, 80), (80, 20)])
@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
def test_logistic_solves_scikit_learns_problem(n, d, c):
    rng = np.random.default_rng(5)
    rows, labels = rng.normal(size=(n, d)), np.where(np.arange(n) % 2, 1.0, -1.0)
    rows[labels > 0, 0] += 1
    some = (rng.random((2, n)) < 0.7).astype(float)
    features, basis = span(rows)
    w, b = solve_logistic(features, labels, some, np.array([c, c]))
    for i in range(2):
        chosen = some[i] > 0
        theirs = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12).fit(rows[chosen], labels[chosen])
        np.testing.assert_allclose(basis @ w[i], theirs.coef_[0], atol=1e-6)
        assert b[i] == pytest.approx(theirs.intercept_[0], abs=1e-6)


def test_the_logistic_reader_is_scikit_learns_nested_grouped_search():
    sides = drawn(6, k=60, gap=1.0)
    vector, _ = fit_reader(sides, "logistic", seed=0)
    X, y = stacked(sides)
    names = [str(i) for i in range(60)]
    inner = np.tile(balanced_folds(names, ["" for _ in names], INNER_FOLDS, 0), 2)
    X = StandardScaler().fit(X).transform(X)  # without labels, so that inner folds may share it
    search = GridSearchCV(
        LogisticRegression(tol=1e-10, max_iter=100_000),
        {"C": list(C_GRID)},
        scoring="neg_log_loss",
        cv=PredefinedSplit(inner),
    ).fit(X, y)
    scale = np.concatenate([sides.negative, sides.positive]).std(axis=0)
    expected = search.best_estimator_.coef_[0] / scale
    np.testing.assert_allclose(vector, unit(expected), atol=1e-5)


def test_logistic_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        solve_logistic(np.ones((4, 2)), np.ones(4), np.ones((1, 4)), np.ones(1))


def test_ccs_finds_what_the_sides_disagree_on_without_labels():
    rng = np.random.default_rng(7)
    k, d = 60, 20
    truth = unit(rng.normal(size=d))
    noise = 0.3 * rng.normal(size=(2, k, d))
    swap = rng.choice([-1.0, 1.0], (k, 1))
    plus, minus = noise[0] + swap * truth, noise[1] - swap * truth  # which side is which differs from pair to pair
    w, _ = solve_ccs(plus[None], minus[None], seed=0)
    assert abs(unit(w[0]) @ truth) > 0.8
    turned = solve_ccs(minus[None], plus[None], seed=0)[0]
    np.testing.assert_allclose(turned, w, rtol=1e-4, atol=1e-5)  # the loss does not know the sides


def test_ccs_takes_the_steps_that_torch_takes_on_the_written_loss():
    rng = np.random.default_rng(15)
    plus, minus = rng.normal(size=(2, 20, 6))
    w, b = solve_ccs(plus[None], minus[None], seed=3, restarts=1)
    start = torch.randn((1, 6, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float32) / 6**0.5
    theirs = torch.nn.Parameter(start[0, :, 0].clone())
    offset = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([theirs, offset], lr=RATE)
    sides = [torch.from_numpy(s.astype(np.float32)) for s in (plus, minus)]
    for _ in range(STEPS):
        optimiser.zero_grad()
        p, q = (torch.sigmoid(s @ theirs + offset) for s in sides)
        ((p + q - 1) ** 2 + torch.minimum(p, q) ** 2).mean().backward()
        optimiser.step()
    np.testing.assert_allclose(w[0], theirs.detach().numpy(), rtol=2e-3, atol=2e-3)
    assert b[0] == pytest.approx(float(offset), abs=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_strong_planted_direction_is_found_with_its_sign_by_every_method(method):
    rng = np.random.default_rng(8)
    k, d, gap = 80, 60, 6.0
    truth = unit(rng.normal(size=d))
    sides = Sides(positive=rng.normal(size=(k, d)) + gap * truth, negative=rng.normal(size=(k, d)))
    direction = fit(sides.positive, sides.negative, method=method)
    expected = np.sqrt(gap**2 / (gap**2 + 2 * d / k))  # of mass-mean; the others are no worse than a little below it
    assert direction.vector @ truth > (0.5 if method == "ccs" else expected - 0.12)  # ccs keeps part of its start
    assert direction.size > 0


@pytest.mark.parametrize("method", METHODS)
def test_meaningless_sides_read_one_half_and_planted_ones_do_not(method):
    null, real = [], []
    for seed in range(24):
        null.append(evaluate(*_sides(drawn(100 + seed, 30, 40, 0.0)), np.arange(30) % 5, method=method).auroc)
    for seed in range(4):
        planted = drawn(200 + seed, 30, 40, 12.0)
        real.append(evaluate(*_sides(planted), np.arange(30) % 5, method=method).auroc)
    assert np.mean(null) == pytest.approx(0.5, abs=4 * np.std(null, ddof=1) / np.sqrt(len(null)))
    assert np.mean(real) > 0.75  # positive control


def _sides(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    return sides.positive, sides.negative


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_reads_the_same(method):
    sides = drawn(9)
    low = Sides(positive=sides.positive.astype(np.float32), negative=sides.negative.astype(np.float32))
    folds = np.arange(40) % 5
    found = [evaluate(s.positive, s.negative, folds, method=method) for s in (sides, low)]
    assert found[0].dprime == pytest.approx(found[1].dprime, rel=2e-2 if method == "ccs" else 1e-3)
    assert found[0].auroc == pytest.approx(found[1].auroc, abs=5e-3)


def test_readers_never_see_the_fold_they_score():
    """Poison one fold's rows: its own readers must not notice, the others must."""
    sides, folds = drawn(10), np.arange(40) % 5
    poisoned = Sides(positive=sides.positive.copy(), negative=sides.negative)
    poisoned.positive[folds == 2] += 100.0
    methods = tuple(m for m in METHODS if m != "ccs")  # whose searches share one padded batch, to rounding
    before, after = (
        fit_readers(s, {"all": np.arange(40)}, folds, methods=methods, root=sides) for s in (sides, poisoned)
    )
    for method in methods:
        mine, other = before.rows(method, "all", [2])[0], before.rows(method, "all", [1])[0]
        np.testing.assert_array_equal(before.direction[mine], after.direction[mine])
        assert not np.allclose(before.direction[other], after.direction[other])


def test_frozen_refit_and_cross_domain_are_one_call_with_other_rows():
    parent, child = drawn(11, 40), drawn(12, 40)
    folds = np.arange(40) % 5
    slices = {"a": np.arange(20), "b": np.arange(20, 40)}
    readers = fit_readers(parent, slices, folds, methods=("mass-mean",))
    frozen = by_fold(readers.scores(child.positive), readers, "mass-mean", "a", folds)
    for fold in range(5):
        train = slices["a"][folds[slices["a"]] != fold]
        vector, offset = fit_reader(parent.rows(train), "mass-mean")
        np.testing.assert_allclose(frozen[folds == fold], child.positive[folds == fold] @ vector + offset, atol=1e-9)


def test_constant_sides_are_not_estimable_and_do_not_crash():
    same = Sides(positive=np.ones((20, 6)), negative=np.ones((20, 6)))
    for method in METHODS:
        found = evaluate(same.positive, same.negative, np.arange(20) % 5, method=method)
        assert np.isnan(found.dprime) or found.dprime == 0.0
        assert np.isnan(found.auroc) or found.auroc == 0.5
    with pytest.raises(ValueError, match="do not differ"):
        fit_reader(same, "mass-mean")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "svm"}, "no method 'svm'"),
        ({"folds": np.zeros(20, dtype=int)}, "at least two folds"),
        ({"bad": np.nan}, "finite"),
        ({"bad": np.inf}, "finite"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, said):
    sides = drawn(13, 20, 8)
    positive = sides.positive.copy()
    if "bad" in change:
        positive[3, 2] = change["bad"]
    with pytest.raises(ValueError, match=said):
        evaluate(
            positive,
            sides.negative,
            change.get("folds", np.arange(20) % 5),
            method=change.get("method", "mass-mean"),
        )


def test_codelength_is_one_bit_without_signal_and_little_with_much():
    null = np.mean([codelength(drawn(s, 60, 40, 0.0), seed=0) for s in range(10)])
    assert 0.95 < null < 1.4  # a prediction that is no use costs a little more than a bit
    rng = np.random.default_rng(0)
    clear = Sides(positive=rng.normal(size=(60, 10)) + 8, negative=rng.normal(size=(60, 10)) - 8)
    assert codelength(clear, seed=0) < 0.3
    assert np.isnan(codelength(clear.rows(np.arange(7)), seed=0))


def test_codelength_is_the_sum_of_what_each_portion_costs():
    sides = drawn(14, 32, 10, 3.0)
    shuffled = sides.rows(np.random.default_rng([0, 32]).permutation(32))
    bits, ends = 2.0 * 4, [4, 8, 16, 32]
    for start, end in pairwise(ends):
        names = [str(i) for i in range(start)]
        inner = np.tile(balanced_folds(names, ["" for _ in names], INNER_FOLDS, 0), 2)
        X, y = stacked(shuffled.rows(np.arange(start)))
        scaler = StandardScaler().fit(X)
        search = GridSearchCV(
            LogisticRegression(solver="newton-cholesky", tol=1e-12),
            {"C": list(C_GRID)},
            scoring="neg_log_loss",
            cv=PredefinedSplit(inner),
        ).fit(scaler.transform(X), y)
        Z, truth = stacked(shuffled.rows(np.arange(start, end)))
        bits -= np.log2(search.predict_proba(scaler.transform(Z))[np.arange(len(truth)), truth]).sum()
    assert codelength(sides, seed=0) == pytest.approx(bits / 64, rel=1e-5)
