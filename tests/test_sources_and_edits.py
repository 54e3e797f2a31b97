"""Adapters must do something, edits must do what they say, weights must be safe to load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import base, save_adapter, save_llama, study_of
from safetensors.numpy import save_file
from transformers import LlamaForCausalLM

from activations.errors import InputError
from activations.model import open_checkpoint, weights_identity
from activations.openmodel import OpenModel

CPU = torch.device("cpu")
NEUTRAL = [np.arange(10, 40), np.arange(5, 60, 2), np.arange(100, 130)]


def direction_file(folder: Path, d_model: int = 32) -> Path:
    vector = np.random.default_rng(0).normal(size=d_model).astype(np.float32)
    save_file({"vector": 5 * vector}, folder / "u.safetensors")
    return folder / "u.safetensors"


def logits(model: OpenModel) -> torch.Tensor:
    with torch.no_grad():
        return model.bridge.original_model(input_ids=torch.arange(10, 30)[None], use_cache=False).logits


def opened(folder: Path, tiny: Path, **last) -> tuple[OpenModel, OpenModel]:
    study = study_of(folder, [base(tiny), {"name": "child", "stage": "control", "parent": "base"} | last])
    return tuple(open_checkpoint(study, n, device=CPU, neutral_ids=NEUTRAL) for n in ("base", "child"))


def test_identity_changes_nothing_but_the_checkpoints_identity(tmp_path, tiny):
    parent, child = opened(tmp_path, tiny, edit={"identity": True})
    torch.testing.assert_close(logits(parent), logits(child), rtol=0, atol=0)
    study = study_of(
        tmp_path, [base(tiny), {"name": "child", "stage": "control", "parent": "base", "edit": {"identity": True}}]
    )
    assert weights_identity(study, "base") != weights_identity(study, "child")


def writer_outputs(model: OpenModel) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    names = ["embed", *(f"blocks.{i}.{part}" for i in range(4) for part in ("attn.o", "mlp.out"))]
    hooks = [(f"{n}.hook_out", lambda v, hook, n=n: kept.__setitem__(n, v[0, 1:].double().clone())) for n in names]
    with model.bridge.hooks(fwd_hooks=hooks), torch.no_grad():
        model.bridge.original_model.base_model(input_ids=torch.as_tensor(NEUTRAL[0])[None], use_cache=False)
    return kept


def test_attenuation_takes_its_share_of_the_embedding_along_the_direction_about_the_neutral_mean(tmp_path, tiny):
    path = direction_file(tmp_path)
    parent, child = opened(tmp_path, tiny, edit={"attenuate": 0.25, "direction": path.name})
    from activations.edits import read_vector

    u = torch.as_tensor(read_vector(path, 32))
    embed = parent.bridge.embed.original_component.weight.double()
    mean = torch.cat([embed[torch.as_tensor(ids[1:])] for ids in NEUTRAL]).mean(0)
    before, after = writer_outputs(parent)["embed"], writer_outputs(child)["embed"]
    torch.testing.assert_close((after - mean) @ u, 0.75 * ((before - mean) @ u), rtol=1e-4, atol=1e-5)
    across = torch.eye(32, dtype=torch.float64) - torch.outer(u, u)
    torch.testing.assert_close(after @ across, before @ across, rtol=1e-4, atol=1e-5)


def test_attenuation_edits_every_writer_and_leaves_the_unembedding(tmp_path, tiny):
    path = direction_file(tmp_path)
    parent, child = opened(tmp_path, tiny, edit={"attenuate": 1.0, "direction": path.name})
    from activations.edits import read_vector

    u = torch.as_tensor(read_vector(path, 32))
    for name, value in writer_outputs(child).items():
        along = value @ u
        assert float(along.std()) < 1e-4 * float((writer_outputs(parent)[name] @ u).std()) + 1e-6, name
    head = child.bridge.original_model.get_output_embeddings().weight
    torch.testing.assert_close(head, parent.bridge.original_model.get_output_embeddings().weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"vector": np.ones(7, np.float32)}, r"shape \[32\]; found vector \[7\]"),
        ({"w": np.ones(32)}, "found w"),
        ({"vector": np.zeros(32)}, "no finite length"),
    ],
)
def test_a_direction_that_does_not_fit_is_refused(tmp_path, tiny, content, said):
    save_file(content, tmp_path / "u.safetensors")
    with pytest.raises(InputError, match=said):
        opened(tmp_path, tiny, edit={"attenuate": 0.5, "direction": "u.safetensors"})


def test_a_merged_adapter_equals_peft_and_its_scale_scales_it(tmp_path, tiny, adapter):
    import peft

    _, whole = opened(tmp_path, tiny, adapter=str(adapter))
    wrapped = peft.PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny), adapter).eval()
    with torch.no_grad():
        expected = wrapped(input_ids=torch.arange(10, 30)[None]).logits
    torch.testing.assert_close(logits(whole), expected, rtol=1e-4, atol=1e-4)
    assert whole.receipt["adapters"][0]["largest_logit_change"] > 0
    weight = "model.layers.0.mlp.down_proj.weight"
    parent, half = opened(tmp_path, tiny, adapter=str(adapter), scale=0.5)

    def down(model: OpenModel) -> torch.Tensor:
        return model.bridge.blocks[0].mlp.submodules["out"].original_component.weight

    torch.testing.assert_close(down(half) - down(parent), 0.5 * (down(whole) - down(parent)), rtol=1e-3, atol=1e-6)
    assert weight  # the module compared above


def test_an_adapter_that_changes_no_logit_is_an_error(tmp_path, tiny):
    nothing = save_adapter(tiny, tmp_path / "nothing", scale=0.0)
    with pytest.raises(InputError, match="the adapter changes no logit"):
        opened(tmp_path, tiny, adapter=str(nothing))


def test_an_adapter_for_another_width_is_refused(tmp_path, tiny):
    save_llama(tmp_path / "wide", hidden=64)
    other = save_adapter(tmp_path / "wide", tmp_path / "other", scale=0.2)
    with pytest.raises(InputError, match="cannot be applied to its parent"):
        opened(tmp_path, tiny, adapter=str(other))


def test_pickled_weights_are_not_read(tmp_path, tiny):
    folder = tmp_path / "pickled"
    save_llama(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    study = study_of(tmp_path, [base(folder)])
    with pytest.raises(InputError, match="no safetensors weights"):
        open_checkpoint(study, "base", device=CPU, neutral_ids=[])


def test_damaged_weights_are_refused(tmp_path):
    folder = tmp_path / "broken"
    save_llama(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    study = study_of(tmp_path, [base(folder)])
    with pytest.raises(InputError, match="its weights cannot be loaded"):
        open_checkpoint(study, "base", device=CPU, neutral_ids=[])


def test_an_unreachable_hub_model_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    study = study_of(tmp_path, [{"name": "base", "stage": "base", "source": {"hub": "nobody/nothing"}}])
    with pytest.raises(InputError, match=r"nobody/nothing: cannot be reached[\s\S]*source = \{ path"):
        weights_identity(study, "base")


def test_a_sink_is_taken_out_of_the_direction_and_no_sink_leaves_it_alone():
    from activations.edits import _without_sink

    u = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    first = torch.tensor([[0.0, 1.0, 0.0], [0.0, 500.0, 0.0]], dtype=torch.float64)
    others = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(_without_sink(u, first, others), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(_without_sink(u, first[:1], others[:1]), u)
