"""Model × packed rows → pooled residuals and log-probs, block by block, resumable.

A block is some scenarios (or neutral texts) in study order; within it, texts are packed into rows by length. Pooling
happens inside the hooks, so that no residual of a whole row outlives its layer.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from activations.artifact import FORMAT_VERSION, content_hash
from activations.errors import InputError
from activations.model import OpenModel
from activations.packing import PackedRow, TokenText, batch_rows, pack
from activations.pairs import KINDS, Kind, Text
from activations.store import POSITIONS, ActivationStore, Measured, read_part, write_part, write_store

BLOCK_GROUPS = 48  # groups a block: about a minute of work on two cores with the embedded model


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPlan:
    """How texts are laid out in rows: tokens a row aims at, and rows that run together."""

    row_budget: int
    rows_per_batch: int


def row_plan(device: torch.device) -> RowPlan:
    """The default plan for a device: short rows on a processor (attention there is quadratic in the row)."""
    if device.type == "cuda":
        return RowPlan(row_budget=512, rows_per_batch=32)
    return RowPlan(row_budget=256, rows_per_batch=4)


def tokenize(tokenizer: Any, texts: Sequence[Text], context: int, where: str) -> list[TokenText]:
    """Token ids and the first read token of every text.

    A tokenizer that starts texts with a special token (BOS) does so, but not where the template wrote it already. A
    token that straddles the start of an answer belongs to the answer.

    Raises:
        InputError: a text longer than the context, or an answer without tokens; named, never truncated.
    """
    encoded: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}
    for special in (True, False):
        members = [i for i, t in enumerate(texts) if t.special_tokens == special]
        if members:
            batch = tokenizer([texts[i].text for i in members], return_offsets_mapping=True, add_special_tokens=special)
            encoded |= zip(members, zip(batch["input_ids"], batch["offset_mapping"], strict=True), strict=True)
    found = []
    for index, text in enumerate(texts):
        ids, offsets = encoded[index]
        if len(ids) > context:
            raise InputError(
                f"text {text.text_id!r} has {len(ids)} tokens, more than the model's context of {context}",
                where=where,
                mend="shorten it; texts are never cut",
            )
        read = [i for i, (start, end) in enumerate(offsets) if end > max(text.read_from, 0) and end > start]
        # The first token of a plain text is an attention sink and has no log-prob: it is never read.
        first = max(read[0] if read else len(ids), 1)
        if first >= len(ids) and text.kind != "prompt":
            raise InputError(f"text {text.text_id!r} has no token to read", where=where, mend="give it more words")
        found.append(TokenText(ids=np.asarray(ids, dtype=np.int64), read_from=first, group=text.group))
    return found


def token_hash(tokens: Sequence[TokenText]) -> str:
    """Hash of all token ids of a study: equal for every checkpoint of a lineage, or there is no comparing."""
    return content_hash([t.ids.tolist() for t in tokens])


def first_difference(texts: Sequence[Text], ours: Sequence[TokenText], theirs: Sequence[TokenText]) -> str:
    """The first text that two tokenizers split differently, named with both splits' lengths; "" if none."""
    for text, a, b in zip(texts, ours, theirs, strict=True):
        if not np.array_equal(a.ids, b.ids):
            return f"{text.text_id!r} ({len(a.ids)} against {len(b.ids)} tokens)"
    return ""


def blocks(texts: Sequence[Text]) -> list[list[int]]:
    """Text indices in blocks: whole groups in order of first appearance, of kinds that ride together.

    Chained, they are the order in which a store holds its texts (a group's texts stand together there, wherever they
    stood in the pair file).
    """
    found: list[list[int]] = []
    for kinds in (("response", "prompt"), ("null_prompt",), ("neutral",)):
        groups: dict[str, list[int]] = {}
        for index, text in enumerate(texts):
            if text.kind in kinds:
                groups.setdefault(text.group, []).append(index)
        members = list(groups.values())
        for start in range(0, len(members), BLOCK_GROUPS):
            found.append([i for group in members[start : start + BLOCK_GROUPS] for i in group])
    return found


