"""What is measured at a site of a step, against direct computation and known truths."""

import numpy as np
import pytest

from activations.study import SmallestEffect
from analysis.drift import _with_size, detectable_loss, measure_edge
from analysis.edge import SiteProducts, deviation, held_out_variance, mean_product
from analysis.worlds import Gaussian, Truth
from probes.evaluate import mass_mean_scores
from probes.geometry import Product, align, cross_product
from probes.inference import jackknife_interval
from probes.sides import Sides

FOLDS = np.arange(23) % 5
UNIT = Product(value=1.0, without=np.ones(30))


def sides(rng, n=23, d=17):
    return Sides(positive=rng.normal(size=(n, d)) + 0.3, negative=rng.normal(size=(n, d)))


def direct(a, b, keep):
    one = np.ones((1, len(keep)))
    scores = mass_mean_scores(a.rows(keep), b.rows(keep), FOLDS[keep], one)
    return np.mean([s[0].var(ddof=1) for s in scores])


@pytest.mark.parametrize("other", [False, True])
def test_the_held_out_variance_and_its_delete_one_values_are_those_of_refitting(other):
    rng = np.random.default_rng(0)
    a = sides(rng)
    b = sides(rng) if other else a
    found = held_out_variance(a, b, FOLDS)
    assert found.value == pytest.approx(direct(a, b, np.arange(23)), rel=1e-9)
    for i in range(23):
        assert found.without[i] == pytest.approx(direct(a, b, np.delete(np.arange(23), i)), rel=1e-9)


def test_mean_and_deviation_leave_one_out_as_numpy_does():
    values = np.random.default_rng(1).normal(size=12)
    for product, statistic in ((mean_product(values), np.mean), (deviation(values), lambda x: np.std(x, ddof=1))):
        assert product.value == pytest.approx(statistic(values))
        np.testing.assert_allclose(product.without, [statistic(np.delete(values, i)) for i in range(12)])


def test_alignment_undoes_a_rotation_within_the_texts_leading_components():
    rng = np.random.default_rng(2)
    texts = rng.normal(size=(60, 40)) * np.exp(-np.arange(40) / 4)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    found = align(texts, texts @ turn)
    np.testing.assert_allclose(found.child(texts @ turn), found.parent(texts), atol=1e-8)
    assert found.basis_parent.shape == (40, 12)
    assert align(texts[:8], texts[:8]) is None


def step(truth, n=40, seed=0, **more):
    view = Gaussian(domains=2, **more).step(np.random.default_rng(seed), n, truth)
    return measure_edge(view, SmallestEffect(), by_layer=False, pooled=False).edges.set_index(["domain", "quantity"])


def test_an_unchanged_copy_is_flat_in_everything():
    world = {"between_checkpoints": 1.0, "margin_noise": 0.0}
    found = step(Truth(name="same"), **world)
    said = found[found.state != ""].state
    assert set(said) == {"flat"}
    assert found.value["d00", "R_tau"] == pytest.approx(1, abs=1e-9)
    assert found.value["d00", "B"] == 0


def test_a_turn_moves_the_frozen_readings_alone_and_alignment_restores_them():
    found = step(Truth(name="turn", turn=60.0), between_checkpoints=1.0)
    for domain in ("d00", "d01"):
        assert found.value[domain, "R_tau"] == pytest.approx(1, abs=1e-9)
        assert found.value[domain, "cosine"] == pytest.approx(0.5, abs=1e-9)
        assert found.value[domain, "F"] == pytest.approx(0.5, abs=1e-9)
        assert found.value[domain, "F_reverse"] == pytest.approx(0.5, abs=1e-9)
        assert found.value[domain, "F_aligned"] == pytest.approx(1, abs=1e-6)
        assert found.value[domain, "sigma"] == pytest.approx(1, abs=1e-9)


