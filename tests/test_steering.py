"""Steering: batched sweeps equal one-at-a-time hooks, dose 0 changes nothing, a planted direction steers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import base, study_of

from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, study_texts
from activations.tokens import tokenize
from probes.direction import Direction
from probes.steering import Add, dose_slopes, steered_logprobs


def direction(vector: np.ndarray, site: str, tau: float = 3.0) -> Direction:
    return Direction(
        vector=vector,
        site=site,
        position="response_mean",
        method="mass-mean",
        contrast="c",
        domain="d",
        size=1.0,
        tau=tau,
        scenarios="",
        checkpoint="",
    )


@pytest.fixture
def setting(texts_folder: Path, tiny: Path) -> tuple[OpenModel, list]:
    study = study_of(texts_folder, [base(tiny)])
    model = open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])
    _, texts = study_texts(study, PlainTemplate())
    responses = [t for t in texts if t.kind == "response"][:6]
    return model, tokenize(model.tokenizer, responses, 4096, "test")


def one_at_a_time(model: OpenModel, token, u: Direction, alpha: float) -> float:
    """The plain way: TransformerLens run_with_hooks on one text, no packing, no mask of ours."""

    def add(value: torch.Tensor, hook) -> torch.Tensor:
        value = value.clone()
        value[0, token.read_from - 1 :] += torch.as_tensor(alpha * u.tau * u.vector).to(value)
        return value

    ids = torch.as_tensor(token.ids)[None]
    with torch.no_grad():
        found = model.bridge.run_with_hooks(ids, fwd_hooks=[(u.site, add)], return_type="logits")
    logprob = found[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return float(logprob[token.read_from - 1 :].mean())


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"])
def test_a_packed_sweep_equals_hooks_on_one_text_at_a_time(setting, site):
    model, tokens = setting
    u = direction(np.random.default_rng(0).normal(size=32), site)
    doses = [-0.5, 0.2]
    found = steered_logprobs(model, tokens, u, doses, RowPlan(row_budget=200, rows_per_batch=2), lambda _n: None)
    for line, alpha in enumerate([0.0, *doses]):
        expected = [one_at_a_time(model, t, u, alpha) for t in tokens]
        np.testing.assert_allclose(found[line], expected, atol=2e-4)


def test_without_resuming_in_the_middle_the_sweep_is_the_same(setting, monkeypatch):
    model, tokens = setting
    u = direction(np.ones(32), "blocks.1.hook_resid_post")
    plan = RowPlan(row_budget=200, rows_per_batch=2)
    resumed = steered_logprobs(model, tokens, u, [0.3], plan, lambda _n: None)
    monkeypatch.setattr("probes.steering.RESUME_TOLERANCE", {torch.float32: -1.0})
    np.testing.assert_allclose(steered_logprobs(model, tokens, u, [0.3], plan, lambda _n: None), resumed, atol=1e-4)


def test_steering_towards_a_token_makes_it_likelier_the_more_the_larger_the_dose(setting):
    """Positive control: along the unembedding row of the byte "G" after the last block, "G" must gain with the dose."""
    model, tokens = setting
    letter = model.tokenizer("G").input_ids[0]
    u = direction(model.bridge.original_model.get_output_embeddings().weight[letter].detach().numpy(), model.sites[-1])
    doses = [-0.4, -0.2, 0.2, 0.4]
    ends = [type(t)(ids=np.r_[t.ids[: t.read_from], letter], read_from=t.read_from, group=t.group) for t in tokens]
    found = steered_logprobs(model, ends, u, doses, RowPlan(row_budget=200, rows_per_batch=1), lambda _n: None)
    ordered = found[[1, 2, 0, 3, 4]]
    assert (np.diff(ordered, axis=0) > 0).all()


def test_the_documented_sweep_does_what_it_says(setting):
    page = (Path(__file__).parents[1] / "docs" / "steering.md").read_text(encoding="utf-8")
    model, tokens = setting
    u = direction(np.random.default_rng(0).normal(size=32), "blocks.1.hook_resid_post")
    names = {"model": model, "tokens": tokens, "u": u}
    exec(page.split("```python\n")[1].split("```")[0], names)
    found = names["logprobs"]
    assert found.shape == (4, len(tokens))
    np.testing.assert_allclose(found[1], [one_at_a_time(model, t, u, 0.05) for t in tokens], atol=2e-4)
    assert np.abs(found[2] - found[3]).max() > 1e-5  # ablated, and ablated with a dose added


def test_dose_zero_and_unedited_tokens_are_left_alone():
    u = direction(np.ones(4), "blocks.0.hook_resid_post")
    value = torch.randn(1, 3, 4)
    at = torch.tensor([[0.0, 1.0, 1.0]])
    torch.testing.assert_close(Add(direction=u, alpha=0.0).apply(value, at), value, rtol=0, atol=0)
    moved = Add(direction=u, alpha=0.5).apply(value, at) - value
    assert (moved[0, 0] == 0).all()
    torch.testing.assert_close(moved[0, 1].norm(), torch.tensor(0.5 * u.tau))


def test_slopes_are_least_squares_over_the_linear_reach_only():
    doses = [0.0, -0.1, -0.05, 0.05, 0.1]
    margins = np.array([[1.0], [99.0], [0.9], [1.1], [-99.0]])
    assert dose_slopes(doses, margins, 0.05)[0] == pytest.approx(2.0)
    assert np.isnan(dose_slopes(doses, margins, 0.01)[0])


def test_a_direction_is_a_read_only_unit_vector_that_survives_its_file(tmp_path):
    u = direction(np.array([3.0, 4.0]), "blocks.0.hook_resid_post")
    assert np.linalg.norm(u.vector) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="read-only"):
        u.vector[0] = 1.0
    u.save(tmp_path / "u.safetensors")
    again = Direction.load(tmp_path / "u.safetensors")
    np.testing.assert_allclose(again.vector, u.vector, atol=1e-7)
    assert (again.site, again.tau, again.method) == (u.site, u.tau, u.method)
    assert u.project(np.array([[3.0, 4.0]]))[0] == pytest.approx(5.0)
    assert u.cosine(again) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no finite length"):
        direction(np.zeros(3), "s")