def capture(
    open_model: Callable[[], OpenModel],
    *,
    path: Path,
    determinants: dict[str, Any],
    texts: Sequence[Text],
    tokens: Sequence[TokenText],
    plan: RowPlan,
    advance: Callable[[int], None],
) -> bool:
    """Capture a checkpoint into its store, reusing what is there and is provably the same.

    Args:
        open_model: loads the checkpoint; called only if something has to be computed.
        path: the store to make; part files lie beside it until it is whole.
        determinants: everything that determines the numbers; their hash is the store's identity.
        texts: the study's texts.
        tokens: the same texts, tokenized.
        plan: row layout.
        advance: told how many tokens are done, as they are done.

    Returns:
        Whether anything was computed (False: a finished store with this identity was there).
    """
    identity = content_hash({"format": FORMAT_VERSION, "tokens": token_hash(tokens), **determinants})
    total = sum(len(t.ids) for t in tokens)
    if path.is_file():
        with ActivationStore(path) as store:
            if store.identity == identity:
                advance(total)
                return False
    folder = path.with_suffix(".parts")
    todo = blocks(texts)
    parts = [folder / f"{number:05d}.safetensors" for number in range(len(todo))]
    model = open_model()
    for part, members in zip(parts, todo, strict=True):
        if read_part(part, identity) is not None:
            advance(sum(len(tokens[i].ids) for i in members))
            continue
        found = run_block(model, [texts[i] for i in members], [tokens[i] for i in members], plan, advance)
        write_part(part, identity, found)
    header = {
        "identity": identity,
        "checkpoint": model.name,
        "d_model": model.d_model,
        "determinants": determinants,
        "receipt": {**model.receipt, "row_budget": plan.row_budget, "rows_per_batch": plan.rows_per_batch},
    }
    write_store(path, header, model.sites, [texts[i] for members in todo for i in members], parts)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def run_block(
    model: OpenModel, texts: Sequence[Text], tokens: Sequence[TokenText], plan: RowPlan, advance: Callable[[int], None]
) -> dict[Kind, Measured]:
    """Residuals and log-probs of some texts; the result does not depend on the row plan beyond rounding."""
    slots, reads = _slots(texts, tokens)
    n_slots = sum(len(s) for s in slots)
    residual = np.zeros((n_slots, len(model.sites), model.d_model), dtype=np.float32)
    logprob = [np.zeros(len(r), dtype=np.float32) for r in reads]
    norms = [
        np.zeros((len(r) if t.kind == "neutral" else 0, len(model.sites)), np.float32)
        for t, r in zip(texts, reads, strict=True)
    ]
    rows = pack(tokens, plan.row_budget)
    for start in range(0, len(rows), plan.rows_per_batch):
        batch = rows[start : start + plan.rows_per_batch]
        _run_batch(model, batch, texts, tokens, slots, reads, residual, logprob, norms)
        advance(sum(len(tokens[i].ids) for row in batch for i in row.texts))
    found: dict[Kind, Measured] = {}
    for kind in KINDS:
        members = [i for i, t in enumerate(texts) if t.kind == kind]
        if members:
            found[kind] = Measured(
                residual=np.stack([residual[list(slots[i])] for i in members]).reshape(
                    len(members), len(POSITIONS[kind]), len(model.sites), model.d_model
                ),
                logprob=np.concatenate([logprob[i] for i in members]),
                token_norm=np.concatenate([norms[i] for i in members]),
                n_tokens=np.asarray([len(reads[i]) for i in members], dtype=np.int64),
            )
    return found


def _slots(texts: Sequence[Text], tokens: Sequence[TokenText]) -> tuple[list[range], list[np.ndarray]]:
    """For each text: its rows of the pooled output, and the indices of its read tokens."""
    slots, reads, at = [], [], 0
    for text, token in zip(texts, tokens, strict=True):
        count = len(POSITIONS[text.kind])
        slots.append(range(at, at + count))
        at += count
        # Of a prompt only the last token is looked at, and its log-prob is of no use.
        reads.append(np.arange(token.read_from, len(token.ids)) if text.kind != "prompt" else np.zeros(0, np.int64))
    return slots, reads


def _run_batch(
    model: OpenModel,
    batch: Sequence[PackedRow],
    texts: Sequence[Text],
    tokens: Sequence[TokenText],
    slots: list[range],
    reads: list[np.ndarray],
    residual: np.ndarray,
    logprob: list[np.ndarray],
    norms: list[np.ndarray],
) -> None:
    ids, positions, branch, prefix = batch_rows(batch)
    size = ids.shape[1]
    placed = [
        (index, place + number * size)
        for number, row in enumerate(batch)
        for index, place in zip(row.texts, row.places, strict=True)
    ]
    out = [s for index, _ in placed for s in slots[index]]
    pool = np.zeros((len(out), len(batch) * size), dtype=np.float32)
    for line, (read, place, position) in enumerate(
        (reads[i], place, name) for i, place in placed for name in POSITIONS[texts[i].kind]
    ):
        if position.endswith("_mean"):
            pool[line, place[read]] = 1.0 / len(read)
        else:
            pool[line, place[-1]] = 1.0
    pooling = torch.as_tensor(pool, device=model.device)
    neutral = [
        (i, torch.as_tensor(place[reads[i]], device=model.device)) for i, place in placed if texts[i].kind == "neutral"
    ]
    site_of = {site: number for number, site in enumerate(model.sites)}
    collected = torch.empty((len(model.sites), len(out), model.d_model), device=model.device)

    def pool_site(site: str, value: torch.Tensor) -> None:
        flat = value.reshape(-1, value.shape[-1]).float()
        torch.matmul(pooling, flat, out=collected[site_of[site]])
        for index, place in neutral:
            norms[index][:, site_of[site]] = flat[place].norm(dim=-1).cpu().numpy()

    with model.hooked(dict.fromkeys(model.sites, pool_site)):
        final = model.body(ids, positions, model.mask(branch, prefix))
    residual[out] = collected.transpose(0, 1).cpu().numpy()
    flat = final.reshape(-1, final.shape[-1])
    wanted = [(i, place[reads[i] - 1], tokens[i].ids[reads[i]]) for i, place in placed if len(reads[i])]
    if wanted:
        before = torch.as_tensor(np.concatenate([w[1] for w in wanted]), device=model.device)
        values = model.log_probs(flat[before], np.concatenate([w[2] for w in wanted]))
        for (index, _, targets), value in zip(wanted, _split(values, [len(w[2]) for w in wanted]), strict=True):
            logprob[index][: len(targets)] = value


def _split(values: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    return iter(np.split(values, np.cumsum(sizes)[:-1]))
