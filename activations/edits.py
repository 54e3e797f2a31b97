"""Known damage: edits of a model's weights whose effect on the residual stream is known beforehand.

An edit acts on every module that writes to the residual stream (embedding, attention output, MLP output), so that
nothing downstream writes back what was taken away.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from activations.errors import InputError
from activations.lineage import Edit


def read_vector(path: Path, d_model: int) -> np.ndarray:
    """The unit vector in a direction file (tensor `vector`, shape [d_model]).

    Raises:
        InputError: no safetensors file, no such tensor, another width, or no finite length.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"is no safetensors file ({error})", where=str(path), mend="write it with Direction.save"
        ) from error
    vector = tensors.get("vector")
    if vector is None or vector.shape != (d_model,):
        found = ", ".join(f"{k} {list(v.shape)}" for k, v in tensors.items()) or "nothing"
        raise InputError(
            f"needs one tensor `vector` of shape [{d_model}]; found {found}",
            where=str(path),
            mend="fit the direction on this lineage's base model",
        )
    vector = vector.astype(np.float64)
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise InputError("the vector has no finite length", where=str(path), mend="fit it again")
    return vector / norm


@torch.no_grad()
def apply_edit(bridge: Any, edit: Edit, neutral_ids: Sequence[np.ndarray], where: str) -> None:
    """Apply an edit in place to the model behind a TransformerBridge.

    attenuate: with x what a writer adds to the stream, μ its mean over neutral tokens (first token of each text
    left out: it is an attention sink) and u the direction, x ← x − a·u·uᵀ(x − μ). Centred on μ because the origin
    is not neutral: an uncentred attenuation of the same size costs far more perplexity. The unembedding keeps its
    weights (it is untied first): the edit changes what is written, not how the end is read.

    Args:
        bridge: an open TransformerBridge.
        neutral_ids: token ids of neutral texts, one array a text.
        where: what to call the checkpoint in errors.

    Raises:
        InputError: the direction does not fit, or the architecture's writers cannot be edited exactly.
    """
    if edit.kind == "identity":
        return
    assert edit.direction is not None  # the study reader asks for one
    u = torch.from_numpy(read_vector(edit.direction, bridge.cfg.d_model))
    writers = list(_writers(bridge, where))
    means = _writer_means(bridge, [name for name, _ in writers], neutral_ids)
    _untie(bridge)
    for name, module in writers:
        weight = module.weight.double().cpu()
        along_mean = edit.amount * torch.dot(u, means[name]) * u
        if isinstance(module, torch.nn.Embedding):
            edited = weight - edit.amount * torch.outer(weight @ u, u) + along_mean
        else:
            edited = weight - edit.amount * torch.outer(u, u @ weight)
            before = module.bias.double().cpu() if module.bias is not None else torch.zeros_like(u)
            bias = before - edit.amount * torch.dot(u, before) * u + along_mean
            module.bias = torch.nn.Parameter(bias.to(module.weight), requires_grad=False)
        module.weight.copy_(edited.to(module.weight))


def _writers(bridge: Any, where: str) -> Iterator[tuple[str, Any]]:
    yield "embed", bridge.embed.original_component
    for layer, block in enumerate(bridge.blocks):
        for path in ("attn.o", "mlp.out"):
            part = block
            for step in path.split("."):
                part = getattr(part, "submodules", {}).get(step)
            module = getattr(part, "original_component", None)
            normed = any(n in block.submodules for n in ("ln1_post", "ln2_post"))
            if not isinstance(module, torch.nn.Linear) or normed:
                raise InputError(
                    f"edits need linear writers without a norm after them; block {layer} has none at {path}",
                    where=where,
                    mend="leave the edit out for this architecture, or use an adapter",
                )
            yield f"blocks.{layer}.{path}", module


def _writer_means(bridge: Any, names: list[str], neutral_ids: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    sums = {name: torch.zeros(bridge.cfg.d_model, dtype=torch.float64) for name in names}
    count = 0

    def adder(name: str) -> Any:
        def hook(value: torch.Tensor, hook: Any) -> None:
            sums[name] += value[0, 1:].double().sum(dim=0).cpu()

        return hook

    device = next(bridge.original_model.parameters()).device
    with bridge.hooks(fwd_hooks=[(f"{name}.hook_out", adder(name)) for name in names]):
        for ids in neutral_ids:
            bridge.original_model.base_model(input_ids=torch.as_tensor(ids, device=device)[None], use_cache=False)
            count += len(ids) - 1
    return {name: total / count for name, total in sums.items()}


def _untie(bridge: Any) -> None:
    model = bridge.original_model
    head, embedding = model.get_output_embeddings(), bridge.embed.original_component
    head = getattr(head, "original_component", head)
    if head is not None and head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