def test_a_shift_of_everything_moves_midpoint_and_position_but_no_size():
    found = step(Truth(name="shift", bias=-1.0), between_checkpoints=1.0)
    for domain in ("d00", "d01"):
        assert found.value[domain, "R_tau"] == pytest.approx(1, abs=1e-9)
        assert found.state[domain, "midpoint"] == "down"
        assert found.state[domain, "P"] == "down"
        assert found.null_percentile[domain, "P"] < 0.025


def test_a_shift_that_most_random_directions_share_does_not_move_the_position():
    """Along a random direction the same shift is seen: P stays unclear whatever its own interval says."""
    view = Gaussian(domains=2, between_checkpoints=1.0).step(np.random.default_rng(3), 40, Truth(name="none"))
    rng = np.random.default_rng(4)
    moved = []
    for site in view.sites:
        after = site.prompts[1]
        covariance = (site.parent.positive - site.parent.positive.mean(axis=0)) / np.sqrt(len(after))
        random = covariance.T @ rng.normal(size=len(after))
        moved.append((site, after + 3 * random))
    import dataclasses

    sites = (dataclasses.replace(site, prompts=(site.prompts[0], after)) for site, after in moved)
    found = measure_edge(dataclasses.replace(view, sites=sites), SmallestEffect(), by_layer=False, pooled=False).edges
    rows = found[found.quantity == "P"]
    beyond = (rows.null_percentile < 0.025) | (rows.null_percentile > 0.975)
    assert not (rows.state.isin(["down", "up"]) & ~beyond).any()
    assert (rows.value.abs() > 0.2).any()


def test_the_margins_interval_knows_that_the_spread_is_estimated():
    rng = np.random.default_rng(5)
    inside = known = 0
    for _ in range(400):
        before = rng.normal(size=30)
        change = -0.8 + 0.3 * rng.normal(size=30)
        ratio = Product(
            value=mean_product(change).value / deviation(before).value,
            without=mean_product(change).without / deviation(before).without,
        )
        at = jackknife_interval(ratio)
        inside += at.low <= -0.8 <= at.high
        plain = jackknife_interval(mean_product(change / before.std(ddof=1)))
        known += plain.low <= -0.8 <= plain.high
    assert inside / 400 > 0.92
    assert known / 400 < 0.85  # what treating the SD as known would cover


def test_the_smallest_detectable_loss_is_computed_as_if_the_child_had_that_size():
    """The planted products are those of differences whose gain along their mean was really changed."""
    rng = np.random.default_rng(6)
    parent, child = (rng.normal(size=(30, 9)) + 1 for _ in range(2))
    layers = [
        SiteProducts(aa=cross_product(parent, parent), bb=cross_product(child, child), ab=UNIT, frozen_scale=UNIT)
    ]
    middle = child.mean(axis=0)
    planted = _with_size(layers[0], child @ middle, 0.6)
    assert planted.bb.value == pytest.approx(0.36 * layers[0].aa.value)
    unit = middle / np.linalg.norm(middle)
    along = cross_product((child @ unit)[:, None], (child @ unit)[:, None]).value
    gain = np.sqrt(1 + (0.36 * layers[0].aa.value - layers[0].bb.value) / along)
    really = child + (gain - 1) * np.outer(child @ unit, unit)
    np.testing.assert_allclose(planted.bb.without, cross_product(really, really).without)


def test_the_smallest_detectable_loss_grows_with_the_family_and_reaches_one():
    rng = np.random.default_rng(7)

    def loss(signal, family=1):
        parent = rng.normal(size=(30, 40)) + signal
        child = parent + 0.3 * rng.normal(size=(30, 40))
        layers = [
            SiteProducts(aa=cross_product(parent, parent), bb=cross_product(child, child), ab=UNIT, frozen_scale=UNIT)
        ]
        return detectable_loss(layers, [child @ child.mean(axis=0)], family)

    assert 0 < loss(0.5) < loss(0.5, 12) < 0.6
    assert loss(0.0) == 1
