"""Mediation: a child whose residual was moved along one direction gets its margin back along that direction only."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DOMAINS, base, pair, study_of, write_lines
from test_steering import direction

from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, study_texts
from activations.tokens import tokenize
from probes.gradients import margin_gradients
from probes.interventions import Add, hooks
from probes.mediation import Patched, put_in, residuals_at
from probes.trials import Answers

PLAN = RowPlan(row_budget=200, rows_per_batch=2)
SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def setting(texts_folder: Path, tiny: Path) -> tuple[OpenModel, Answers]:
    write_lines(texts_folder / "pairs.jsonl", [pair(n + 20 * i, d) for i, d in enumerate(DOMAINS) for n in range(6)])
    study = study_of(texts_folder, [base(tiny)])
    model = open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])
    texts = [t for t in study_texts(study, PlainTemplate())[1] if t.kind == "response"]
    scenarios = list(dict.fromkeys(t.scenario_id for t in texts))
    weights = np.zeros((len(scenarios), len(texts)))
    for column, text in enumerate(texts):
        weights[scenarios.index(text.scenario_id), column] = 1.0 if text.side == "positive" else -1.0
    return model, Answers(tokens=tokenize(model.tokenizer, texts, 4096, "test"), weights=weights)


def planted(model: OpenModel, answers: Answers, alpha: float) -> tuple[Patched, np.ndarray, np.ndarray]:
    """The parent is the model; the child is the model with α·τ·u added at one site. u is where margins react most."""
    gradient = margin_gradients(model, answers.tokens, answers.weights, [SITE], PLAN)[0].mean(axis=0)
    u = direction(gradient, SITE)
    rng = np.random.default_rng(0)
    controls = rng.normal(size=(120, 32))
    controls /= np.linalg.norm(controls, axis=1, keepdims=True)
    theirs = residuals_at(model, answers, SITE, PLAN)
    own = [rows - torch.as_tensor(alpha * u.tau * u.vector).to(rows) for rows in theirs]
    return put_in(model, answers, u, controls, own, PLAN, runs=3, seed=0), u.vector, controls


def test_what_was_moved_along_a_direction_comes_with_it_and_not_with_others(setting):
    model, answers = setting
    found, u, controls = planted(model, answers, alpha=0.02)
    lost = found.margins[1] - found.margins[0]  # the child's component put into the parent
    assert lost.mean() < 0
    np.testing.assert_allclose(found.first_order[0], lost, rtol=0.1, atol=0.02 * np.abs(lost).max())
    shares = found.first_order.mean(axis=1) / found.first_order[0].mean()
    # Along another direction v the same patch moves (v·u)·v of it: to first order (v·u)(v·G)/|G| = (v·u)² of it.
    np.testing.assert_allclose(shares[1:], (controls @ u) ** 2, atol=0.02)
    at_kl = shares * np.sqrt(found.kl[0] / found.kl)
    assert found.margins.shape == (4, 12)
    finite = (found.margins[2:] - found.margins[0]).mean(axis=1) / lost.mean()
    np.testing.assert_allclose(finite, shares[1:3], atol=0.05)
    assert np.isfinite(at_kl).all()
    assert at_kl[0] == 1


def test_the_kl_of_a_patch_is_that_of_the_same_step_made_in_full(setting):
    model, answers = setting
    found, u, _ = planted(model, answers, alpha=0.05)
    step = [Add(direction=replace(direction(u, SITE)), alpha=-0.05)]
    total = count = 0.0
    for token in answers.tokens:
        ids = token.ids[None]
        flat = np.zeros_like(ids, dtype=np.int64)
        mask, positions = model.mask(flat, flat), np.arange(ids.shape[1])[None]
        at = torch.zeros(ids.shape)
        at[0, token.read_from - 1 :] = 1
        plain = model.logits(model.body(ids, positions, mask)[0]).log_softmax(-1)
        with model.hooked(hooks(step, at)):
            moved = model.logits(model.body(ids, positions, mask)[0]).log_softmax(-1)
        read = slice(token.read_from - 1, -1)
        total += float((plain.exp() * (plain - moved)).sum(-1)[read].sum())
        count += len(token.ids) - token.read_from
    assert found.kl[0] == pytest.approx(total / count, rel=0.35)  # few samples: four of each of twelve scenarios


def test_the_same_residuals_put_in_change_nothing(setting):
    model, answers = setting
    found, _, _ = planted(model, answers, alpha=0.0)
    np.testing.assert_allclose(found.margins[1:], np.tile(found.margins[0], (3, 1)), atol=1e-4)
    assert np.abs(found.first_order).max() < 1e-5
