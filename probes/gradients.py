"""First order: what a small step along *any* direction does to margins and costs in KL, from gradients alone.

One forward and one backward pass of a text give the derivative of its log-prob by the residual at every site; its
product with a direction is the slope of the margin in the dose. A thousand control directions cost one matrix product.
The KL of a small step is quadratic in it, with the Fisher information as its matrix; that is sampled here as products
of gradients of sampled tokens' log-probs (samples from the model, not the text: arXiv:1905.12558).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from activations.openmodel import Hook, OpenModel
from activations.packing import RowPlan, TokenText
from probes.batches import Batch, apart, batches
from probes.steering import neutral_tokens

FISHER_REPEATS = 4  # samples of the next tokens of each neutral text


def margin_gradients(
    model: OpenModel,
    tokens: Sequence[TokenText],
    weights: Float[np.ndarray, "scenario text"],
    sites: Sequence[str],
    plan: RowPlan,
    advance: Callable[[int], None] = lambda _: None,
) -> Float[np.ndarray, "site scenario d_model"]:
    """Derivative of every scenario's margin by a step added to the residual at all edited tokens of its answers.

    Args:
        tokens: tokenized answers, each of one scenario.
        weights: what a scenario's margin is of its texts' mean log-probs (+1 over wordings, −1 over wordings, else 0).
        sites: where the step is added, in order of depth.
        plan: row layout.
        advance: told how many tokens are done.

    Returns:
        Nats a token per unit of residual: the slope of the margin along a unit vector v is its product with v.
    """
    share = torch.as_tensor(weights.sum(axis=0), dtype=torch.float32, device=model.device)
    texts = apart(owned(tokens, weights))
    found = np.zeros((len(sites), len(weights), model.d_model), dtype=np.float32)
    for batch in batches(model, texts, plan):
        with leaves(model, sites) as kept:
            final = batch.run(model)
            means = mean_logprobs(batch, batch.logprobs(model, final))
        (means * share[batch.texts]).sum().backward()  # type: ignore[no-untyped-call]
        for number, leaf in enumerate(kept):
            np.add.at(found[number], scenarios_of(batch), batch.by_group(gradient_of(leaf)).cpu().numpy())
        advance(sum(len(tokens[i].ids) for i in batch.texts))
    return found


def fisher_samples(
    model: OpenModel,
    tokens: Sequence[TokenText],
    sites: Sequence[str],
    plan: RowPlan,
    *,
    seed: int,
    repeats: int = FISHER_REPEATS,
    advance: Callable[[int], None] = lambda _: None,
) -> Float[np.ndarray, "site sample d_model"]:
    """Vectors g whose products give the KL on neutral text: KL(v) ≈ ½ Σ_g (g·v)² for a small step v at every token.

    Each g is the gradient of Σ_t ε_t log p(y_t) over a text's tokens, y_t drawn from the model and ε_t = ±1 at random,
    so that E[g gᵀ] is the sum over tokens of their Fisher information (of the same step at all tokens of the text).

    Args:
        tokens: tokenized neutral texts; edited from their second token on, as in `neutral_damage`.
        sites, plan: as in `margin_gradients`.
        seed: of the sampled tokens and signs.
        repeats: samples of each text.
        advance: told how many (token, sample) steps are done.

    Returns:
        Scaled so that the KL is a mean over tokens, in nats.
    """
    texts = neutral_tokens(tokens)
    generator = torch.Generator().manual_seed(seed)
    total = sum(len(t.ids) - t.read_from for t in texts)
    found: list[np.ndarray] = []
    for batch in batches(model, texts, plan):
        with leaves(model, sites) as kept:
            logs = model.logits(batch.predicting(batch.run(model))).log_softmax(dim=-1)
        for repeat in range(repeats):
            sampled_score(logs, generator).backward(retain_graph=repeat + 1 < repeats)  # type: ignore[no-untyped-call]
            found.append(np.stack([batch.by_group(gradient_of(leaf)).cpu().numpy() for leaf in kept]))
            for leaf in kept:
                leaf.grad = None
            advance(sum(len(texts[i].ids) for i in batch.texts))
    return np.concatenate(found, axis=1) / np.sqrt(np.float32(total * repeats))


def owned(tokens: Sequence[TokenText], weights: Float[np.ndarray, "scenario text"]) -> list[TokenText]:
    """The texts in groups of one scenario each: those that ask the same must not share tokens, nor a gradient."""
    owner = np.abs(weights).argmax(axis=0)
    return [replace(t, group=f"{s}/{t.group}") for s, t in zip(owner, tokens, strict=True)]


def scenarios_of(batch: Batch) -> list[int]:
    """The scenario of every group of a batch of `owned` texts."""
    return [int(group.partition("/")[0]) for group in batch.groups]


def sampled_score(logs: Float[torch.Tensor, "read vocabulary"], generator: torch.Generator) -> torch.Tensor:
    """Σ_t ε_t log p(y_t), y_t drawn from the model and ε_t = ±1: its gradient's square is, on average, the Fisher's."""
    drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator)
    signs = torch.randint(0, 2, (len(drawn),), generator=generator) * 2.0 - 1.0
    picked = logs.gather(-1, drawn.to(logs.device))[:, 0]
    return (picked * signs.to(picked)).sum()


@contextmanager
def leaves(model: OpenModel, sites: Sequence[str]) -> Iterator[list[torch.Tensor]]:
    """Keeps the residual at each site, ready for a gradient; the first starts the graph."""
    kept: list[torch.Tensor] = []

    def keep(_site: str, value: torch.Tensor) -> torch.Tensor | None:
        if not value.requires_grad:
            value = value.detach().requires_grad_()
            kept.append(value)
            return value
        value.retain_grad()
        kept.append(value)
        return None

    wanted: dict[str, Hook] = dict.fromkeys(sites, keep)
    with torch.enable_grad(), model.hooked(wanted):
        yield kept


def gradient_of(leaf: torch.Tensor) -> torch.Tensor:
    """What a backward pass left at a residual that `leaves` kept."""
    return leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)


def mean_logprobs(batch: Batch, logprobs: Float[torch.Tensor, "read"]) -> Float[torch.Tensor, "text"]:
    """Mean over each text's read tokens, differentiable."""
    counts = torch.as_tensor(batch.counts, device=logprobs.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=logprobs.device), counts)
    return torch.zeros(len(counts), device=logprobs.device).index_add_(0, owner, logprobs) / counts
