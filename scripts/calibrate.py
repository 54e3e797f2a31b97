"""calibrate: the instrument's own error rates on simulated steps, printed and written as calibration.csv."""

import os
import time
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from activations.store import ActivationStore
from analysis.calibration import QUICK, TRUTHS, certify, confusion, requirements, steps_of
from analysis.edge import band_layers
from analysis.run_tables import read_lock
from analysis.tables import write_table
from analysis.worlds import Captured, Gaussian, World, captured

SCENARIOS = (30, 60, 100)
FULL, SHORT = 1000, 96


def calibrate(run: Path | None, out: Path | None, *, full: bool, jobs: int | None, console: Console) -> bool:
    """Simulate, print the confusion matrices and what must hold, write the table; whether all of it held.

    Args:
        run: a run whose first step's residuals the effects are planted in; without one, Gaussian residuals only.
        out: folder for calibration.csv; the run's tables without one.
        full: a thousand verdicts a cell and every truth; else about a hundred, and six truths.
        jobs: processes; as many as there are cores without.
    """
    worlds: list[World] = [Gaussian()]
    sizes = SCENARIOS
    if run is not None:
        worlds.append(population(run))
    truths = TRUTHS if full else tuple(t for t in TRUTHS if t.name in QUICK)
    verdicts = FULL if full else SHORT
    began = time.monotonic()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("calibrate", total=steps_of(len(worlds), sizes, truths, verdicts))
        table = certify(
            worlds,
            scenarios=sizes,
            verdicts=verdicts,
            truths=truths,
            jobs=jobs or os.cpu_count() or 1,
            advance=lambda n: bar.advance(task, n),
        )
    console.print(f"calibrate: {time.monotonic() - began:.0f} s")
    folder = out if out is not None else run / "tables" if run is not None else None
    if folder is not None:
        write_table(folder, "calibration", table)
    for world in worlds:
        for n in sizes:
            console.print(_matrix(confusion(table, world.name, n), f"{world.name} residuals, {n} scenarios a domain"))
    needed = requirements(table)
    console.print(_needed(needed))
    return bool((needed.holds != "no").all())


def population(run: Path) -> Captured:
    """The residuals of a run's first step at three layers of its band: its first, middle and last."""
    lock = read_lock(run)
    parent, child = next((c["parent"], name) for name, c in lock["checkpoints"].items() if c["parent"] is not None)
    paths = [run / "activations" / f"{name}.h5" for name in (parent, child)]

    with ActivationStore(paths[0]) as store:
        band = band_layers(len(store.sites) - 1, tuple(lock["study"]["layer_band"]))
    layers = sorted({band[0], band[len(band) // 2], band[-1]})
    return captured(paths[0], paths[1], lock["study"].get("contrast", "compassion"), layers)


def _matrix(shares: pd.DataFrame, title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("truth")
    for name in shares.columns:
        table.add_column(str(name).lower(), justify="right")
    for truth, row in shares.iterrows():
        table.add_row(str(truth), *(f"{100 * share:.0f}%" if share > 0 else "·" for share in row))
    return table


def _needed(found: pd.DataFrame) -> Table:
    table = Table(title="What must hold, worst cell", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in (("requirement", "left"), ("found", "right"), ("cell", "left"), ("holds", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in found.itertuples():
        cell = f"{row.world}, {row.truth}, {row.n_scenarios}"
        table.add_row(row.requirement, f"{row.value:.3f} ± {row.mc_error:.3f}", cell, row.holds)
    return table
