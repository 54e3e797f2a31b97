"""Rotation and rounding: known truths whose size is known before anything is measured."""

import numpy as np
import pytest
import torch
from conftest import base, save_llama, study_of, write_study
from test_sources_and_edits import CPU, NEUTRAL, logits, opened
from transformers import GPT2Config, GPT2LMHeadModel

from activations.errors import InputError
from activations.model import open_checkpoint, weights_identity
from activations.openmodel import OpenModel
from activations.rotation import turn


def residuals(model: OpenModel) -> torch.Tensor:
    kept = []
    with model.hooked({s: lambda _site, v: kept.append(v[0].double().clone()) for s in model.sites}):
        model.body(np.arange(10, 30)[None], np.arange(20)[None], model.mask(*(2 * [np.zeros((1, 20), int)])))
    return torch.stack(kept)


def test_a_turn_turns_every_vector_by_the_same_angle():
    q = turn(64, 60.0)
    torch.testing.assert_close(q @ q.T, torch.eye(64, dtype=torch.float64), atol=1e-12, rtol=0)
    vectors = torch.randn(100, 64, dtype=torch.float64)
    cosines = torch.nn.functional.cosine_similarity(vectors, vectors @ q.T)
    torch.testing.assert_close(cosines, torch.full_like(cosines, 0.5), atol=1e-12, rtol=0)


@pytest.mark.parametrize("degrees", [30.0, 90.0, 180.0])
def test_rotation_turns_the_residual_stream_and_keeps_the_function(tmp_path, tiny, degrees):
    parent, child = opened(tmp_path, tiny, edit={"rotate": degrees})
    torch.testing.assert_close(logits(child), logits(parent), rtol=1e-4, atol=1e-4)
    before, after = residuals(parent), residuals(child)
    torch.testing.assert_close(after, before @ turn(32, degrees).T, rtol=1e-3, atol=1e-4)
    cosines = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    torch.testing.assert_close(cosines, torch.full_like(cosines, np.cos(np.deg2rad(degrees))), rtol=0, atol=1e-4)


def test_an_architecture_that_it_does_not_fit_is_refused(tmp_path, tiny):
    from conftest import save_tokenizer

    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4)).save_pretrained(folder)
    save_tokenizer(folder)
    study = study_of(
        write_study(tmp_path),
        [base(folder), {"name": "child", "stage": "control", "parent": "base", "edit": {"rotate": 45.0}}],
    )
    with pytest.raises(InputError, match="rotate does not fit"):
        open_checkpoint(study, "child", device=CPU, neutral_ids=NEUTRAL)


def test_an_odd_width_is_refused(tmp_path):
    from activations.rotation import rotate

    class Odd:
        class cfg:
            d_model = 33

    with pytest.raises(InputError, match="even width"):
        rotate(Odd(), 45.0, torch.zeros(1, 2, dtype=torch.long), "here")


def test_rounding_to_bfloat16_rounds_every_parameter(tmp_path, tiny):
    parent, child = opened(tmp_path, tiny, edit={"round": "bfloat16"})
    for (name, a), b in zip(
        parent.bridge.original_model.named_parameters(), child.bridge.original_model.parameters(), strict=True
    ):
        assert torch.equal(a.to(torch.bfloat16).float(), b), name
    assert not torch.equal(logits(parent), logits(child))


def test_rounding_to_int8_keeps_255_levels_a_row_and_leaves_embeddings(tmp_path, tiny):
    parent, child = opened(tmp_path, tiny, edit={"round": "int8"})
    before = parent.bridge.blocks[1].mlp.submodules["out"].original_component.weight
    after = child.bridge.blocks[1].mlp.submodules["out"].original_component.weight
    step = before.abs().amax(dim=1, keepdim=True) / 127
    assert float(((after - before).abs() / step).max()) <= 0.5 + 1e-4
    levels = (after / step).round()
    torch.testing.assert_close(levels * step, after, rtol=1e-5, atol=1e-7)
    assert torch.equal(parent.bridge.embed.original_component.weight, child.bridge.embed.original_component.weight)
    assert not torch.equal(logits(parent), logits(child))


def test_every_edit_has_an_identity_of_its_own(tmp_path, tiny):
    edits = [{"identity": True}, {"round": "bfloat16"}, {"round": "int8"}, {"rotate": 30.0}, {"rotate": 60.0}]
    checkpoints = [
        {"name": f"c{i}", "stage": "control", "parent": "base", "edit": edit} for i, edit in enumerate(edits)
    ]
    study = study_of(tmp_path, [base(tiny), *checkpoints])
    assert len({weights_identity(study, c.name) for c in study.lineage.checkpoints}) == 6


@pytest.mark.parametrize(
    "edit", [{"rotate": 0.0}, {"rotate": 200.0}, {"round": "int4"}, {"round": "int8", "rotate": 3.0}]
)
def test_an_edit_that_makes_no_sense_is_refused(tmp_path, tiny, edit):
    with pytest.raises(InputError):
        opened(tmp_path, tiny, edit=edit)


def test_a_llama_with_a_gain_that_is_not_one_is_folded_right(tmp_path):
    import transformers

    folder = tmp_path / "gains"
    save_llama(folder, layers=2)
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.uniform_(0.3, 2.0)
    model.save_pretrained(folder)
    parent, child = opened(tmp_path, folder, edit={"rotate": 77.0})
    torch.testing.assert_close(logits(child), logits(parent), rtol=1e-3, atol=2e-4)
