"""mediate: across steps that lost behaviour, put the parent's component along its direction back into the child.

Runs where a verdict's evidence has reached E3; with the direction beyond its controls the evidence becomes E4, and
verdicts.csv is written again.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from activations.artifact import content_hash
from activations.lineage import Checkpoint
from activations.openmodel import OpenModel, site_names
from analysis.edge import band_layers
from analysis.tables import TABLES, read_table, write_table
from analysis.verdict import LEVELS, judge
from probes.direction import Direction
from probes.fit import held_out, load_direction
from probes.geometry import Product
from probes.inference import ratio_interval
from probes.mediation import Patched, put_in, residuals_at
from probes.sides import POOLED
from probes.sites import STEERING
from probes.trials import Answers, Arrays, kept
from scripts.runfolder import Run
from scripts.steer import answers_of, controls_of, scored_slices

CONTROLS = 199  # random directions beside it
RUNS = 11  # patches run in full: the direction's, and ten controls'
INTO_CHILD, INTO_PARENT = "into child", "into parent"


def mediate(run: Run) -> None:
    """Write mediation.csv, and verdicts.csv again with what it adds to the evidence."""
    verdicts = read_table(run.tables, "verdicts")
    reached = verdicts[verdicts.evidence.map(LEVELS.index) >= LEVELS.index("E3")]
    wanted = set(zip(reached.parent, reached.child, strict=True))
    rows: list[dict[str, Any]] = []
    for parent, child in run.study.lineage.edges:
        if (parent.name, child.name) in wanted:
            about = {"parent": parent.name, "child": child.name, **run.about(child)}
            rows += [about | row for row in _step(run, parent, child)]
    table = pd.DataFrame(rows, columns=None if rows else list(TABLES["mediation"]))
    write_table(run.tables, "mediation", table)
    if rows:
        edges = read_table(run.tables, "edges")[lambda t: t.contrast == run.contrast]
        again = judge(edges, read_table(run.tables, "gates"), table, read_table(run.tables, "branches"))
        write_table(run.tables, "verdicts", again)
        for row in again[again.evidence.map(LEVELS.index) >= LEVELS.index("E3")].itertuples():
            run.console.print(f"{row.parent} → {row.child}, {row.domain}: {row.verdict}, {row.evidence}")


def _step(run: Run, parent: Checkpoint, child: Checkpoint) -> Iterator[dict[str, Any]]:
    settings = run.study.settings
    with run.open_store(parent.name) as store, run.open_store(child.name) as after:
        plan = run.layout(store)
        scored = held_out(plan, settings.steer_scenarios, settings.seed)
        band = band_layers(len(store.sites) - 1, settings.layer_band)
        layer = band[len(band) // 2]
        site = site_names(layer + 1)[-1]
        direction = load_direction(run.directions(parent.name), run.contrast, POOLED, STEERING, site)
        controls = controls_of(run, store, plan, scored, direction)["matched"][:CONTROLS]
        identities = store.identity, after.identity
    answers = answers_of(run, "response", [plan.scenarios[i] for i in scored])
    key = content_hash([identities, direction.hash, len(controls), [plan.scenarios[i] for i in scored], RUNS])
    path = run.folder / "mediation" / f"{child.name}.safetensors"
    found = kept(path, key, lambda: _both_ways(run, parent, child, answers, direction, controls))
    names = ["none", *(f"matched-{i + 1}" for i in range(len(controls)))]
    for way, sign in ((INTO_CHILD, 1.0), (INTO_PARENT, -1.0)):
        part = Patched(margins=found[f"{way}/margins"], first_order=found[f"{way}/first_order"], kl=found[f"{way}/kl"])
        lost = found[f"{INTO_PARENT}/margins"][0] - found[f"{INTO_CHILD}/margins"][0]
        for domain, inside in scored_slices(plan, scored):
            for row in _rows(part, sign, lost, inside, names):
                yield {"domain": domain, "layer": layer, "patched": way, "n_scenarios": int(inside.sum())} | row


def _both_ways(
    run: Run, parent: Checkpoint, child: Checkpoint, answers: Answers, direction: Direction, controls: np.ndarray
) -> Arrays:
    plan = run.plan(run.study.lineage.root)  # one layout for both: residuals are handed over batch by batch
    steps = answers.size * (2 + 2 * (6 + 1 + RUNS))
    with run.progress(f"mediate {parent.name} → {child.name}", steps) as advance:

        def patched(model: OpenModel, there: list[Any]) -> Patched:
            seed = run.study.settings.seed
            return put_in(model, answers, direction, controls, there, plan, runs=RUNS, seed=seed, advance=advance)

        # One checkpoint in memory at a time.
        theirs = residuals_at(run.open_model(parent.name), answers, direction.site, plan)
        model = run.open_model(child.name)
        own = residuals_at(model, answers, direction.site, plan)
        into_child = patched(model, theirs)
        del model
        into_parent = patched(run.open_model(parent.name), own)
    ways = ((INTO_CHILD, into_child), (INTO_PARENT, into_parent))
    return {f"{way}/{name}": getattr(found, name) for way, found in ways for name in ("margins", "first_order", "kl")}


def _rows(
    part: Patched, sign: float, lost: np.ndarray, inside: np.ndarray, names: list[str]
) -> Iterator[dict[str, Any]]:
    """A line a direction: the share of the step's change of the margin that its patch undoes (or makes)."""
    total = _mean(lost[inside])
    share = sign * part.first_order[:, inside].mean(axis=1) / total.value
    scaled = share * np.sqrt(part.kl[0] / part.kl)
    for number, name in enumerate(names):
        row: dict[str, Any] = {"control": name, "recovered": None, "low": None, "high": None}
        if number + 1 < len(part.margins):
            change = sign * (part.margins[number + 1] - part.margins[0])[inside]
            found = ratio_interval(_mean(change), total)
            row |= {"recovered": found.value, "low": found.low, "high": found.high}
        yield row | {"first_order": share[number], "at_kl": scaled[number], "kl": part.kl[number]}


def _mean(values: np.ndarray) -> Product:
    n = len(values)
    return Product(value=float(values.mean()), without=(values.sum() - values) / max(n - 1, 1))


if __name__ == "__main__":
    from scripts.cli import main

    main("mediate")
