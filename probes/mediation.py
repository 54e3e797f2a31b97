"""Mediation across a training step: does the ancestor's component along u give back what the step took from the margin?

At one site, on the same tokens, h_B ← h_B + v vᵀ(h_A − h_B) for the direction and for control directions; and the other
way, the descendant's component into the ancestor. Effects of all directions come to first order from one backward pass
a text, as does the KL that each patch costs; the direction's own patch, and some controls', are run in full besides.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from activations.openmodel import OpenModel
from activations.packing import RowPlan
from probes.batches import Batch, apart, batches
from probes.direction import Direction
from probes.gradients import FISHER_REPEATS, gradient_of, leaves, mean_logprobs, owned, sampled_score, scenarios_of
from probes.interventions import Patch
from probes.steering import Edits, edited_logprobs
from probes.trials import Answers

Places = Float[torch.Tensor, "_ d_model"]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Patched:
    """One way of a step: another checkpoint's components put in. Directions: u first, then the controls.

    Attributes:
        margins: in line 0 of the unpatched model, then with each of the first directions put in, run in full.
        first_order: change of every scenario's margin by each direction's patch, to first order.
        kl: what each patch costs on the answers' next tokens, to second order, nats a token.
    """

    margins: Float[np.ndarray, "line scenario"]
    first_order: Float[np.ndarray, "direction scenario"]
    kl: Float[np.ndarray, "direction"]


def residuals_at(model: OpenModel, answers: Answers, site: str, plan: RowPlan) -> list[Places]:
    """The residual at a site of every edited token, batch by batch (float32, on the host), for `put_in`."""
    found = []
    for batch in _batches(model, answers, plan):
        kept: list[torch.Tensor] = []

        def keep(_site: str, value: torch.Tensor, kept: list[torch.Tensor] = kept) -> None:
            kept.append(value.detach())

        with model.hooked({site: keep}):
            batch.run(model)
        found.append(_places(batch, kept[0]).cpu())
    return found


def put_in(
    model: OpenModel,
    answers: Answers,
    direction: Direction,
    controls: Float[np.ndarray, "control d_model"],
    there: Sequence[Places],
    plan: RowPlan,
    *,
    runs: int,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Patched:
    """Put another checkpoint's components into a model.

    Args:
        model: where they are put in.
        answers: held-out scenarios.
        direction: u, at its site.
        controls: unit directions at the same site.
        there: the other checkpoint's residuals of the same answers under the same plan (`residuals_at`).
        plan: row layout.
        runs: directions whose patch is run in full, u and the first controls.
        seed: of sampled tokens.
        advance: told how many (token, pass) steps are done.
    """
    vectors = np.concatenate([direction.vector[None], controls])
    first_order, kl = _to_first_order(model, answers, direction.site, vectors, there, plan, seed, advance)
    shapes = [(b.ids.shape, b.owner) for b in _batches(model, answers, plan)]

    def patches(number: int) -> Edits:
        shape, owner = shapes[number]
        edits = []
        for vector in vectors[:runs]:
            source = torch.zeros(owner.shape, device=model.device)
            source[owner >= 0] = there[number].to(model.device) @ torch.as_tensor(vector).to(source)
            edits.append([Patch(direction=replace(direction, vector=vector), source=source.reshape(shape))])
        return edits

    found = edited_logprobs(model, owned(answers.tokens, answers.weights), patches, plan, advance)
    return Patched(margins=answers.margins(found), first_order=first_order, kl=kl)


def _to_first_order(
    model: OpenModel,
    answers: Answers,
    site: str,
    vectors: Float[np.ndarray, "direction d_model"],
    there: Sequence[Places],
    plan: RowPlan,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Σ_t (G_t·v)(vᵀ(h′_t − h_t)) over each scenario's tokens; and ½ E[(the same of a sampled score)²] as the KL."""
    columns = torch.as_tensor(vectors.T, dtype=torch.float32, device=model.device)
    share = torch.as_tensor(answers.weights.sum(axis=0), dtype=torch.float32, device=model.device)
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros((len(answers.weights), len(vectors)), dtype=torch.float64)
    square, read = torch.zeros(len(vectors), dtype=torch.float64), 0
    for batch, other in zip(_batches(model, answers, plan), there, strict=True):
        with leaves(model, [site]) as kept:
            logs = model.logits(batch.predicting(batch.run(model))).log_softmax(dim=-1)
            targets = torch.as_tensor(batch.targets, device=model.device)
            own = mean_logprobs(batch, logs.gather(-1, targets[:, None])[:, 0])
        gap = (other.to(model.device) - _places(batch, kept[0].detach())) @ columns

        def moved(gap: torch.Tensor = gap, batch: Batch = batch, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            """[group, direction]: what the last backward pass says each patch does."""
            total = torch.zeros((len(batch.groups), gap.shape[1]), device=gap.device)
            step = (_places(batch, gradient_of(kept[0])) @ columns) * gap
            kept[0].grad = None
            return total.index_add_(0, batch.owner[batch.owner >= 0], step).double().cpu()

        (own * share[batch.texts]).sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        found.index_add_(0, torch.as_tensor(scenarios_of(batch)), moved())
        for repeat in range(FISHER_REPEATS):
            last = repeat + 1 == FISHER_REPEATS
            sampled_score(logs, generator).backward(retain_graph=not last)  # type: ignore[no-untyped-call]
            square += moved().square().sum(dim=0)
        read += len(batch.targets)
        advance((2 + FISHER_REPEATS) * sum(len(answers.tokens[i].ids) for i in batch.texts))
    return found.T.numpy(), (square / (2 * FISHER_REPEATS * read)).numpy()


def _batches(model: OpenModel, answers: Answers, plan: RowPlan) -> Iterator[Batch]:
    return batches(model, apart(owned(answers.tokens, answers.weights)), plan)


def _places(batch: Batch, values: Float[torch.Tensor, "row token d_model"]) -> Places:
    """The values at the edited tokens, in the order of their places."""
    return values.reshape(-1, values.shape[-1])[batch.owner >= 0].float()
