"""Tables to one self-contained report.html. Every number in it is a cell of a table; nothing is computed here."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from activations.artifact import write_text, writing
from activations.errors import InputError
from analysis import figures, sections
from analysis.edge import band_layers
from analysis.tables import ELSEWHERE, TABLES, read_table
from probes.audit import AuditRow, AuditSummary, summarise


def write_report(folder: Path) -> Path:
    """Write report.html and figures/*.svg (and .png) from a run folder's tables and lock file; returns the report.

    Raises:
        InputError: a table or the lock file is missing.
    """
    lock = read_lock(folder)
    tables = {name: read_table(folder / "tables", name) for name in TABLES if name not in ELSEWHERE}
    tables |= {name: read_table(folder / "tables", name) for name in ELSEWHERE if _is_there(folder, name)}
    n_layers = int(tables["layers"].layer.max()) + 1
    band = band_layers(n_layers, tuple(lock["study"]["layer_band"]))
    drawn = {
        "size": figures.layer_curves(tables["layers"], "size_tau", "size (τ)", band, floor=0.0),
        "dprime": figures.layer_curves(tables["layers"], "dprime", "d′ (held out)", band, floor=0.0),
        "auroc": figures.layer_curves(
            tables["layers"], "auroc", "AUROC (held out)", band, low="auroc_low", high="auroc_high", floor=0.5
        ),
    }
    if len(tables["edges"]):
        drawn["retention"] = figures.retention_dots(_main(tables["edges"]))
    if len(tables["steering"]):
        drawn["steering"] = figures.dose_response(tables["steering"])
        drawn["slopes"] = figures.slope_profile(tables["slopes"], band)
    for name, figure in drawn.items():
        write_text(folder / "figures" / f"{name}.svg", figures.as_svg(figure))
        with writing(folder / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(figures.as_png(figure))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    page = environment.get_template("report.html").render(
        study=lock["study"],
        versions=lock["versions"],
        row_plan=lock["row_plan"],
        pairs_hash=lock["pairs_hash"],
        checkpoints=lock["checkpoints"],
        band=band,
        figures={n: _inline(folder, n) for n in drawn},
        steps=_steps(_main(tables["edges"])),
        verdicts=sections.verdict_steps(tables["verdicts"]),
        gates=sections.failed_gates(tables["gates"]),
        instrument=sections.records(tables["instrument"]),
        branches=sections.branch_lines(tables["branches"]),
        lone=sections.lone_domains(tables["branches"]),
        doses=sections.dose_lines(tables["doses"]),
        steering=sections.steering_lines(tables["slopes"], band[len(band) // 2]),
        beside=sections.beside_lines(tables["steering"]),
        mediation=sections.mediation_lines(tables["mediation"]),
        answers=sections.answer_lines(tables["generations"]),
        certificate=sections.certificate(folder / "tables"),
        matrix=_matrix(tables),
        tables=_sources(tables),
        receipts=sections.records(tables["receipts"]),
        baselines=_baselines(tables["layers"], band),
        audit=_audit(folder / "audit.json"),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _is_there(folder: Path, name: str) -> bool:
    return (folder / "tables" / f"{name}.csv").is_file()


def _main(edges: pd.DataFrame) -> pd.DataFrame:
    """The compassion contrast's rows; other contrasts of the study stand in the table only."""
    return edges[edges.contrast == edges.contrast.iloc[0]] if len(edges) else edges


def read_lock(folder: Path) -> dict[str, Any]:
    """A run folder's study.lock.json.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = folder / "study.lock.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("no run here", where=str(path), mend="give a folder that `compassion run` made") from error
    return found


def _inline(folder: Path, name: str) -> str:
    """A figure's SVG without its XML prologue, its ids made unique in the page."""
    svg = (folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)


def _steps(edges: pd.DataFrame) -> list[dict[str, Any]]:
    steps = []
    for (parent, child, domain), part in edges.groupby(["parent", "child", "domain"], sort=False):
        by = part.set_index("quantity")
        cells = {q: by.loc[q, ["value", "low", "high"]].to_dict() for q in by.index}
        steps.append({"parent": parent, "child": child, "domain": domain, "cells": cells})
    return steps


def _matrix(tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Domain × checkpoint: the behaviour margin with its interval."""
    behaviour = tables["behaviour"]
    cells = {(r.domain, r.checkpoint): r for r in behaviour.itertuples()}
    domains = list(dict.fromkeys(behaviour.domain))
    checkpoints = list(dict.fromkeys(behaviour.checkpoint))
    perplexity = {r.checkpoint: r.neutral_perplexity for r in behaviour.itertuples()}
    return {"domains": domains, "checkpoints": checkpoints, "cells": cells, "perplexity": perplexity}


def _baselines(layers: pd.DataFrame, band: list[int]) -> list[dict[str, Any]]:
    """The root's held-out separation at the middle of the band, the default and the strongest usual reader."""
    middle = band[len(band) // 2]
    root = layers.checkpoint.iloc[0]
    shown = layers.method.isin(["mass-mean", "logistic"])
    rows = layers[(layers.checkpoint == root) & (layers.layer == middle) & shown]
    return sections.records(rows.assign(middle=middle))


def _audit(path: Path) -> list[AuditSummary]:
    """The pair audit, a line per block and surface feature; empty without one."""
    try:
        return summarise(AuditRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("cannot be read as an audit", where=str(path), mend="run `compassion train-probes`") from error


def _sources(tables: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    return [{"name": name, "rows": len(table), "columns": TABLES[name]} for name, table in tables.items()]


def _number(value: float | int | None, digits: int = 2) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:z.{digits}f}".replace("-", "−")
