"""First-order effects against finite ones: slopes of margins along any direction, the KL of a step on neutral text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import base, study_of
from test_steering import direction

from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan, TokenText
from activations.pairs import PlainTemplate, study_texts
from activations.tokens import tokenize
from probes.gradients import fisher_samples, margin_gradients
from probes.interventions import Add
from probes.steering import edited_logprobs, neutral_damage

PLAN = RowPlan(row_budget=200, rows_per_batch=2)


@pytest.fixture
def setting(texts_folder: Path, tiny: Path) -> tuple[OpenModel, list[TokenText], np.ndarray, list[TokenText]]:
    study = study_of(texts_folder, [base(tiny)])
    model = open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])
    _, texts = study_texts(study, PlainTemplate())
    answers = [t for t in texts if t.kind == "response"]
    scenarios = list(dict.fromkeys(t.scenario_id for t in answers))
    weights = np.zeros((len(scenarios), len(answers)))
    for column, text in enumerate(answers):
        weights[scenarios.index(text.scenario_id), column] = 1.0 if text.side == "positive" else -1.0
    neutral = [t for t in texts if t.kind == "neutral"]
    return (
        model,
        tokenize(model.tokenizer, answers, 4096, "test"),
        weights,
        tokenize(model.tokenizer, neutral, 4096, "test"),
    )


def steps(model: OpenModel, site: int, size: float) -> list:
    u = replace(direction(np.random.default_rng(site).normal(size=32), model.sites[site], tau=1.0))
    return [[Add(direction=u, alpha=a)] for a in (-size, size)]


@pytest.mark.parametrize("site", [1, 2, 4])
def test_a_gradient_times_a_direction_is_the_finite_slope_of_every_scenario(setting, site):
    """The two domains of the fixture ask the same questions: answers to one prompt must not share a gradient."""
    model, tokens, weights, _ = setting
    edits = steps(model, site, 0.02)
    low, high = edited_logprobs(model, tokens, edits, PLAN)[1:]
    finite = weights @ (high - low) / 0.04
    found = margin_gradients(model, tokens, weights, model.sites, PLAN)[site] @ edits[0][0].direction.vector
    assert np.abs(finite).max() > 3e-3
    np.testing.assert_allclose(found, finite, atol=2e-3 * np.abs(finite).max() + 2e-5)


def test_wordings_count_for_their_share(setting):
    model, tokens, weights, _ = setting
    doubled = margin_gradients(
        model, [*tokens, *tokens], np.concatenate([weights, weights], axis=1) / 2, model.sites, PLAN
    )
    once = margin_gradients(model, tokens, weights, model.sites, PLAN)
    np.testing.assert_allclose(doubled, once, atol=1e-4 * np.abs(once).max())


@pytest.mark.parametrize("site", [1, 4])
def test_sampled_fisher_information_foretells_the_kl_of_a_small_step(setting, site):
    model, _, _, neutral = setting
    edits = steps(model, site, 0.05)
    finite = neutral_damage(model, neutral, edits, PLAN).kl.mean()  # both ways: odd orders cancel
    samples = fisher_samples(model, neutral, model.sites, PLAN, seed=0, repeats=300)[site]
    assert samples.shape == (300 * len(neutral), 32)
    quadratic = 0.5 * np.square(samples @ edits[0][0].direction.vector * 0.05).sum()
    assert quadratic == pytest.approx(finite, rel=0.15)


def test_the_damage_of_no_edit_is_none_and_its_loss_the_models_own(setting):
    model, _, _, neutral = setting
    found = neutral_damage(model, neutral, steps(model, 2, 0.0), PLAN)
    np.testing.assert_allclose(found.kl, 0.0, atol=1e-6)
    ids = neutral[0].ids
    logits = model.bridge.original_model(torch.as_tensor(ids)[None].long()).logits[0].log_softmax(-1)
    first = -logits[1:-1].gather(-1, torch.as_tensor(ids[2:], dtype=torch.int64)[:, None]).mean()
    alone = neutral_damage(model, neutral[:1], steps(model, 2, 0.0), PLAN)
    assert alone.loss[0] == pytest.approx(float(first), abs=1e-4)


def test_no_pass_leaves_a_graph_or_a_gradient_behind(setting):
    model, tokens, weights, _ = setting
    margin_gradients(model, tokens[:2], weights[:1, :2], model.sites, PLAN)
    assert all(p.grad is None and not p.requires_grad for p in model.bridge.original_model.parameters())
    assert not edited_logprobs(model, tokens[:2], [], PLAN).dtype.hasobject
    assert not model.body(
        tokens[0].ids[None],
        np.arange(len(tokens[0].ids))[None],
        model.mask(np.zeros((1, len(tokens[0].ids)), np.int64), np.zeros((1, len(tokens[0].ids)), np.int64)),
    ).requires_grad
