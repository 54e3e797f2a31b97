"""A direction as a llama.cpp control vector (GGUF)."""

import json
from pathlib import Path

import numpy as np

from activations.artifact import writing
from activations.errors import InputError
from activations.openmodel import site_layer
from probes.direction import Direction

# llama.cpp's name of an architecture, where it is not transformers' own.
ARCHITECTURES = {
    "cohere": "command-r",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "gpt_oss": "gpt-oss",
    "mistral": "llama",
    "mixtral": "llama",
    "phi": "phi2",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}


def save_gguf(direction: Direction, path: Path, model_type: str) -> None:
    """Write τ·u as a control vector, so that llama.cpp's scale is the dose α in units of τ.

    `llama-cli --control-vector-scaled FILE:0.05` (in some versions `FILE 0.05`) then adds 0.05·τ·u at one block; no
    other layer is touched. Read from llama.cpp's source (common.cpp, llama-adapter.cpp, the models' graphs):
    `direction.k` is added to the output of the 0-based block k, after its feed-forward part is added to the residual
    stream, which is this project's `blocks.k.hook_resid_post`. The loader wants one float32 vector a tensor and refuses
    k = 0, layers without a tensor get zeros, and `model_hint` and `layer_count` (here, as in llama.cpp's own writer,
    the number of tensors) are not checked. llama.cpp adds the vector at *every* token, the first and the prompt's
    included; `probes.steering` from the last prompt token on only.

    Args:
        direction: what to write, at its own site.
        path: the file; written whole or not at all.
        model_type: `model_type` of the transformers config.

    Raises:
        InputError: the embedding or block 0, which llama.cpp cannot steer.
    """
    import gguf

    layer = site_layer(direction.site)
    if layer < 1:
        at = "the embedding" if layer < 0 else "block 0"
        raise InputError(
            f"llama.cpp has no control vectors at {at}", where=str(path), mend="take --layer 1 or a later one"
        )
    with writing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "controlvector")
        writer.add_string("controlvector.model_hint", ARCHITECTURES.get(model_type, model_type))
        writer.add_int32("controlvector.layer_count", 1)
        writer.add_description(json.dumps(direction.about(), sort_keys=True))
        writer.add_tensor(f"direction.{layer}", (direction.tau * direction.vector).astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
