"""results.json: verdicts, edges and gates of a run for other programs, in a schema that ships beside the templates."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from activations.artifact import write_text
from analysis.sections import records

SCHEMA = Path(__file__).parent / "templates" / "results.schema.json"
Number = float | None  # null: empty in the table, or without a finite limit


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class About(_Strict):
    """What was measured, on what, by which versions."""

    study: str
    pairs_hash: str
    layer_band: tuple[float, float]
    smallest_effect: dict[str, float]
    versions: dict[str, str]
    command: str = Field(description="repeats the run; whole paths stand in study.lock.json")


class VerdictRow(_Strict):
    """A row of verdicts.csv: limits are adjusted for the step's domains."""

    parent: str
    child: str
    stage: str
    data_domain: str
    seed: Number
    domain: str
    verdict: str
    evidence: Literal["E0", "E1", "E2", "E3", "E4", "E5"]
    retention: Number
    retention_low: Number
    retention_high: Number
    delta_margin: Number
    delta_margin_low: Number
    delta_margin_high: Number
    mde: Number
    mde_margin: Number
    n_scenarios: int
    gates_failed: list[str]
    reasons: str


class EdgeRow(_Strict):
    """A row of edges.csv."""

    parent: str
    child: str
    contrast: str
    domain: str
    n_scenarios: int
    quantity: str
    value: Number
    low: Number
    high: Number
    low_90: Number
    high_90: Number
    low_adjusted: Number
    high_adjusted: Number
    null_percentile: Number
    state: Literal["flat", "down", "up", "lost", "unclear", ""]


class GateRow(_Strict):
    """A row of gates.csv; `passed` is null where the gate could not be measured."""

    parent: str
    child: str
    domain: str
    gate: str
    passed: bool | None
    value: Number
    limit: Number
    says: str


class Results(_Strict):
    """A run's verdicts and what they were made from; columns as in docs/tables.md, null where a cell is empty."""

    format: Literal[1]
    about: About
    verdicts: list[VerdictRow]
    edges: list[EdgeRow]
    gates: list[GateRow]


def schema_text() -> str:
    """The JSON schema of results.json, as it ships."""
    return json.dumps(Results.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def results(lock: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Results:
    """The run's results as they are written."""
    study = lock["study"]
    about = About(
        study=study["name"],
        pairs_hash=lock["pairs_hash"],
        layer_band=tuple(study["layer_band"]),
        smallest_effect=study["smallest_effect"],
        versions=lock["versions"],
        command=command(lock),
    )
    verdicts = [row | {"gates_failed": row["gates_failed"].split()} for row in _rows(tables["verdicts"])]
    gates = [row | {"passed": {"yes": True, "no": False}.get(row["passed"])} for row in _rows(tables["gates"])]
    edges = [{k: row[k] for k in EdgeRow.model_fields} for row in _rows(tables["edges"])]
    return Results.model_validate({"format": 1, "about": about, "verdicts": verdicts, "edges": edges, "gates": gates})


def write_results(folder: Path, found: Results) -> None:
    """Write results.json into a run folder."""
    write_text(folder / "results.json", found.model_dump_json() + "\n")


def command(lock: Mapping[str, Any]) -> str:
    """The command that repeats a run, with names of files and no paths."""
    study = lock["study"]
    sources = {c["name"]: _source(c) for c in lock.get("lineage", [])}
    if str(study["name"]).startswith("compare-") and set(sources) == {"parent", "child"}:
        return f"compassion compare {sources['parent']} {sources['child']}"
    return f"compassion run {Path(lock.get('folder', 'STUDY')).name}"


def _source(checkpoint: Mapping[str, Any]) -> str:
    given = checkpoint.get("source", {})
    if "hub" in given:
        return given["hub"] + (f"@{given['revision']}" if given.get("revision") else "")
    if "embedded" in given:
        return f"embedded:{given['embedded']}"
    return Path(given.get("path") or checkpoint.get("adapter") or "?").name


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in records(table)
    ]
