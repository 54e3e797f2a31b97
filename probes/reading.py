"""Reading a text along a direction: the projection of every token, on the scale of neutral text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from activations.openmodel import OpenModel
from activations.packing import RowPlan, TokenText, batch_rows, pack
from probes.direction import Direction
from probes.interventions import Residual

RANGE = (1, 99)  # percentiles of neutral tokens that a colour scale spans


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Reading:
    """A text's tokens and where each lies on a direction.

    Attributes:
        pieces: the stretch of the text that each token stands for.
        projections: uᵀh of each token, in units of τ; positive is the compassionate side.
        read_from: the first token that is read. The first token of all is an attention sink: its residual is large
            and says nothing of the text. Tokens of a prompt are not read either.
        low, high: the 1st and 99th percentile of the projections of neutral tokens, in units of τ.
    """

    pieces: tuple[str, ...]
    projections: Float[np.ndarray, "token"]
    read_from: int
    low: float
    high: float

    def place(self, token: int) -> float:
        """Where a token lies between `low` (−1) and `high` (+1); beyond them where its projection is."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return (float(self.projections[token]) - middle) / half if half else 0.0


@torch.no_grad()
def token_projections(
    model: OpenModel, tokens: Sequence[TokenText], direction: Direction, plan: RowPlan
) -> list[Float[np.ndarray, "token"]]:
    """uᵀh of every token of every text at the direction's site, in units of τ.

    Args:
        tokens: tokenized texts.
        direction: what is projected on, with its site and τ.
        plan: row layout; it changes rounding only.
    """
    found: list[Float[np.ndarray, token]] = [np.zeros(0)] * len(tokens)
    rows = pack(tokens, plan.row_budget)
    for start in range(0, len(rows), plan.rows_per_batch):
        batch = rows[start : start + plan.rows_per_batch]
        ids, positions, branch, last = batch_rows(batch)
        kept: list[np.ndarray] = []

        def keep(_site: str, value: Residual, kept: list[np.ndarray] = kept) -> None:
            kept.append(value.float().cpu().numpy())

        with model.hooked({direction.site: keep}):
            model.body(ids, positions, model.mask(branch, last))
        projections = direction.project(kept[0]) / direction.tau
        for row, line in zip(batch, projections, strict=True):
            for index, place in zip(row.texts, row.places, strict=True):
                found[index] = line[place]
    return found


def neutral_range(projections: Sequence[Float[np.ndarray, "_"]]) -> tuple[float, float]:
    """The 1st and 99th percentile of neutral texts' tokens, the first of each text (the attention sink) left out."""
    low, high = np.percentile(np.concatenate([p[1:] for p in projections]), RANGE)
    return float(low), float(high)
