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

from activations.artifact import content_hash
from activations.openmodel import OpenModel
from activations.packing import PACKING, PackedRow, RowPlan, TokenText, batch_rows, pack
from activations.pairs import KINDS, Kind, Text
from activations.store import POSITIONS, STORE_VERSION, ActivationStore, Measured, read_part, write_part, write_store
from activations.tokens import token_hash

BLOCK_GROUPS = 48  # groups a block: about a minute of work on two cores with the embedded model


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
    identity = content_hash({"format": STORE_VERSION, "tokens": token_hash(tokens), **determinants})
    total = sum(len(t.ids) for t in tokens)
    if path.is_file():
        with ActivationStore(path) as store:
            if store.identity == identity:
                advance(total)
                return False
    folder = path.with_suffix(".parts")
    todo = blocks(texts)
    # Another row plan gives other roundings: parts are mixed only with parts of the same plan.
    part_identity = content_hash([identity, PACKING, plan.row_budget, plan.rows_per_batch, BLOCK_GROUPS])
    parts = [folder / f"{number:05d}.safetensors" for number in range(len(todo))]
    model = open_model()
    for part, members in zip(parts, todo, strict=True):
        if read_part(part, part_identity) is not None:
            advance(sum(len(tokens[i].ids) for i in members))
            continue
        found = run_block(model, [texts[i] for i in members], [tokens[i] for i in members], plan, advance)
        write_part(part, part_identity, found)
    header = {
        "identity": identity,
        "checkpoint": model.name,
        "d_model": model.d_model,
        "determinants": determinants,
        "tokens": token_hash(tokens),
        "receipt": {**model.receipt, "row_budget": plan.row_budget, "rows_per_batch": plan.rows_per_batch},
    }
    write_store(path, header, model.sites, [texts[i] for members in todo for i in members], parts, part_identity)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def run_block(
    model: OpenModel,
    texts: Sequence[Text],
    tokens: Sequence[TokenText],
    plan: RowPlan,
    advance: Callable[[int], None],
    *,
    log_probs: bool = True,
) -> dict[Kind, Measured]:
    """Residuals and log-probs of some texts; the result does not depend on the row plan beyond rounding.

    Args:
        log_probs: without them (they read 0) the unembedding, a fifth of the work in a small model, is not run.
    """
    out = _Output.of(texts, tokens, len(model.sites), model.d_model)
    rows = pack(tokens, plan.row_budget)
    running: _Running | None = None
    for start in range(0, len(rows), plan.rows_per_batch):
        batch = rows[start : start + plan.rows_per_batch]
        launched = _launch(model, batch, texts, tokens, out, log_probs)
        if running is not None:  # on a GPU this batch computes while the last one's results are put in their places
            running.store(out)
        running = launched
        advance(sum(len(tokens[i].ids) for row in batch for i in row.texts))
    if running is not None:
        running.store(out)
    return out.measured(texts)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Output:
    """Where the results of a block's texts go: lines of `residual`, and pieces of the ragged arrays."""

    slots: list[range]  # of each text: its lines of `residual`, one a position
    reads: list[np.ndarray]  # of each text: the indices of its read tokens
    residual: np.ndarray
    logprob: list[np.ndarray]
    norms: list[np.ndarray]

    @classmethod
    def of(cls, texts: Sequence[Text], tokens: Sequence[TokenText], n_sites: int, d_model: int) -> "_Output":
        slots, reads, at = [], [], 0
        for text, token in zip(texts, tokens, strict=True):
            count = len(POSITIONS[text.kind])
            slots.append(range(at, at + count))
            at += count
            # Of a prompt only the last token is looked at, and its log-prob is of no use.
            reads.append(np.arange(token.read_from, len(token.ids)) if text.kind != "prompt" else np.zeros(0, np.int64))
        return cls(
            slots=slots,
            reads=reads,
            residual=np.zeros((at, n_sites, d_model), dtype=np.float32),
            logprob=[np.zeros(len(r), dtype=np.float32) for r in reads],
            norms=[
                np.zeros((len(r) if t.kind == "neutral" else 0, n_sites), np.float32)
                for t, r in zip(texts, reads, strict=True)
            ],
        )

    def measured(self, texts: Sequence[Text]) -> dict[Kind, Measured]:
        found: dict[Kind, Measured] = {}
        for kind in KINDS:
            members = [i for i, t in enumerate(texts) if t.kind == kind]
            if members:
                lines = [line for i in members for line in self.slots[i]]
                shape = (len(members), len(POSITIONS[kind]), *self.residual.shape[1:])
                found[kind] = Measured(
                    residual=self.residual[lines].reshape(shape),
                    logprob=np.concatenate([self.logprob[i] for i in members]),
                    token_norm=np.concatenate([self.norms[i] for i in members]),
                    n_tokens=np.asarray([len(self.reads[i]) for i in members], dtype=np.int64),
                )
        return found


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Running:
    """A batch on its way: results in (pinned) host memory, valid once `done` has passed."""

    lines: list[int]
    pooled: torch.Tensor  # [site, line, d_model]
    neutral: list[int]
    norms: torch.Tensor  # [site, neutral token]
    read: list[int]
    read_at: np.ndarray  # for every read token of `read`, in order: its place in `values`
    values: torch.Tensor  # log-probs of the batch's distinct read tokens
    done: Any

    def store(self, out: _Output) -> None:
        if self.done is not None:
            self.done.synchronize()
        out.residual[self.lines] = self.pooled.numpy().swapaxes(0, 1)
        for index, found in zip(
            self.neutral, _split(self.norms.numpy().T, [len(out.reads[i]) for i in self.neutral]), strict=True
        ):
            out.norms[index][:] = found
        if len(self.values):
            values = self.values.numpy()[self.read_at]
            for index, found in zip(self.read, _split(values, [len(out.reads[i]) for i in self.read]), strict=True):
                out.logprob[index][:] = found


