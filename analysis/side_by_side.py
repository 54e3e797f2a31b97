"""Two runs beside each other: the same steps and domains, each run's cells, and whether their intervals overlap."""

from pathlib import Path
from typing import Any

import pandas as pd

from activations.artifact import write_text
from analysis.overview import cell_of
from analysis.page import environment
from analysis.run_tables import read_lock
from analysis.sections import records
from analysis.tables import read_table
from probes.sides import POOLED

SAME = (
    ("pairs_hash", "the pairs"),
    ("study.layer_band", "the band of layers"),
    ("study.smallest_effect", "the smallest effects that matter"),
    ("study.template", "the template"),
    ("study.dtype", "the dtype"),
    ("study.seed", "the seed of the folds"),
    ("versions.compassion-probes", "the version of this program"),
)


def write_comparison(folder: Path, other: Path) -> Path:
    """Write compare.html into `folder`: its verdicts beside the other run's; returns the page.

    Raises:
        InputError: one of them is no run, or its verdicts are missing.
    """
    locks = [read_lock(f) for f in (folder, other)]
    tables = [read_table(f / "tables", "verdicts") for f in (folder, other)]
    smallest = [lock["study"]["smallest_effect"] for lock in locks]
    here, there = (
        {(r["parent"], r["child"], r["domain"]): cell_of(r, s) for r in records(t)}
        for t, s in zip(tables, smallest, strict=True)
    )
    keys = sorted(dict.fromkeys([*here, *there]), key=lambda k: k not in here or k not in there)  # what both have first
    rows = [_row(key, here.get(key), there.get(key)) for key in keys]
    steps: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        steps.setdefault((row["parent"], row["child"]), []).append(row)
    for part in steps.values():
        part.sort(key=lambda r: r["domain"] != POOLED)
    page = (
        environment()
        .get_template("compare.html")
        .render(
            runs=[
                {"name": f.resolve().name, "study": lock["study"]["name"]}
                for f, lock in zip((folder, other), locks, strict=True)
            ],
            differ=[what for key, what in SAME if _at(locks[0], key) != _at(locks[1], key)],
            steps=[{"parent": p, "child": c, "rows": part} for (p, c), part in steps.items()],
        )
    )
    write_text(folder / "compare.html", page)
    return folder / "compare.html"


def _row(key: tuple[str, str, str], here: dict[str, Any] | None, there: dict[str, Any] | None) -> dict[str, Any]:
    parent, child, domain = key
    overlaps = {q: _overlap(here, there, q) for q in ("retention", "delta_margin")}
    return {"parent": parent, "child": child, "domain": domain, "cells": [here, there], "overlap": overlaps}


def _overlap(here: dict[str, Any] | None, there: dict[str, Any] | None, quantity: str) -> str:
    """Whether two intervals share a point: yes, no, or – where one is missing."""
    if here is None or there is None:
        return "–"
    limits = [cell[f"{quantity}_{end}"] for cell in (here, there) for end in ("low", "high")]
    if any(pd.isna(limit) for limit in limits):
        return "–"
    return "yes" if max(limits[0], limits[2]) <= min(limits[1], limits[3]) else "no"


def _at(lock: dict[str, Any], key: str) -> Any:
    found: Any = lock
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
