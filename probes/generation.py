"""Answers sampled from an open model, under interventions or without: batched, cached, the same in any batch."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from activations.errors import InputError
from activations.openmodel import OpenModel
from probes.interventions import Intervention, Residual, apply_all

CACHE_TOKENS = 1 << 14  # tokens whose keys and values are held at a time: 0.75 GB for the embedded model


@torch.no_grad()
def sample_answers(
    model: OpenModel,
    prompts: Sequence[Int[np.ndarray, "_"]],
    *,
    interventions: Sequence[Intervention] = (),
    max_new_tokens: int,
    temperature: int | float,
    seed: int,
) -> list[Int[np.ndarray, "_"]]:
    """The answer to every prompt, as token ids, without the token that ended it.

    Interventions act at the last prompt token and at every token written: those whose next token belongs to the answer,
    as in `probes.steering`. What is drawn for a prompt depends on its ids, the seed, and how many equal prompts came
    before it (so that copies of a prompt give several samples), not on the rest of the batch; a batch changes logits
    by rounding only. One uniform number a token picks from the cumulated probabilities, so that two doses of one seed
    differ by the dose and not by the luck of the draw.

    Args:
        prompts: token ids of the rendered prompts.
        interventions: edits at their own sites; at one site in the order given.
        max_new_tokens: where an answer that does not end is cut.
        temperature: the logits are divided by it; 0 takes the likeliest token.
        seed: at least 0.

    Raises:
        InputError: prompt and answer do not fit the model's context, or an edit leaves no finite logits.
        ValueError: an empty prompt, or an argument out of range.
    """
    if max_new_tokens < 1 or temperature < 0 or seed < 0 or not all(len(ids) for ids in prompts):
        raise ValueError("prompts must not be empty, max_new_tokens at least 1, temperature and seed at least 0")
    longest = max((len(ids) for ids in prompts), default=0)
    if longest + max_new_tokens > model.context:
        raise InputError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones are more than the context of {model.context}",
            where=model.name,
            mend="shorten the prompt, or ask for fewer tokens; texts are never cut",
        )

    def edit(site: str, value: Residual) -> Residual:
        at = torch.zeros(value.shape[:2], device=value.device)
        at[:, -1] = 1.0  # rows are padded on the left: the last column is the last prompt token, then the newest token
        return apply_all([each for each in interventions if each.site == site], value, at)

    answers: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(prompts)
    draws = _draws(prompts, max_new_tokens, seed)
    with model.hooked({each.site: edit for each in interventions}):
        for members in _batches(prompts, max_new_tokens):
            found = _write(model, [prompts[i] for i in members], draws[members], temperature)
            for index, answer in zip(members, found, strict=True):
                answers[index] = np.asarray(answer, dtype=np.int64)
    return answers


def end_tokens(model: OpenModel) -> list[int]:
    """The tokens that end an answer: those of the model's generation config and the tokenizer's own."""
    config = getattr(model.bridge.original_model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return sorted({token for token in [*several, model.tokenizer.eos_token_id] if token is not None})


def _write(
    model: OpenModel, prompts: list[np.ndarray], draws: Float[np.ndarray, "prompt new"], temperature: int | float
) -> list[list[int]]:
    """One batch, token by token; a row leaves the cache when its answer ends."""
    size = max(len(ids) for ids in prompts)
    ids = np.stack([np.r_[np.zeros(size - len(p), dtype=np.int64), p] for p in prompts])
    seen = np.stack([np.arange(size) >= size - len(p) for p in prompts]).astype(np.int64)
    positions = np.maximum(seen.cumsum(axis=1) - 1, 0)
    written: list[list[int]] = [[] for _ in prompts]
    rows = np.arange(len(prompts))
    ends, cache = end_tokens(model), None
    for step in range(draws.shape[1]):
        logits, cache = model.extend(ids, positions, seen, cache)
        if not torch.isfinite(logits.amax(dim=-1)).all():
            raise InputError("its logits are not finite numbers", where=model.name, mend="take a smaller dose")
        tokens = _picked(logits, draws[rows, step], temperature)
        for row, token in zip(rows, tokens, strict=True):
            written[row].append(int(token))
        going = ~np.isin(tokens, ends)
        if not going.all():
            for row in rows[~going]:
                written[row].pop()
            if not going.any():
                break
            cache.batch_select_indices(torch.as_tensor(np.flatnonzero(going), device=model.device))
        rows, seen = rows[going], np.pad(seen[going], ((0, 0), (0, 1)), constant_values=1)
        ids, positions = tokens[going, None], positions[going, -1:] + 1
    return written


def _picked(
    logits: Float[torch.Tensor, "row vocabulary"], draws: Float[np.ndarray, "row"], temperature: int | float
) -> Int[np.ndarray, "row"]:
    if temperature == 0:
        return logits.argmax(dim=-1).cpu().numpy()
    reached = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    wanted = torch.as_tensor(draws, device=logits.device)[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, wanted, right=True)[:, 0].clamp(max=logits.shape[1] - 1).cpu().numpy()


def _draws(prompts: Sequence[np.ndarray], n: int, seed: int) -> Float[np.ndarray, "prompt new"]:
    copies: Counter[bytes] = Counter()
    found = np.zeros((len(prompts), n))
    for line, ids in zip(found, prompts, strict=True):
        key = np.asarray(ids, dtype=np.int64).tobytes()
        line[:] = np.random.default_rng([seed, copies[key], *ids.tolist()]).random(n)
        copies[key] += 1
    return found


def _batches(prompts: Sequence[np.ndarray], max_new_tokens: int) -> Iterator[list[int]]:
    """Prompts of like length together, as many as the cache may hold."""
    members: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if members and (len(members) + 1) * (len(prompts[index]) + max_new_tokens) > CACHE_TOKENS:
            yield members
            members = []
        members.append(index)
    if members:
        yield members
