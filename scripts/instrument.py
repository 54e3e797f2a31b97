"""The controls that every study gets without asking (gate G8): does the instrument work on this model?

On a subset of the study's scenarios the root is captured again under another row budget, rounded to bfloat16, and with
a quarter of a direction taken away that the other scenarios gave. The damage must be found; the copies, and a contrast
of other texts in the damaged copy, must read flat.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from activations import model as models
from activations.artifact import write_json, write_text
from activations.errors import InputError
from activations.lineage import Checkpoint, Edit, Lineage
from activations.packing import RowPlan
from activations.pairs import load_pairs
from activations.plan import default_plan
from activations.store import ActivationStore
from activations.study import Study
from analysis.drift import measure_edge
from analysis.edge import band_layers, read_edge
from analysis.states import FLAT
from analysis.tables import TABLES
from probes.direction import Direction
from probes.fit import N_FOLDS, held_out
from probes.sides import POOLED, Layout, balanced_folds, layout, read_sides
from probes.sites import POSITION, neutral_tau
from scripts.runfolder import Run

SCENARIOS = 30
DAMAGE = 0.25
UNRELATED = "formality"
UNRELATED_PAIRS = 30
COPY, ROUNDED, DAMAGED = "recaptured", "rounded", "damaged"
REFUSED = "refused.json"


def prepare(run: Run) -> Run | None:
    """The run of the controls, its pairs, direction and row plan written; None for a study too small to have one.

    Args:
        run: the study; its root is captured already.
    """
    root = run.study.lineage.root
    with run.open_store(root.name) as store:
        plan = run.layout(store)
        chosen = subset(plan, run.study.settings.seed)
        if len(chosen) < N_FOLDS:
            return None
        band = band_layers(len(store.sites) - 1, run.study.settings.layer_band)
        site = store.sites[band[len(band) // 2] + 1]
        rest = np.setdiff1d(np.arange(len(plan)), chosen)
        sides = read_sides(store, plan, POSITION, site)
        delta = sides.difference[rest].mean(axis=0)
        direction = Direction(
            vector=delta,
            site=site,
            position=POSITION,
            method="mass-mean",
            contrast=run.contrast,
            domain=POOLED,
            size=float(np.linalg.norm(delta)),
            tau=neutral_tau(store, site),
            scenarios=plan.hash(rest),
            checkpoint=store.identity,
        )
    folder = run.folder / "instrument"
    wanted = {plan.scenarios[i] for i in chosen}
    ours = [
        p for p in run.pairs.pairs if p.scenario_id in wanted and (p.contrast, p.design) == (run.contrast, "contrast")
    ]
    other = load_pairs("builtin:confounds").select([], 1, UNRELATED_PAIRS).pairs
    lines = [p.model_dump_json() for p in (*ours, *(p for p in other if p.contrast == UNRELATED))]
    write_text(folder / "pairs.jsonl", "\n".join(lines) + "\n")
    _save_once(direction, folder / "u.safetensors")
    inner = Run(
        study=_study(run, folder),
        folder=folder,
        device=run.device,
        console=run.console,
        template=models.study_template(run.study),
    )
    before = run.recorded_plan() or default_plan(run.device)
    inner.write_lock(
        RowPlan(row_budget=max(before.row_budget * 3 // 4, 1), rows_per_batch=before.rows_per_batch + 1), {}
    )
    return inner


def refuse(run: Run, error: InputError) -> None:
    """Keep why the controls could not be made; gate G8 then says so."""
    write_json(run.folder / "instrument" / REFUSED, {"reason": str(error)})


def controls(run: Run) -> pd.DataFrame:
    """instrument.csv: what the controls read, and whether that is what is known of them."""
    folder = run.folder / "instrument"
    refused = folder / REFUSED
    if refused.is_file():
        reason = json.loads(refused.read_text(encoding="utf-8"))["reason"]
        return pd.DataFrame([_row(DAMAGED, "R_tau", 0, {}, f"not measured: {reason}", passed=False)])
    paths = {name: folder / "activations" / f"{name}.h5" for name in (COPY, ROUNDED, DAMAGED)}
    if not all(path.is_file() for path in paths.values()):
        return pd.DataFrame(columns=list(TABLES["instrument"]))
    rows: list[dict[str, Any]] = []
    with (
        run.open_store(run.study.lineage.root.name) as root,
        ActivationStore(paths[COPY]) as copy,
        ActivationStore(paths[ROUNDED]) as rounded,
        ActivationStore(paths[DAMAGED]) as damaged,
    ):
        steps = (
            (COPY, root, copy, run.contrast),
            (ROUNDED, copy, rounded, run.contrast),
            (DAMAGED, copy, damaged, run.contrast),
            ("unrelated", copy, damaged, UNRELATED),
        )
        with run.progress("instrument controls", len(steps) * len(root.sites)) as advance:
            for name, before, after, contrast in steps:
                rows += _read(run, name, before, after, contrast, advance)
    return pd.DataFrame(rows)


def subset(plan: Layout, seed: int) -> np.ndarray:
    """The scenarios the controls are measured on: even over domains, at most 30 and at most half of all."""
    wanted = min(SCENARIOS, len(plan) // 2)
    n_domains = len(set(plan.domains))
    chosen = held_out(plan, -(-wanted // n_domains), seed + 1)
    return np.sort(np.random.default_rng([seed, 3]).permutation(chosen)[:wanted])


def _save_once(direction: Direction, path: Path) -> None:
    """Leave a file that holds this direction as it is: the order of its metadata, and so its hash, is not fixed."""
    try:
        there = Direction.load(path)
        if there.about() == direction.about() and there.cosine(direction) > 1 - 1e-9:
            return
    except InputError:
        pass
    direction.save(path)


def _study(run: Run, folder: Path) -> Study:
    settings = run.study.settings
    neutral = run.study.resolve(settings.neutral)
    changed = settings.model_copy(
        update={
            "name": "instrument",
            "pairs": "pairs.jsonl",
            "neutral": str(neutral) if isinstance(neutral, str) else str(neutral.resolve()),
            "domains": [],
            "wordings": None,
            "max_scenarios": None,
            "pmi": False,
            "template": "plain",  # never rendered by: the study's own template is handed on
        }
    )
    root = replace(run.study.lineage.root, name=COPY)
    edited: Sequence[Checkpoint] = (
        Checkpoint(name=ROUNDED, stage="control", parent=COPY, edit=Edit(kind="round", to="bfloat16")),
        Checkpoint(
            name=DAMAGED,
            stage="control",
            parent=COPY,
            edit=Edit(kind="attenuate", amount=DAMAGE, direction=folder / "u.safetensors"),
        ),
    )
    lineage = Lineage((root, *edited), where=f"{run.study.where}, instrument")
    return Study(settings=changed, lineage=lineage, where=run.study.where, folder=folder)


def _read(
    run: Run, name: str, before: ActivationStore, after: ActivationStore, contrast: str, advance: Any
) -> list[dict[str, Any]]:
    settings = run.study.settings
    there = layout(after.rows("response"), contrast, str(after.path))
    here = layout(before.rows("response"), contrast, str(before.path))
    plan, other = (_one_domain(p, there.scenarios) for p in (here, there))
    folds = balanced_folds(plan.scenarios, plan.domains, N_FOLDS, settings.seed)
    band = band_layers(len(before.sites) - 1, settings.layer_band)
    view = read_edge(before, after, plan, folds, band, contrast=contrast, seed=settings.seed, child_plan=other)
    found = measure_edge(view, settings.smallest_effect, advance, by_layer=False).edges.set_index("quantity")
    rows = []
    for quantity in ("R_tau",) if name in (DAMAGED, "unrelated") else ("R_tau", "F", "B"):
        at = found.loc[quantity]
        passed = bool(at.high < 1) if name == DAMAGED else at.state == FLAT
        rows.append(_row(name, quantity, len(plan), at.to_dict(), at.state, passed=passed))
    return rows


def _one_domain(plan: Layout, scenarios: Sequence[str]) -> Layout:
    """Some scenarios of a layout, in this order, without their domains: thirty scenarios are one domain's worth."""
    at = {s: i for i, s in enumerate(plan.scenarios)}
    rows = [at[s] for s in scenarios]
    return Layout(
        scenarios=tuple(scenarios),
        domains=(POOLED,) * len(rows),
        positive=plan.positive[rows],
        negative=plan.negative[rows],
    )


def _row(control: str, quantity: str, n: int, found: dict[str, Any], state: str, *, passed: bool) -> dict[str, Any]:
    limits = {name: found.get(name, float("nan")) for name in ("value", "low", "high")}
    about = {"control": control, "quantity": quantity, "n_scenarios": n}
    return about | limits | {"state": state, "passed": "yes" if passed else "no"}
