"""G: what a step did to a checkpoint's own answers, all read by one reader, the root's (METHOD §0)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from activations.study import SmallestEffect
from analysis.drift import edge_row
from analysis.edge import deviation, mean_product, over
from analysis.states import Interval, limits, regions, state
from probes.geometry import Product
from probes.inference import NOT_ESTIMABLE, jackknife_interval
from probes.sides import POOLED

FEWEST = 3  # prompts a spread can be estimated from


def generated_rows(
    generations: pd.DataFrame, parent: str, child: str, slices: Sequence[str], smallest: SmallestEffect
) -> Iterator[dict[str, Any]]:
    """Rows of edges.csv for G: the mean change over prompts of the reader's score, in SDs of the parent's scores.

    Args:
        generations: generations.csv.
        parent, child: the step.
        slices: domains, and "pooled".
        smallest: decides what is flat; G is held to the margin's.
    """
    own = generations[(generations.alpha == 0) & generations.checkpoint.isin([parent, child])]
    table = own.pivot_table(
        index=["domain", "scenario_id"], columns="checkpoint", values="reader_score", aggfunc="mean", sort=False
    )
    if not {parent, child} <= set(table.columns):
        return
    both = table.dropna()
    family = len([d for d in slices if d != POOLED])
    for domain in slices:
        part = both if domain == POOLED else both[both.index.get_level_values("domain") == domain]
        found = _change(part[parent].to_numpy(), part[child].to_numpy())
        interval = limits(_interval(found), 1 if domain == POOLED else family)
        row = edge_row("G", interval, state(interval, regions(smallest)["margin"]))
        yield {"domain": domain, "n_scenarios": len(part)} | row


def _interval(found: Product | None) -> Interval:
    return lambda level: NOT_ESTIMABLE if found is None else jackknife_interval(found, level=level)


def _change(before: np.ndarray, after: np.ndarray) -> Product | None:
    if len(before) < FEWEST or not np.ptp(before) > 0:
        return None
    return over(mean_product(after - before), deviation(before))
