"""Sampling: the same in any batch as alone and without a cache, steered from the last prompt token on, cut at EOS."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import base, save_tokenizer, study_of
from test_steering import direction
from transformers import GPT2Config, GPT2LMHeadModel

from activations.errors import InputError
from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from probes import generation
from probes.generation import end_tokens, sample_answers
from probes.interventions import Ablate, Add

PROMPTS = ["What about tide?", "And the long wooden ladder by the wall?", "No"]
SITES = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-block GPT-2 of width 32."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=4, n_head=4, initializer_range=0.3, eos_token_id=299)
    GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, texts_folder: Path, tiny: Path, gpt2: Path) -> OpenModel:
    study = study_of(texts_folder, [base(tiny if request.param == "llama" else gpt2)])
    return open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])


def prompts(model: OpenModel) -> list[np.ndarray]:
    return [np.asarray(model.tokenizer(text).input_ids) for text in PROMPTS]


def without_cache(model: OpenModel, ids: np.ndarray, edit: Add | None, n: int) -> list[int]:
    """The plain way, greedily: the whole text again for every token, TransformerLens hooks, no padding, no mask."""

    def add(value: torch.Tensor, hook) -> torch.Tensor:
        value = value.clone()
        value[0, len(ids) - 1 :] += torch.as_tensor(edit.alpha * edit.direction.tau * edit.direction.vector).to(value)
        return value

    text, ends = ids.tolist(), end_tokens(model)
    for _ in range(n):
        given = torch.as_tensor([text])
        with torch.no_grad():
            if edit is None:
                logits = model.bridge.original_model(given).logits
            else:
                logits = model.bridge.run_with_hooks(given, fwd_hooks=[(edit.site, add)], return_type="logits")
        token = int(logits[0, -1].argmax())
        if token in ends:
            break
        text.append(token)
    return text[len(ids) :]


@pytest.mark.parametrize("site", SITES)
def test_a_steered_batch_equals_hooks_on_one_text_at_a_time_without_a_cache(model, site):
    asked = prompts(model)
    edit = Add(direction=direction(np.random.default_rng(0).normal(size=32), site), alpha=0.7)
    plain = sample_answers(model, asked, max_new_tokens=12, temperature=0, seed=0)
    steered = sample_answers(model, asked, interventions=[edit], max_new_tokens=12, temperature=0, seed=0)
    assert [a.tolist() for a in plain] == [without_cache(model, ids, None, 12) for ids in asked]
    assert [a.tolist() for a in steered] == [without_cache(model, ids, edit, 12) for ids in asked]
    assert any(a.tolist() != b.tolist() for a, b in zip(plain, steered, strict=True))  # positive control


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_an_answer_does_not_depend_on_the_other_prompts_or_their_order(model, temperature, monkeypatch):
    asked = prompts(model)
    edit = Ablate(direction=direction(np.random.default_rng(1).normal(size=32), SITES[1]))
    ask = {"interventions": [edit], "max_new_tokens": 15, "temperature": temperature, "seed": 3}
    together = [a.tolist() for a in sample_answers(model, asked, **ask)]
    assert [sample_answers(model, [ids], **ask)[0].tolist() for ids in asked] == together
    assert [a.tolist() for a in sample_answers(model, asked[::-1], **ask)] == together[::-1]
    monkeypatch.setattr(generation, "CACHE_TOKENS", 40)  # batches of one or two
    assert [a.tolist() for a in sample_answers(model, asked, **ask)] == together


def test_a_seed_repeats_itself_and_copies_of_a_prompt_are_other_samples(model):
    ids = prompts(model)[0]
    ask = {"max_new_tokens": 10, "temperature": 1.5}
    first = [a.tolist() for a in sample_answers(model, [ids] * 4, seed=0, **ask)]
    assert [a.tolist() for a in sample_answers(model, [ids] * 4, seed=0, **ask)] == first
    assert len({tuple(a) for a in first}) > 1
    assert [a.tolist() for a in sample_answers(model, [ids] * 4, seed=1, **ask)] != first
    longer = sample_answers(model, [ids] * 4, seed=0, max_new_tokens=14, temperature=1.5)
    assert [a[:10].tolist() for a in longer] == first


def test_tokens_are_drawn_as_often_as_the_model_says(model):
    ids = prompts(model)[2]
    with torch.no_grad():
        expected = (model.bridge.original_model(torch.as_tensor(ids)[None]).logits[0, -1].double() / 2).softmax(-1)
    n = 4000
    drawn = sample_answers(model, [ids] * n, max_new_tokens=1, temperature=2.0, seed=0)
    ends = end_tokens(model)
    counts = np.bincount([int(a[0]) for a in drawn if len(a)], minlength=len(expected)) / n
    likely = [t for t in expected.argsort(descending=True)[:10].tolist() if t not in ends]
    wanted = expected[likely].numpy()
    assert (np.abs(counts[likely] - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / n)).all()
    assert np.mean([len(a) == 0 for a in drawn]) == pytest.approx(float(expected[ends].sum()), abs=0.02)


def test_an_answer_ends_before_the_end_token_while_the_others_go_on(model, monkeypatch):
    asked = prompts(model)
    monkeypatch.setattr(generation, "end_tokens", lambda _model: [])
    whole = [a.tolist() for a in sample_answers(model, asked, max_new_tokens=12, temperature=1.0, seed=5)]
    assert [len(a) for a in whole] == [12, 12, 12]
    end = next(t for t in whole[0] if not all(t in a for a in whole))
    monkeypatch.setattr(generation, "end_tokens", lambda _model: [end])
    cut = [a.tolist() for a in sample_answers(model, asked, max_new_tokens=12, temperature=1.0, seed=5)]
    assert cut == [a[: a.index(end)] if end in a else a for a in whole]
    assert len(cut[0]) < 12
    assert max(map(len, cut)) == 12


def test_the_end_tokens_are_the_generation_configs_and_the_tokenizers(model):
    config = model.bridge.original_model.generation_config
    config.eos_token_id = [7, 9]
    assert end_tokens(model) == sorted({7, 9, model.tokenizer.eos_token_id})


def test_what_cannot_be_sampled_is_refused(model):
    ids = prompts(model)[0]
    with pytest.raises(InputError, match="more than the context of"):
        sample_answers(model, [ids], max_new_tokens=model.context, temperature=0, seed=0)
    for wrong in ({"temperature": -1.0}, {"max_new_tokens": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="at least"):
            sample_answers(model, [ids], **({"max_new_tokens": 1, "temperature": 0, "seed": 0} | wrong))
    with pytest.raises(ValueError, match="must not be empty"):
        sample_answers(model, [ids[:0]], max_new_tokens=1, temperature=0, seed=0)
    huge = Add(direction=direction(np.ones(32), SITES[2]), alpha=float("inf"))
    with pytest.raises(InputError, match="not finite"):
        sample_answers(model, [ids], interventions=[huge], max_new_tokens=1, temperature=0, seed=0)
    assert sample_answers(model, [], max_new_tokens=1, temperature=0, seed=0) == []
