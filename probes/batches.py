"""Rows of packed answers as one forward pass sees them, with the places that an edit may touch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from activations.openmodel import OpenModel
from activations.packing import PackedRow, RowPlan, TokenText, batch_rows, pack
from activations.store import ragged_mean


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Batch:
    """Some packed rows. A text is edited from its last token before the answer on, and read in its answer.

    Attributes:
        ids, positions, mask: what the model's body takes.
        edited: 1 at the tokens that an edit may touch.
        texts: the texts of the batch, by number.
        before, targets: flat place of the token before each read token, and that token's id, text after text.
        counts: read tokens of each text.
        owner: for every token the number (in `groups`) of the group it is edited with; −1 elsewhere.
        groups: texts that share a beginning, by their group's name.
    """

    ids: Int[np.ndarray, "row token"]
    positions: Int[np.ndarray, "row token"]
    mask: torch.Tensor
    edited: Float[torch.Tensor, "row token"]
    texts: list[int]
    before: Int[torch.Tensor, "read"]
    targets: Int[np.ndarray, "read"]
    counts: Int[np.ndarray, "text"]
    owner: Int[torch.Tensor, "place"]
    groups: list[str]

    @classmethod
    def of(cls, model: OpenModel, rows: Sequence[PackedRow], tokens: Sequence[TokenText]) -> "Batch":
        """The batch of some rows that `batches` packed."""
        ids, positions, branch, last = batch_rows(rows)
        size = ids.shape[1]
        owner = np.full(ids.size, -1, dtype=np.int64)
        texts, before, targets = [], [], []
        groups: dict[str, int] = {}
        for number, row in enumerate(rows):
            for index, place in zip(row.texts, row.places, strict=True):
                first = tokens[index].read_from
                owner[place[first - 1 :] + number * size] = groups.setdefault(tokens[index].group, len(groups))
                texts.append(index)
                before.append(place[first - 1 : -1] + number * size)
                targets.append(tokens[index].ids[first:])
        placed = torch.as_tensor(owner, device=model.device)
        return cls(
            ids=ids,
            positions=positions,
            mask=model.mask(branch, last),
            texts=texts,
            edited=(placed >= 0).float().reshape(ids.shape),
            before=torch.as_tensor(np.concatenate(before), device=model.device),
            targets=np.concatenate(targets),
            counts=np.asarray([len(t) for t in targets]),
            owner=placed,
            groups=list(groups),
        )

    def run(self, model: OpenModel) -> Float[torch.Tensor, "row token d_model"]:
        """The residual after the final norm."""
        return model.body(self.ids, self.positions, self.mask)

    def run_after(
        self, model: OpenModel, layer: int, residual: Float[torch.Tensor, "row token d_model"]
    ) -> Float[torch.Tensor, "row token d_model"]:
        """The same from the output of a block on."""
        return model.body_after(layer, residual, self.positions, self.mask)

    def predicting(self, final: Float[torch.Tensor, "row token d_model"]) -> Float[torch.Tensor, "read d_model"]:
        """The residuals that predict the read tokens."""
        return final.reshape(-1, final.shape[-1])[self.before]

    def logprobs(
        self, model: OpenModel, final: Float[torch.Tensor, "row token d_model"]
    ) -> Float[torch.Tensor, "read"]:
        """Log-prob of every read token, nats."""
        return model.log_probs(self.predicting(final), self.targets)

    def mean_logprobs(
        self, model: OpenModel, final: Float[torch.Tensor, "row token d_model"]
    ) -> Float[np.ndarray, "text"]:
        """Mean log-prob a read token of every text, in the order of `texts`."""
        return ragged_mean(self.logprobs(model, final).detach().cpu().numpy(), self.counts)

    def by_group(self, gradient: Float[torch.Tensor, "row token d_model"]) -> Float[torch.Tensor, "group d_model"]:
        """A gradient summed over the tokens that each group is edited at."""
        flat = gradient.reshape(-1, gradient.shape[-1])
        chosen = self.owner >= 0
        total = torch.zeros((len(self.groups), flat.shape[-1]), dtype=torch.float32, device=flat.device)
        return total.index_add_(0, self.owner[chosen], flat[chosen].float())


def apart(tokens: Sequence[TokenText]) -> list[TokenText]:
    """The texts with the edit's start in their group: what starts elsewhere must not share the tokens between."""
    return [replace(t, group=f"{t.group}@{t.read_from}") for t in tokens]


def batches(model: OpenModel, tokens: Sequence[TokenText], plan: RowPlan) -> Iterator[Batch]:
    """Packed rows of texts, a batch at a time. The texts must have gone through `apart`."""
    rows = pack(tokens, plan.row_budget)
    for start in range(0, len(rows), plan.rows_per_batch):
        yield Batch.of(model, rows[start : start + plan.rows_per_batch], tokens)
