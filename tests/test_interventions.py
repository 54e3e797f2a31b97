"""Interventions: what each leaves behind, how they compose, and that they are always removed again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import base, study_of
from test_steering import direction

from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from probes.interventions import Ablate, Add, Affine, Conditional, Patch, apply_all, hooks

SITE = "blocks.1.hook_resid_post"
AT = torch.tensor([[0.0, 1.0, 1.0]])


@pytest.fixture
def value() -> torch.Tensor:
    return torch.randn((1, 3, 32), generator=torch.Generator().manual_seed(0)) * 5


@pytest.fixture
def model(texts_folder: Path, tiny: Path) -> OpenModel:
    return open_checkpoint(study_of(texts_folder, [base(tiny)]), "base", device=torch.device("cpu"), neutral_ids=[])


def along(value: torch.Tensor, u) -> np.ndarray:
    return u.project(value.double().numpy())[0]


U = direction(np.random.default_rng(1).normal(size=32), SITE)


def test_ablation_leaves_nothing_along_the_direction_and_all_the_rest(value):
    left = Ablate(direction=U).apply(value, AT)
    assert np.abs(along(left, U))[1:].max() < 1e-5 * U.tau
    assert (left[0, 0] == value[0, 0]).all()
    moved = (left - value)[0, 1].double().numpy()
    np.testing.assert_allclose(moved, -U.project(value[0, 1].double().numpy()) * U.vector, atol=1e-5)


def test_ablation_of_bfloat16_is_as_near_zero_as_that_format_can_say(value):
    left = Ablate(direction=U).apply(value.bfloat16(), AT)
    assert left.dtype == torch.bfloat16
    assert np.abs(along(left, U))[1:].max() < 0.02 * float(value.norm(dim=-1).max())


@pytest.mark.parametrize("alpha", [0, 1.0, -0.5])
def test_affine_sets_every_token_to_one_place_between_the_sides(value, alpha):
    u = replace(U, size=4.0)
    left = Affine(direction=u, centre=-1.5, alpha=alpha).apply(value, AT)
    np.testing.assert_allclose(along(left, u)[1:], -1.5 + alpha * 4.0, atol=1e-5)


def test_a_patch_takes_over_the_component_or_a_share_of_it(value):
    source = torch.tensor([[7.0, 2.0, -3.0]])
    before = along(value, U)
    np.testing.assert_allclose(along(Patch(direction=U, source=source).apply(value, AT), U)[1:], [2, -3], atol=1e-5)
    half = along(Patch(direction=U, source=source, share=0.5).apply(value, AT), U)
    np.testing.assert_allclose(half[1:], (before[1:] + np.array([2, -3])) / 2, atol=1e-5)
    none = Patch(direction=U, source=source, share=0).apply(value, AT)
    torch.testing.assert_close(none, value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("above", [True, False])
def test_a_condition_lets_through_only_tokens_beyond_its_threshold(value, above):
    place = along(value, U)
    threshold = float(place[1:].mean())
    edit = Conditional(inner=Add(direction=U, alpha=1.0), direction=U, threshold=threshold, above=above)
    changed = np.abs(along(edit.apply(value, AT), U) - place) > 1e-3
    expected = (place > threshold) == above
    expected[0] = False  # not among the tokens that an edit may touch
    assert changed.tolist() == expected.tolist()
    assert edit.site == SITE
    assert changed.any()


def test_edits_of_a_site_act_in_the_order_given(value):
    add, ablate = Add(direction=U, alpha=1.0), Ablate(direction=U)
    assert np.abs(along(apply_all([add, ablate], value, AT), U)[1:]).max() < 1e-4
    np.testing.assert_allclose(along(apply_all([ablate, add], value, AT), U)[1:], U.tau, atol=1e-4)


def test_hooks_at_two_sites_edit_both_and_are_removed_also_after_an_error(model):
    ids, positions = np.arange(6)[None] + 40, np.arange(6)[None]
    mask = model.mask(np.zeros((1, 6), np.int64), np.zeros((1, 6), np.int64))
    other = replace(U, site="blocks.2.hook_resid_post")
    at = torch.ones(1, 6)
    kept: dict[str, torch.Tensor] = {}

    def keep(site: str, value: torch.Tensor) -> None:
        kept[site] = value.detach().clone()

    plain = model.body(ids, positions, mask)
    # The edit of a site comes before whoever looks at what leaves it.
    with (
        model.hooked(hooks([Ablate(direction=U), Ablate(direction=other)], at)),
        model.hooked(
            {
                SITE: keep,
                other.site: keep,
            }
        ),
    ):
        edited = model.body(ids, positions, mask)
    for site in (SITE, other.site):
        assert np.abs(along(kept[site], U)).max() < 1e-5 * U.tau
    assert (edited - plain).abs().max() > 1e-3
    with pytest.raises(RuntimeError, match="stop"), model.hooked(hooks([Add(direction=U, alpha=5.0)], at)):
        raise RuntimeError("stop")
    torch.testing.assert_close(model.body(ids, positions, mask), plain, atol=0, rtol=0)


def test_dose_zero_is_the_identity_to_the_last_bit(value):
    torch.testing.assert_close(Add(direction=U, alpha=0.0).apply(value, AT), value, atol=0, rtol=0)
