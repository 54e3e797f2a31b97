"""Is the hooked, packed model the model? Measured on every checkpoint while it is opened, and kept on its receipt."""

import hashlib
from typing import Any

import numpy as np
import torch

from activations.openmodel import Hook, OpenModel
from activations.packing import TokenText, batch_rows, pack

HOOK_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # relative; bf16 keeps 8 bits of mantissa
LOGPROB_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}  # nats; a head that is scaled or capped otherwise is nats off
PROBE = "User: My train leaves at nine. What should I pack for a week by the sea?\nAssistant:"
PROBE_ANSWERS = (" Pack a coat and two pairs of shoes.", " Take a towel, a hat and something to read on the way.")


@torch.no_grad()
def plain_reference(plain: Any, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Block outputs through torch's own forward hooks on the untouched model, and its log-probs: golden references."""
    layers = max(
        (m for m in plain.modules() if isinstance(m, torch.nn.ModuleList)), key=len
    )  # a decoder's block list is its longest module list
    found: list[torch.Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).detach().float().clone())

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        logits = plain(input_ids=ids, use_cache=False).logits[0, :-1].float()
    finally:
        for handle in handles:
            handle.remove()
    return found, torch.log_softmax(logits, dim=-1).gather(-1, ids[0, 1:, None])[:, 0]


def hook_agreement(
    model: OpenModel, ids: np.ndarray, reference: list[torch.Tensor], logprobs: torch.Tensor
) -> tuple[float, float]:
    """Largest relative difference of a block's output, and largest difference of a log-prob in nats."""
    found: list[torch.Tensor] = []
    size = ids.shape[1]
    zeros = np.zeros_like(ids)
    with model.hooked({s: lambda _site, value: found.append(value.float().clone()) for s in model.sites[1:]}):
        final = model.body(ids, np.arange(size)[None], model.mask(zeros, zeros))
    if len(found) != len(reference):
        return float("inf"), float("inf")
    nats = float((model.log_probs(final[0, :-1], ids[0, 1:]) - logprobs).abs().max())
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True)), nats


def packing_agreement(model: OpenModel) -> float:
    """Largest relative difference of two packed answers' residuals from the same answers run alone."""
    texts = []
    for answer in PROBE_ANSWERS:
        ids = np.asarray(model.tokenizer(PROBE + answer).input_ids)
        texts.append(TokenText(ids=ids, read_from=len(ids) - 4, group="probe"))
    filler = np.asarray(model.tokenizer("The harbour lies north of the town.").input_ids)
    texts.append(TokenText(ids=filler, read_from=0, group="filler"))
    row = pack(texts, row_budget=4096)[0]
    kept: list[torch.Tensor] = []
    hooks: dict[str, Hook] = {s: lambda _site, value: kept.append(value.float().clone()) for s in model.sites}
    ids, positions, branch, last = batch_rows([row])
    with model.hooked(hooks):
        model.body(ids, positions, model.mask(branch, last))
    packed, worst = list(kept), 0.0
    for index, place in zip(row.texts, row.places, strict=True):
        kept.clear()
        alone = texts[index].ids[None]
        zeros = np.zeros_like(alone)
        with model.hooked(hooks):
            model.body(alone, np.arange(alone.shape[1])[None], model.mask(zeros, zeros))
        for a, b in zip(packed, kept, strict=True):
            worst = max(worst, float((a[0, torch.as_tensor(place, device=a.device)] - b[0]).norm() / b.norm()))
    return worst


def weight_hash(model: Any) -> str:
    """SHA-256 (hex) of a model's parameters, by name, as they are in memory: after adapters and edits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
