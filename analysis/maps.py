"""Transfer as heat maps, and what confounds share with the direction: cells of transfer.csv and confounds.csv."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.page import number
from analysis.sections import records
from probes.sides import POOLED

READER = "mass-mean"
LEVELS = 10  # colours of the map, dark to bright


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Numbers with their colours: rows are what was fitted on, columns what was scored."""

    rows: list[str]
    columns: list[str]
    cells: list[list[tuple[str, int] | None]]


def transfer_maps(
    transfer: pd.DataFrame, steps: Sequence[Mapping[str, Any]], order: Sequence[str], domains: Sequence[str]
) -> dict[str, Any] | None:
    """d′ of mass-mean readers: checkpoint × checkpoint on all domains, and domain × domain of every checkpoint.

    Args:
        transfer: the table.
        steps: rows of the verdict matrix.
        order: the checkpoints.
        domains: in the order of the matrix; sets that retell scenarios follow.
    """
    rows = transfer[transfer.method == READER]
    if rows.empty:
        return None
    top = max((d for d in rows.dprime if math.isfinite(d)), default=0.0)
    known = [*domains, *(d for d in dict.fromkeys(rows.train_domain) if d not in domains)]
    scored = [*known, *(d for d in dict.fromkeys(rows.test_domain) if d not in known)]
    everything = POOLED if POOLED in known else known[0]
    pooled = rows[(rows.train_domain == everything) & (rows.test_domain == everything)]
    fitted_in = {(r.train_checkpoint, r.checkpoint): r.dprime for r in pooled.itertuples()}
    by_pair = {
        key: dict(zip(zip(part.train_domain, part.test_domain, strict=True), part.dprime, strict=True))
        for key, part in rows.groupby(["train_checkpoint", "checkpoint"], sort=False)
    }
    trained = [d for d in known if d in set(rows.train_domain)]

    def of(source: str, checkpoint: str) -> HeatMap | None:
        found = by_pair.get((source, checkpoint))
        return _heat(found, trained, scored, top) if found else None

    pages = [{"parent": None, "child": order[0], "step": "", "own": of(order[0], order[0]), "frozen": None}]
    for step in steps:
        parent, child = step["parent"], step["child"]
        about = {"parent": parent, "child": child, "step": step["step"]}
        pages.append(about | {"own": of(child, child), "frozen": of(parent, child)})
    return {
        "checkpoints": _heat(fitted_in, order, order, top),
        "pages": pages,
        "on": everything,
        "top": number(top),
        "levels": list(range(LEVELS)),
    }


def _heat(found: Mapping[Any, float], rows: Sequence[str], columns: Sequence[str], top: float) -> HeatMap:
    cells = [
        [(number(found[(r, c)]), _level(found[(r, c)], top)) if (r, c) in found else None for c in columns]
        for r in rows
    ]
    return HeatMap(rows=list(rows), columns=list(columns), cells=cells)


def _level(value: float, top: float) -> int:
    """The colour of a number: ten equal steps from 0 to the largest of the study; below 0 the first."""
    if pd.isna(value) or top <= 0:
        return 0
    return int(LEVELS * min(max(value / top, 0.0), 0.999))


def confound_pages(confounds: pd.DataFrame, layer: int) -> list[dict[str, Any]]:
    """By checkpoint, after one layer: a line a confound and domain with its cosine and what is left, and the 2×2."""
    pages: dict[str, dict[str, dict[tuple[str, str], dict[str, Any]]]] = {}
    for row in records(confounds[confounds.layer == layer]):
        page = pages.setdefault(row["checkpoint"], {"lines": {}, "two_by_two": {}})
        kind = "two_by_two" if row["confound"] == "2x2" else "lines"
        about = {"domain": row["domain"], "confound": row["confound"], "n_scenarios": row["n_scenarios"], "found": {}}
        page[kind].setdefault((row["domain"], row["confound"]), about)["found"][row["quantity"]] = row
    return [
        {"checkpoint": checkpoint} | {k: sorted(lines.values(), key=_pooled_first) for k, lines in page.items()}
        for checkpoint, page in pages.items()
    ]


def _pooled_first(row: Mapping[str, Any]) -> bool:
    return row["domain"] != POOLED
