"""Slopes against control directions: what a planted effect must read, at equal norm and at matched KL."""

import numpy as np
import pytest

from probes.effects import MATCHED_KL, control_sets, slopes
from probes.sides import Sides

D, K = 40, 30
U = np.eye(D)[0]


def sides(rng: np.random.Generator) -> Sides:
    shared, noise = rng.normal(size=(K, D)), rng.normal(size=(2, K, D))
    return Sides(positive=shared + noise[0] + U, negative=shared + noise[1] - U)


@pytest.fixture
def controls() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return control_sets(sides(rng), U, {"tone": np.eye(D)[1] * 3}, draws=499, seed=1)


def test_control_directions_are_unit_and_what_they_are_called(controls):
    for rows in controls.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0)
    assert set(controls) == {"matched", "orthogonal", "shuffled", "confound: tone"}
    assert np.abs(controls["orthogonal"] @ U).max() < 1e-12
    assert np.abs(controls["matched"] @ U).max() > 0.1  # positive control
    np.testing.assert_allclose(controls["confound: tone"], np.eye(D)[1:2])
    # Their spread is that of the texts about their own side's mean, which holds nothing of the planted difference.
    assert np.square(controls["matched"] @ U).mean() == pytest.approx(1 / D, rel=0.5)


def by_name(gradient: np.ndarray, fisher: np.ndarray, controls: dict[str, np.ndarray], tau: float = 2.0) -> dict:
    return {s.control: s for s in slopes(gradient, fisher, tau, U, controls, np.arange(len(gradient)))}


def test_a_gradient_along_the_direction_beats_the_controls_and_none_does_not(controls):
    rng = np.random.default_rng(3)
    noise = 0.05 * rng.normal(size=(K, D))
    fisher = rng.normal(size=(200, D))
    real = by_name(noise + U, fisher, controls)
    assert real["none"].slope == pytest.approx(2.0, abs=0.1)
    assert real["none"].anti_steerable == 0
    assert real["matched"].beaten == real["shuffled"].beaten == real["confound: tone"].beaten == 1
    assert real["matched"].beaten_at_kl == 1
    shares = [by_name(rng.normal(size=(K, D)), fisher, controls)["matched"].beaten for _ in range(200)]
    # Without an effect u's slope is one more draw, and only a positive one can exceed the controls' |slope|.
    assert np.mean(np.asarray(shares) >= 0.95) == pytest.approx(0.025, abs=0.025)


def test_at_matched_kl_a_direction_that_costs_more_is_worth_less(controls):
    rng = np.random.default_rng(4)
    gradient = 0.05 * rng.normal(size=(K, D)) + U + np.eye(D)[1]
    fisher = rng.normal(size=(400, D))
    dear = fisher * np.where(np.arange(D) == 0, 10.0, 1.0)
    cheap, costly = by_name(gradient, fisher, controls), by_name(gradient, dear, controls)
    assert costly["none"].slope == cheap["none"].slope
    assert costly["none"].effect_at_kl == pytest.approx(cheap["none"].effect_at_kl / 10)
    assert cheap["confound: tone"].beaten_at_kl == pytest.approx(costly["confound: tone"].beaten_at_kl + 1) or (
        cheap["confound: tone"].beaten_at_kl == 0
    )
    assert costly["matched"].beaten_at_kl < cheap["matched"].beaten_at_kl
    dose = cheap["none"].dose_at_kl
    assert 0.5 * np.square(fisher @ U * dose * 2.0).sum() == pytest.approx(MATCHED_KL)


def test_the_unit_of_doses_does_not_change_what_is_compared_at_equal_damage(controls):
    rng = np.random.default_rng(5)
    gradient, fisher = rng.normal(size=(K, D)) + U, rng.normal(size=(50, D))
    small, large = by_name(gradient, fisher, controls, 1.0), by_name(gradient, fisher, controls, 10.0)
    assert large["none"].slope == pytest.approx(10 * small["none"].slope)
    assert large["none"].effect_at_kl == pytest.approx(small["none"].effect_at_kl)
    assert large["matched"].beaten == small["matched"].beaten
