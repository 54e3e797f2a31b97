"""What interventions do to the margin between two answers, and what they cost on neutral text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from activations.openmodel import OpenModel, site_layer
from activations.packing import RowPlan, TokenText
from probes.batches import Batch, apart, batches
from probes.direction import Direction
from probes.interventions import Add, Intervention, Residual, apply_all, hooks

RESUME_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # nats a token
AFTER_SINK = 2  # neutral texts are edited from their second token on: the first is an attention sink

Edits = Sequence[Sequence[Intervention]]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Damage:
    """What edits cost on neutral text; one value an edit.

    Attributes:
        kl: mean over tokens of KL(unedited ‖ edited) of the next token, nats.
        loss: mean over tokens of −log p, nats; its exponential is the perplexity. The first value is without an edit.
    """

    kl: Float[np.ndarray, "edit"]
    loss: Float[np.ndarray, "edit_and_none"]


def steered_logprobs(
    model: OpenModel,
    tokens: Sequence[TokenText],
    direction: Direction,
    alphas: Sequence[float],
    plan: RowPlan,
    advance: Callable[[int], None],
) -> Float[np.ndarray, "dose text"]:
    """Mean log-prob a read token of every text, without steering and at each dose of a direction (`edited_logprobs`).

    Returns:
        Nats per token; the first line is dose 0, then the doses in order.
    """
    return edited_logprobs(model, tokens, [[Add(direction=direction, alpha=a)] for a in alphas], plan, advance)


def edited_logprobs(
    model: OpenModel,
    tokens: Sequence[TokenText],
    edits: Edits | Callable[[int], Edits],
    plan: RowPlan,
    advance: Callable[[int], None] = lambda _: None,
) -> Float[np.ndarray, "edit text"]:
    """Mean log-prob a read token of every text, without an edit and under each.

    An edit acts from the last prompt token on: the tokens whose next token belongs to the answer. Texts ride in packed
    rows; where all edits act at one site, what comes before it is computed once for all of them (`_Sweep`).

    Args:
        tokens: tokenized responses.
        edits: the edits, each a composition of interventions; or a function of the batch's number (of `batches` over
            the same texts and plan), where what an edit puts in depends on the tokens.
        plan: row layout.
        advance: told how many (token, edit) steps are done.

    Returns:
        Nats per token; the first line is without an edit, then the edits in order.
    """
    tokens = apart(tokens)
    found: np.ndarray | None = None
    sweep = _Sweep(model)
    for number, batch in enumerate(batches(model, tokens, plan)):
        wanted = edits(number) if callable(edits) else edits
        if found is None:
            found = np.zeros((1 + len(wanted), len(tokens)))
        for line, final in enumerate(sweep.finals(batch, wanted)):
            found[line, batch.texts] = batch.mean_logprobs(model, final)
        advance(sum(len(tokens[i].ids) for i in batch.texts) * (1 + len(wanted)))
    return found if found is not None else np.zeros((1, 0))


def neutral_damage(
    model: OpenModel,
    tokens: Sequence[TokenText],
    edits: Edits,
    plan: RowPlan,
    advance: Callable[[int], None] = lambda _: None,
) -> Damage:
    """KL and loss on neutral texts under each edit, from the second token of a text on.

    Args:
        tokens: tokenized neutral texts.
        edits, plan, advance: as in `edited_logprobs`.
    """
    tokens = neutral_tokens(tokens)
    kl, loss, count = np.zeros(len(edits)), np.zeros(1 + len(edits)), 0
    sweep = _Sweep(model)
    for batch in batches(model, tokens, plan):
        plain = torch.empty(0)
        wanted = torch.as_tensor(batch.targets, device=model.device)[:, None]
        for line, final in enumerate(sweep.finals(batch, edits)):
            logs = model.logits(batch.predicting(final)).log_softmax(dim=-1)
            loss[line] -= float(logs.gather(-1, wanted).sum())
            if line == 0:
                plain = logs
            else:
                kl[line - 1] += float(torch.nn.functional.kl_div(logs, plain, log_target=True, reduction="sum"))
        count += len(batch.targets)
        advance(sum(len(tokens[i].ids) for i in batch.texts) * (1 + len(edits)))
    return Damage(kl=kl / count, loss=loss / count)


def neutral_tokens(tokens: Sequence[TokenText]) -> list[TokenText]:
    """Neutral texts as they are edited and read: edited from the second token on, each of its own group."""
    return [
        replace(t, read_from=AFTER_SINK, group=f"neutral-{i}") for i, t in enumerate(tokens) if len(t.ids) > AFTER_SINK
    ]


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


def monotone(
    alphas: Sequence[float], margins: Float[np.ndarray, "dose scenario"], reach: float
) -> Float[np.ndarray, "scenario"]:
    """1 where a scenario's margin rises from every dose within reach to the next, else 0; NaN without two doses."""
    dose = np.asarray(alphas)
    inside = np.flatnonzero(np.abs(dose) <= reach + 1e-12)
    if len(inside) < 2:
        return np.full(margins.shape[1], np.nan)
    ordered = margins[inside[np.argsort(dose[inside])]]
    return (np.diff(ordered, axis=0) > 0).all(axis=0).astype(float)


class _Sweep:
    """Runs batches under edits; whether a pass may start in the middle is measured on the first batch.

    Where all edits act at one site, everything up to it is computed once and serves all of them, if starting there
    gives the full pass's log-probs; otherwise each edit is a full pass with hooks.
    """

    def __init__(self, model: OpenModel) -> None:
        self.model = model
        self.resumable: bool | None = None

    def finals(self, batch: Batch, edits: Edits) -> Iterator[Residual]:
        """The residual after the final norm: without an edit, then under each."""
        sites = {each.site for edit in edits for each in edit}
        site = next(iter(sites)) if len(sites) == 1 else None
        if site is None or site_layer(site) >= len(self.model.sites) - 2:
            yield batch.run(self.model)
            yield from (self._hooked(batch, edit) for edit in edits)
            return
        final, kept = self._keeping(batch, site)
        yield final
        layer = site_layer(site)
        if self.resumable is None:
            again = batch.mean_logprobs(self.model, batch.run_after(self.model, layer, kept))
            gap = float(np.abs(again - batch.mean_logprobs(self.model, final)).max())
            self.resumable = gap <= RESUME_TOLERANCE[self.model.dtype]
        for edit in edits:
            if self.resumable:
                yield batch.run_after(self.model, layer, apply_all(edit, kept, batch.edited))
            else:
                yield self._hooked(batch, edit)

    def _hooked(self, batch: Batch, edit: Sequence[Intervention]) -> Residual:
        with self.model.hooked(hooks(edit, batch.edited)):
            return batch.run(self.model)

    def _keeping(self, batch: Batch, site: str) -> tuple[Residual, Residual]:
        kept: list[torch.Tensor] = []
        with self.model.hooked({site: lambda _site, value: kept.append(value.clone())}):
            final = batch.run(self.model)
        return final, kept[0]
