"""Interventions on the residual stream and what they do to the margin between the two answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from activations.openmodel import Hook, OpenModel, site_layer
from activations.packing import PackedRow, RowPlan, TokenText, batch_rows, pack
from activations.store import ragged_mean
from probes.direction import Direction

RESUME_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # nats a token


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Add:
    """h ← h + α·τ·u from the last prompt token on: the tokens whose next token belongs to the answer.

    `alpha` is in units of τ, the median residual norm of neutral tokens at the direction's site.
    """

    direction: Direction
    alpha: float

    def apply(
        self, residual: Float[torch.Tensor, "row token d_model"], at: Float[torch.Tensor, "row token"]
    ) -> Float[torch.Tensor, "row token d_model"]:
        """The edited residual; `at` is 1 where the edit acts, else 0. Identity at α = 0."""
        step = torch.as_tensor(self.alpha * self.direction.tau * self.direction.vector).to(residual)
        return residual + at.to(residual)[..., None] * step


def steered_logprobs(
    model: OpenModel,
    tokens: Sequence[TokenText],
    direction: Direction,
    alphas: Sequence[float],
    plan: RowPlan,
    advance: Callable[[int], None],
) -> Float[np.ndarray, "dose text"]:
    """Mean log-prob a read token of every text, without steering and at each dose.

    Everything up to the steered site is computed once and serves all doses, where starting in the middle gives the
    full pass's log-probs (measured on the first batch); otherwise each dose is a full pass with a hook.

    Args:
        tokens: tokenized responses.
        direction: what to add, at its own site.
        alphas: doses in units of τ, without 0.
        plan: row layout.
        advance: told how many (token, dose) steps are done.

    Returns:
        Nats per token; the first line is dose 0, then the doses in order.
    """
    found = np.zeros((1 + len(alphas), len(tokens)))
    # The edit starts with an answer: answers that start at different tokens must not share the tokens between.
    rows = pack([replace(t, group=f"{t.group}@{t.read_from}") for t in tokens], plan.row_budget)
    resumable: bool | None = None if site_layer(direction.site) < len(model.sites) - 2 else False
    for start in range(0, len(rows), plan.rows_per_batch):
        batch = _Batch.of(model, rows[start : start + plan.rows_per_batch], tokens)
        final, kept = _run_and_keep(model, batch, direction.site)
        found[0, batch.texts] = batch.mean_logprobs(model, final)
        if resumable is None:
            again = batch.mean_logprobs(model, _after(model, batch, direction.site, kept))
            gap = float(np.abs(again - found[0, batch.texts]).max())
            resumable = gap <= RESUME_TOLERANCE[model.dtype]
        for line, alpha in enumerate(alphas, start=1):
            edit = Add(direction=direction, alpha=alpha)
            if resumable:
                final = _after(model, batch, direction.site, edit.apply(kept, batch.edited))
            else:
                with model.hooked({direction.site: _editing(edit, batch.edited)}):
                    final = model.body(batch.ids, batch.positions, batch.mask)
            found[line, batch.texts] = batch.mean_logprobs(model, final)
        advance(sum(len(tokens[i].ids) for i in batch.texts) * (1 + len(alphas)))
    return found


def _run_and_keep(model: OpenModel, batch: "_Batch", site: str) -> tuple[torch.Tensor, torch.Tensor]:
    kept: list[torch.Tensor] = []
    with model.hooked({site: lambda _site, value: kept.append(value.clone())}):
        final = model.body(batch.ids, batch.positions, batch.mask)
    return final, kept[0]


def _editing(edit: Add, at: torch.Tensor) -> Hook:
    return lambda _site, value: edit.apply(value, at)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Batch:
    ids: np.ndarray
    positions: np.ndarray
    mask: torch.Tensor
    edited: torch.Tensor
    texts: list[int]
    before: torch.Tensor
    targets: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, model: OpenModel, rows: Sequence[PackedRow], tokens: Sequence[TokenText]) -> "_Batch":
        ids, positions, branch, last = batch_rows(rows)
        size = ids.shape[1]
        edited = np.zeros(ids.size, dtype=np.float32)
        texts, before, targets = [], [], []
        for number, row in enumerate(rows):
            for index, place in zip(row.texts, row.places, strict=True):
                first = tokens[index].read_from
                edited[place[first - 1 :] + number * size] = 1.0
                texts.append(index)
                before.append(place[first - 1 : -1] + number * size)
                targets.append(tokens[index].ids[first:])
        return cls(
            ids=ids,
            positions=positions,
            mask=model.mask(branch, last),
            texts=texts,
            edited=torch.as_tensor(edited.reshape(ids.shape), device=model.device),
            before=torch.as_tensor(np.concatenate(before), device=model.device),
            targets=np.concatenate(targets),
            counts=np.asarray([len(t) for t in targets]),
        )

    def mean_logprobs(self, model: OpenModel, final: torch.Tensor) -> np.ndarray:
        values = model.log_probs(final.reshape(-1, final.shape[-1])[self.before], self.targets)
        return ragged_mean(values.cpu().numpy(), self.counts)


def _after(model: OpenModel, batch: _Batch, site: str, residual: torch.Tensor) -> torch.Tensor:
    return model.body_after(site_layer(site), residual, batch.positions, batch.mask)


def dose_slopes(
    alphas: Sequence[float], margins: Float[np.ndarray, "dose scenario"], reach: float
) -> Float[np.ndarray, "scenario"]:
    """Least-squares slope of each scenario's margin over |α| ≤ reach, dose 0 included; nats per token per τ.

    Args:
        alphas: the dose of each line of `margins`, 0 included.

    Returns:
        One slope a scenario; NaN where 0 is the only dose within reach.
    """
    dose = np.asarray(alphas)
    inside = np.abs(dose) <= reach + 1e-12
    if inside.sum() < 2:
        return np.full(margins.shape[1], np.nan)
    centred = dose[inside] - dose[inside].mean()
    slopes: np.ndarray = centred @ margins[inside] / (centred @ centred)
    return slopes
