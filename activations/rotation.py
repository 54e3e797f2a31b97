"""The known truth for a rotation: every residual turned by one angle, and the function of the model kept."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from einops import rearrange

from activations.errors import InputError

# Largest change of a logit on the probe, over the largest logit: exact but for rounding.
LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
SEED = 0


def turn(d_model: int, degrees: float) -> torch.Tensor:
    """An orthogonal Q [d_model, d_model] that turns every vector by the same angle: cos(h, Qh) = cos(degrees).

    Q = cos θ · I + sin θ · J with J a random complex structure (J skew, J² = −I): a rotation by θ in each of d/2
    random planes. What a frozen direction still reads after it is therefore known exactly.
    """
    basis, _ = np.linalg.qr(np.random.default_rng(SEED).normal(size=(d_model, d_model)))
    first, second = torch.from_numpy(basis[:, ::2].copy()), torch.from_numpy(basis[:, 1::2].copy())
    structure = second @ first.T - first @ second.T
    angle = np.deg2rad(degrees)
    return float(np.cos(angle)) * torch.eye(d_model, dtype=torch.float64) + float(np.sin(angle)) * structure


@torch.no_grad()
def rotate(bridge: Any, degrees: float, probe: torch.Tensor, where: str) -> None:
    """Turn the residual stream of the model behind a TransformerBridge, in place, and leave its function as it was.

    Each norm's gain γ is folded into the readers after it; then every reader W becomes W·diag(γ)·Qᵀ, every writer
    Q·W, and the embedding E·Qᵀ; an RMS norm without gain commutes with Q. A tied unembedding is untied first.

    Args:
        bridge: an open TransformerBridge.
        degrees: the angle every residual turns by.
        probe: token ids [1, token] on which the logits must not change.
        where: what to call the checkpoint in errors.

    Raises:
        InputError: the architecture is not embedding → (RMS norm → linear readers → linear writer)* → RMS norm →
            unembedding, or its logits changed.
    """
    if bridge.cfg.d_model % 2:
        raise InputError("a rotation by one angle needs an even width", where=where, mend="leave this edit out")
    untie(bridge)
    before = _logits(bridge, probe)
    q = turn(int(bridge.cfg.d_model), degrees)
    for norm, readers in _norms(bridge, where):
        gain = norm.weight.double().cpu()
        for reader in readers:
            reader.weight.copy_((reader.weight.double().cpu() * gain @ q.T).to(reader.weight))
        norm.weight.fill_(1.0)
    embedding = bridge.embed.original_component
    embedding.weight.copy_((embedding.weight.double().cpu() @ q.T).to(embedding.weight))
    for _, writer in linear_writers(bridge, where):
        writer.weight.copy_((q @ writer.weight.double().cpu()).to(writer.weight))
        if writer.bias is not None:
            writer.bias.copy_((q @ writer.bias.double().cpu()).to(writer.bias))
    change = float((_logits(bridge, probe) - before).abs().max() / before.abs().max())
    if not change <= LOGIT_TOLERANCE[embedding.weight.dtype]:
        raise InputError(
            f"the rotation changed a logit by {change:.1e} of the largest", where=where, mend="leave this edit out"
        )


def linear_writers(bridge: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(name, linear layer) of everything but the embedding that writes to the residual stream."""
    for layer, block in enumerate(bridge.blocks):
        for path in ("attn.o", "mlp.out"):
            module = _part(block, path)
            normed = any(n in block.submodules for n in ("ln1_post", "ln2_post"))
            if not isinstance(module, torch.nn.Linear) or normed:
                raise InputError(
                    f"edits need linear writers without a norm after them; block {layer} has none at {path}",
                    where=where,
                    mend="leave the edit out for this architecture, or use an adapter",
                )
            yield f"blocks.{layer}.{path}", module


def untie(bridge: Any) -> None:
    """Give the unembedding its own copy of weights that it shares with the embedding."""
    model = bridge.original_model
    head, embedding = unembedding(bridge), bridge.embed.original_component
    if head is not None and head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def unembedding(bridge: Any) -> Any:
    """The linear layer that makes logits."""
    head = bridge.original_model.get_output_embeddings()
    return getattr(head, "original_component", head)


def _norms(bridge: Any, where: str) -> Iterator[tuple[Any, list[Any]]]:
    """(norm, the linear layers that read its output), all of the residual stream's norms."""
    for layer, block in enumerate(bridge.blocks):
        for norm, paths in (("ln1", ("attn.q", "attn.k", "attn.v")), ("ln2", ("mlp.gate", "mlp.in"))):
            readers = [_part(block, path) for path in paths]
            module = _part(block, norm)
            if not all(isinstance(r, torch.nn.Linear) for r in readers) or not _is_rms(module, bridge.cfg.d_model):
                raise _unlike(f"block {layer} has no RMS norm {norm} before linear {', '.join(paths)}", where)
            yield module, readers
    final, head = bridge.ln_final.original_component, unembedding(bridge)
    if not isinstance(head, torch.nn.Linear) or not _is_rms(final, bridge.cfg.d_model):
        raise _unlike("no RMS norm before a linear unembedding", where)
    yield final, [head]


def _is_rms(module: Any, width: int) -> bool:
    """Whether it computes γ·h/rms(h): seen on numbers, not by its name (some add 1 to γ)."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.shape != (width,) or getattr(module, "bias", None) is not None:
        return False
    given = rearrange(torch.linspace(-2, 3, 2 * width), "(row d) -> row d", row=2)
    expected = weight.float().cpu() * given / given.pow(2).mean(dim=-1, keepdim=True).sqrt()
    return torch.allclose(module(given.to(weight)).float().cpu(), expected, rtol=2e-2, atol=1e-2)


def _part(block: Any, path: str) -> Any:
    part = block
    for step in path.split("."):
        part = getattr(part, "submodules", {}).get(step)
    return getattr(part, "original_component", None)


def _unlike(problem: str, where: str) -> InputError:
    return InputError(f"rotate does not fit: {problem}", where=where, mend="leave this edit out for this architecture")


def _logits(bridge: Any, ids: torch.Tensor) -> torch.Tensor:
    device = next(bridge.original_model.parameters()).device
    return bridge.original_model(input_ids=ids.to(device), use_cache=False).logits.float()
