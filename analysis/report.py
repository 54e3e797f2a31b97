"""Tables to one self-contained report.html, report.md and results.json. Every number is a cell of a table."""

from pathlib import Path
from typing import Any

import pandas as pd

from activations.artifact import write_text, writing
from analysis import curves, figures, maps, overview, sections
from analysis.edge import band_layers
from analysis.page import environment
from analysis.results import command, results, write_results
from analysis.run_tables import read_audit, read_lock, read_tables
from analysis.tables import TABLES


def write_report(folder: Path) -> Path:
    """Write report.html, report.md, results.json and figures/ from a run's tables and lock file; returns report.html.

    Raises:
        InputError: a table or the lock file is missing.
    """
    lock, tables = read_lock(folder), read_tables(folder)
    n_layers = int(tables["layers"].layer.max()) + 1
    band = band_layers(n_layers, tuple(lock["study"]["layer_band"]))
    drawn = _draw(folder, tables, band)
    smallest = lock["study"]["smallest_effect"]
    grid = overview.matrix(tables["verdicts"], smallest)
    order = list(dict.fromkeys(tables["receipts"].checkpoint))
    domains = grid["domains"] or list(dict.fromkeys(tables["behaviour"].domain))
    middle = band[len(band) // 2]
    found = overview.changes(grid)
    said = {
        "study": lock["study"],
        "lock": lock,
        "command": command(lock),
        "band": band,
        "smallest": smallest,
        "figures": drawn,
        "grid": grid,
        "counts": overview.counts(grid),
        "changes": found,
        "shown": overview.SHOWN,
        "refusals": overview.refusals(tables["gates"]),
        "domains": domains,
    }
    page = (
        environment()
        .get_template("report.html")
        .render(
            **said,
            marks=[{"mark": overview.MARKS[k], "name": overview.KIND_NAMES[k], "kind": k} for k in overview.MARKS],
            trees=overview.lineage(tables["receipts"], grid),
            tests=overview.tests_run(tables),
            layer_pages=curves.layer_pages(tables["layers"], tables["drift"], grid["rows"], domains, band),
            transfer=maps.transfer_maps(tables["transfer"], grid["rows"], order, domains),
            confounds=maps.confound_pages(tables["confounds"], middle),
            steered=curves.steering_pages(tables["steering"], tables["slopes"], band),
            steps=_steps(_main(tables["edges"]), grid),
            gates=sections.failed_gates(tables["gates"]),
            instrument=sections.records(tables["instrument"]),
            branches=sections.branch_lines(tables["branches"]),
            lone=sections.lone_domains(tables["branches"]),
            doses=sections.dose_lines(tables["doses"]),
            steering=sections.steering_lines(tables["slopes"], middle),
            beside=sections.beside_lines(tables["steering"]),
            mediation=sections.mediation_lines(tables["mediation"]),
            answers=sections.answer_lines(tables["generations"]),
            certificate=sections.certificate(folder / "tables"),
            behaviour=_behaviour(tables["behaviour"], domains),
            tables=[{"name": n, "rows": len(t), "columns": len(TABLES[n])} for n, t in tables.items()],
            receipts=sections.records(tables["receipts"]),
            baselines=_baselines(tables["layers"], middle),
            audit=read_audit(folder / "audit.json"),
        )
    )
    write_text(folder / "report.html", page)
    write_text(folder / "report.md", environment().get_template("report.md").render(**said))
    write_results(folder, results(lock, tables))
    return folder / "report.html"


def _draw(folder: Path, tables: dict[str, pd.DataFrame], band: list[int]) -> list[str]:
    """The figures for other documents: figures/*.svg and .png; returns their names."""
    layers = tables["layers"]
    drawn = {
        "size": figures.layer_curves(layers, "size_tau", "size (τ)", band, floor=0.0),
        "dprime": figures.layer_curves(layers, "dprime", "d′ (held out)", band, floor=0.0),
        "auroc": figures.layer_curves(
            layers, "auroc", "AUROC (held out)", band, low="auroc_low", high="auroc_high", floor=0.5
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
    return list(drawn)


def _main(edges: pd.DataFrame) -> pd.DataFrame:
    """The compassion contrast's rows; other contrasts of the study stand in the table only."""
    return edges[edges.contrast == edges.contrast.iloc[0]] if len(edges) else edges


def _steps(edges: pd.DataFrame, grid: dict[str, Any]) -> list[dict[str, Any]]:
    """Every step and domain with its quantities, and the step's number in the matrix."""
    at = {(r["parent"], r["child"]): r["step"] for r in grid["rows"]}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in sections.records(edges):
        parent, child, domain = key = row["parent"], row["child"], row["domain"]
        about = {"parent": parent, "child": child, "domain": domain, "step": at.get((parent, child), ""), "cells": {}}
        found.setdefault(key, about)["cells"][row["quantity"]] = row
    return list(found.values())


def _behaviour(behaviour: pd.DataFrame, domains: list[str]) -> dict[str, Any]:
    """Domain × checkpoint: the margin with its interval."""
    cells = {(r["domain"], r["checkpoint"]): r for r in sections.records(behaviour)}
    perplexity = dict(zip(behaviour.checkpoint, behaviour.neutral_perplexity, strict=True))
    there = set(behaviour.domain)
    return {
        "domains": [d for d in domains if d in there],
        "checkpoints": list(dict.fromkeys(behaviour.checkpoint)),
        "cells": cells,
        "perplexity": perplexity,
    }


def _baselines(layers: pd.DataFrame, middle: int) -> list[dict[str, Any]]:
    """The root's held-out separation at the middle of the band, the default and the strongest usual reader."""
    root = layers.checkpoint.iloc[0]
    shown = layers.method.isin(["mass-mean", "logistic"]) & (layers.contrast == layers.contrast.iloc[0])
    rows = layers[(layers.checkpoint == root) & (layers.layer == middle) & shown]
    return sections.records(rows.assign(middle=middle))