def _launch(
    model: OpenModel,
    batch: Sequence[PackedRow],
    texts: Sequence[Text],
    tokens: Sequence[TokenText],
    out: _Output,
    log_probs: bool,
) -> _Running:
    """Run a batch of rows, pooling inside the hooks, and send what is wanted of it to the host."""
    ids, positions, branch, last = batch_rows(batch)
    size = ids.shape[1]
    placed = [
        (index, place + number * size)
        for number, row in enumerate(batch)
        for index, place in zip(row.texts, row.places, strict=True)
    ]
    lines = [line for index, _ in placed for line in out.slots[index]]
    pool = np.zeros((len(lines), ids.size), dtype=np.float32)
    wanted = ((out.reads[i], place, name) for i, place in placed for name in POSITIONS[texts[i].kind])
    for line, (tokens_read, place, position) in zip(pool, wanted, strict=True):
        if position.endswith("_mean"):
            line[place[tokens_read]] = 1.0 / len(tokens_read)
        else:
            line[place[-1]] = 1.0
    pooling = torch.as_tensor(pool).to(model.device, non_blocking=True)
    neutral = [(i, place[out.reads[i]]) for i, place in placed if texts[i].kind == "neutral"]
    at = torch.as_tensor(np.concatenate([p for _, p in neutral]) if neutral else np.zeros(0, np.int64))
    at = at.to(model.device, non_blocking=True)
    pooled = torch.empty((len(model.sites), len(lines), model.d_model), device=model.device)
    norms = torch.empty((len(model.sites), len(at)), device=model.device)
    number_of = {site: number for number, site in enumerate(model.sites)}

    def pool_site(site: str, value: torch.Tensor) -> None:
        flat = value.reshape(-1, value.shape[-1]).float()
        torch.matmul(pooling, flat, out=pooled[number_of[site]])
        if len(at):
            norms[number_of[site]] = flat[at].norm(dim=-1)

    with model.hooked(dict.fromkeys(model.sites, pool_site) if lines else {}):
        final = model.body(ids, positions, model.mask(branch, last))

    read = [(i, place[out.reads[i]], place[out.reads[i] - 1]) for i, place in placed if len(out.reads[i])]
    values, read_at = torch.zeros(0), np.zeros(0, np.int64)
    if read and log_probs:
        # Answers that begin alike share tokens of the row: each is predicted once, from the one token before it.
        places, first, read_at = np.unique(np.concatenate([r[1] for r in read]), return_index=True, return_inverse=True)
        before = torch.as_tensor(np.concatenate([r[2] for r in read])[first]).to(model.device, non_blocking=True)
        values = model.log_probs(final.reshape(-1, final.shape[-1])[before], ids.reshape(-1)[places])
    pooled, norms, values, done = _to_host(pooled, norms, values)
    return _Running(
        lines=lines,
        pooled=pooled,
        neutral=[i for i, _ in neutral],
        norms=norms,
        read=[r[0] for r in read],
        read_at=read_at,
        values=values,
        done=done,
    )


def _to_host(*found: torch.Tensor) -> tuple[Any, ...]:
    """The tensors in host memory, copied without waiting where they come from a GPU; and what to wait for."""
    if not any(t.is_cuda for t in found):
        return (*found, None)
    pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in found]
    for target, source in zip(pinned, found, strict=True):
        target.copy_(source, non_blocking=True)
    done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    return (*pinned, done)


def _split(values: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    return iter(np.split(values, np.cumsum(sizes)[:-1])) if sizes else iter(())
