"""What the report opens with: the verdict matrix, what changed, the lineage with its edges, how many tests were run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.panels import Glyph, glyph
from analysis.sections import KINDS, records
from analysis.verdict import BEHAVIOUR_UP, DECLINE, DISPOSITION, LEVELS, SEVERITY, head
from probes.sides import POOLED

BY_MARGIN = (DECLINE, DISPOSITION, BEHAVIOUR_UP)  # verdicts that say size was kept: at a glance, the margin is shown
SHOWN = 12  # changes listed before the matrix; all of them stand in it
MARKS = {"loss": "▼", "turned": "↻", "kept": "=", "gain": "▲", "open": "?", "refused": "⊘"}
KIND_NAMES = {
    "loss": "weakened",
    "turned": "rotated",
    "kept": "preserved",
    "gain": "strengthened",
    "open": "undecided",
    "refused": "refused",
}
GATES = {
    "G1": "texts differ",
    "G2": "too few scenarios",
    "G3": "not declared first",
    "G4": "parent lacks it",
    "G5": "text alone may do it",
    "G6": "tone may do it",
    "G7": "general damage",
    "G8": "instrument fails here",
}
# Columns of p-values and states: the tests of a run, by table, and what keeps them in check.
TESTS = (
    (
        "edges",
        "state",
        "states of a step's quantities",
        "Bonferroni over a step's domains; flat by two one-sided tests",
    ),
    (
        "drift",
        "p",
        "retention layer by layer",
        "Holm over domains (band); false discovery rate over layers and domains",
    ),
    ("layers", "p_flip", "sides swapped at random, refitted", "max-T over layers and domains of a checkpoint"),
    ("layers", "p_matched", "against random directions, texts' covariance", "none; gate G4 reads the band's middle"),
    ("layers", "p_isotropic", "against isotropic random directions", "none; a weaker null, no gate reads it"),
    ("branches", "p_adjusted", "siblings and kinds of training", "Holm over domains"),
)


def cell_of(row: Mapping[str, Any], smallest: Mapping[str, float]) -> dict[str, Any]:
    """A row of verdicts.csv with its kind and mark, the gates in words, and its two intervals as glyphs."""
    kind = KINDS[head(row["verdict"])]
    kept = 1 - smallest["retention"]
    margin = smallest["margin_sd"]
    size: Glyph | None = glyph(
        row["retention"],
        row["retention_low"],
        row["retention_high"],
        null=1.0,
        zone=(kept, 1 / kept if kept > 0 else 2.0),
        axis=(0.0, 2.0),
    )
    behaviour = glyph(
        row["delta_margin"],
        row["delta_margin_low"],
        row["delta_margin_high"],
        null=0.0,
        zone=(-margin, margin),
        axis=(-1.0, 1.0),
    )
    return dict(row) | {
        "kind": kind,
        "mark": MARKS[kind],
        "head": head(row["verdict"]),
        "by_margin": head(row["verdict"]) in BY_MARGIN,
        "tail": row["verdict"].partition("; ")[2],
        "gates": [{"gate": g, "says": GATES.get(g, "")} for g in row["gates_failed"].split()],
        "size": size,
        "behaviour": behaviour,
    }


def matrix(verdicts: pd.DataFrame, smallest: Mapping[str, float]) -> dict[str, Any]:
    """Training steps × domains, pooled first; every cell has a number by which its reasons are found."""
    domains = list(dict.fromkeys(verdicts.domain))
    domains.sort(key=lambda d: d != POOLED)
    rows = []
    for number, ((parent, child), part) in enumerate(verdicts.groupby(["parent", "child"], sort=False)):
        by = {r["domain"]: cell_of(r, smallest) for r in records(part)}
        first = part.iloc[0]
        cells = [by[d] | {"anchor": f"why-{number}-{i}"} if d in by else None for i, d in enumerate(domains)]
        trained = " · ".join(str(t) for t in (first.stage, first.data_domain) if t)
        rows.append({"parent": parent, "child": child, "step": number, "trained": trained, "cells": cells})
    return {"domains": domains, "rows": rows}


def cells(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every cell of the matrix, with its step's number."""
    return [c | {"step": r["step"]} for r in grid["rows"] for c in r["cells"] if c is not None]


def counts(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How many cells of each kind, losses first."""
    found = Counter(c["kind"] for c in cells(grid))
    return [{"kind": k, "mark": MARKS[k], "name": KIND_NAMES[k], "n": found[k]} for k in MARKS]


def changes(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cells whose verdict is a change, the worst first: by the scale of verdicts, then evidence, then retention."""
    found = [c for c in cells(grid) if c["kind"] in ("loss", "turned", "gain")]

    def worst_first(cell: dict[str, Any]) -> tuple[int, int, float]:
        return -SEVERITY.index(cell["head"]), -LEVELS.index(cell["evidence"]), cell["retention"]

    return sorted(found, key=worst_first)


def refusals(gates: pd.DataFrame) -> list[dict[str, Any]]:
    """Every gate that refused something: how many step × domain cells, and in which steps."""
    failed = gates[gates.passed == "no"]
    rows = []
    for gate, part in failed.groupby("gate", sort=True):
        steps = dict.fromkeys(f"{p} → {c}" for p, c in zip(part.parent, part.child, strict=True))
        rows.append({"gate": gate, "says": GATES.get(str(gate), ""), "n": len(part), "steps": list(steps)})
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A checkpoint in the drawn lineage, the cell of the edge that leads to it, and what was trained on it."""

    name: str
    stage: str
    trained: str
    edge: dict[str, Any] | None
    children: list["Node"]


def lineage(receipts: pd.DataFrame, grid: Mapping[str, Any]) -> list[Node]:
    """The checkpoints as trees, each child below its parent; an edge's cell is the pooled one, or its only domain's."""
    about = {r["checkpoint"]: r for r in records(receipts)}
    edges = {r["child"]: r for r in grid["rows"]}

    def node(name: str) -> Node:
        row, edge = about.get(name, {}), edges.get(name)
        return Node(
            name=name,
            stage=str(row.get("stage", "")),
            trained=str(row.get("data_domain", "")),
            edge=next(c for c in edge["cells"] if c is not None) | {"step": edge["step"]} if edge else None,
            children=[node(r["child"]) for r in grid["rows"] if r["parent"] == name],
        )

    return [node(name) for name in about if name not in edges]


def tests_run(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """How many tests stand behind the report, by family, and what adjusts them: filled cells of the tables."""
    rows = []
    for name, column, what, adjusted in TESTS:
        cells_there = tables[name][column]
        n = int((cells_there.notna() & (cells_there.astype(str) != "")).sum())
        rows.append({"table": name, "column": column, "what": what, "n": n, "adjusted": adjusted})
    return rows
