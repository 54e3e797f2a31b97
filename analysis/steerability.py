"""S: whether the same dose of a checkpoint's own direction still moves the margin as it moved the parent's."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from activations.study import SmallestEffect
from analysis.drift import edge_row
from analysis.edge import mean_product
from analysis.states import Interval, limits, regions, state
from probes.inference import NOT_ESTIMABLE, ratio_interval
from probes.sides import POOLED

FEWEST = 3  # scenarios that a ratio's error can be estimated from


def steerability_rows(
    steered: pd.DataFrame, parent: str, child: str, slices: Sequence[str], smallest: SmallestEffect
) -> Iterator[dict[str, Any]]:
    """Rows of edges.csv for S: the child's mean slope over the parent's, each along its own direction, in τ.

    Args:
        steered: steered.csv, whose slopes are to first order.
        parent, child: the step; without slopes of both there are no rows.
        slices: domains, and "pooled".
        smallest: decides what is flat; S is held to the retention's.
    """
    own = steered[steered.checkpoint.isin([parent, child])]
    table = own.pivot(index=["domain", "scenario_id"], columns="checkpoint", values="slope")
    if not {parent, child} <= set(table.columns):
        return
    family = len([d for d in slices if d != POOLED])
    for domain in slices:
        part = table if domain == POOLED else table[table.index.get_level_values("domain") == domain]
        found = limits(_ratio(part, parent, child), 1 if domain == POOLED else family)
        row = edge_row("S", found, state(found, regions(smallest)["ratio"]))
        yield {"domain": domain, "n_scenarios": len(part)} | row


def _ratio(part: pd.DataFrame, parent: str, child: str) -> Interval:
    if len(part) < FEWEST:
        return lambda _level: NOT_ESTIMABLE
    top, bottom = (mean_product(part[name].to_numpy()) for name in (child, parent))
    return lambda level: ratio_interval(top, bottom, level=level)
