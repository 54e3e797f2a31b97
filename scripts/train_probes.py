"""train-probes: cross-fitted probes and directions at every site, into layers.csv, transfer.csv and directions/."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from activations.artifact import write_json
from activations.lineage import Checkpoint
from activations.openmodel import site_layer
from analysis.edge import band_layers
from analysis.tables import TABLES, write_table
from probes.audit import AuditLimits, audit_pairs
from probes.fit import N_FOLDS, Fit, fit_checkpoint, held_out, save_directions
from probes.permutation import DRAWS
from probes.sides import scenario_folds
from probes.sites import POSITION, Task
from probes.surface import side_texts, surface_areas
from scripts.runfolder import Run

SMALL = 2000  # scenarios × sites below which starting processes takes longer than the work


def train_probes(run: Run, jobs: int | None = None) -> None:
    """Fit every checkpoint on the same folds and score it on the scenarios each fold left out.

    Args:
        run: the run folder; its checkpoints are captured already.
        jobs: processes; as many as there are cores without, one where there is little to do.
    """
    seed, root = run.study.settings.seed, run.study.lineage.root.name
    with run.progress("audit pairs", 1) as advance:
        write_json(run.folder / "audit.json", audit_pairs(run.pairs, AuditLimits()).about())
        advance(1)
    baselines: dict[str, dict[str, float]] = {}
    layers: list[dict[str, Any]] = []
    transfer: list[dict[str, Any]] = []
    confounds: list[dict[str, Any]] = []
    reliability: list[dict[str, Any]] = []
    for checkpoint in run.study.lineage.checkpoints:
        with run.open_store(checkpoint.name) as store:
            plan, sites = run.layout(store), store.sites
        folds = scenario_folds(plan, N_FOLDS, seed)
        if not baselines:  # texts and folds are the lineage's
            positive, negative = side_texts(run.pairs, plan, run.contrast)
            with run.progress("text-only baselines", len(plan.slices())) as advance:
                for name in plan.slices():
                    members = plan.members(name)
                    baselines[name] = surface_areas(positive[members], negative[members], folds[members])
                    advance(1)
        task = Task(
            store=run.activations(checkpoint.name),
            root=run.activations(root),
            parent=run.activations(checkpoint.parent) if checkpoint.parent is not None else None,
            plan=plan,
            folds=folds,
            baselines=baselines,
            kept_out=held_out(plan, run.study.settings.steer_scenarios, seed),
            contrast=run.contrast,
            seed=seed,
            draws=DRAWS,
        )
        few = len(plan) * len(sites) < SMALL
        with run.progress(f"train-probes {checkpoint.name}", len(sites)) as advance:
            fit = fit_checkpoint(task, sites, jobs=jobs or (1 if few else os.cpu_count() or 1), advance=advance)
        save_directions(run.directions(checkpoint.name), [d for s in fit.sites for d in s.directions])
        band = band_layers(len(sites) - 1, run.study.settings.layer_band)
        layers += _layer_rows(run, checkpoint, fit)
        transfer += _transfer_rows(run, checkpoint, fit, sites, band)
        confounds += _confound_rows(run, checkpoint, fit)
        reliability += _reliability_rows(run, checkpoint, fit, band[len(band) // 2])
    write_table(run.tables, "layers", pd.DataFrame(layers))
    write_table(run.tables, "transfer", pd.DataFrame(transfer))
    columns = None if confounds else list(TABLES["confounds"])
    write_table(run.tables, "confounds", pd.DataFrame(confounds, columns=columns))
    write_table(run.tables, "reliability", pd.DataFrame(reliability))


def _layer_rows(run: Run, checkpoint: Checkpoint, fit: Fit) -> Iterator[dict[str, Any]]:
    nothing = (float("nan"),) * 3
    for row in (r for s in fit.sites for r in s.rows):
        at, mass_mean = row.separation, row.method == "mass-mean"
        t, p, adjusted = fit.flips[row.site, row.domain] if mass_mean else nothing
        yield {
            "checkpoint": checkpoint.name,
            **run.about(checkpoint),
            "contrast": run.contrast,
            "domain": row.domain,
            "layer": site_layer(row.site),
            "position": POSITION,
            "method": row.method,
            "n_scenarios": row.n_scenarios,
            "size_raw": row.size_raw,
            "size_tau": row.size_raw / row.tau,
            "size_sd": row.size_raw / at.sigma if mass_mean and at.sigma > 0 else float("nan"),
            "dprime": at.dprime,
            "dz": at.dz,
            "auroc": at.auroc,
            "auroc_low": at.auroc_low,
            "auroc_high": at.auroc_high,
            "win_rate": at.win_rate,
            "fisher": at.fisher,
            "accuracy": at.accuracy,
            "recall": at.recall,
            "fragility": at.fragility / row.tau,
            "codelength": row.codelength,
            "calibration_error": row.calibration_error,
            "selectivity": row.selectivity,
            "t_flip": t,
            "p_flip": p,
            "p_flip_adjusted": adjusted,
            "p_matched": row.p_matched,
            "p_isotropic": row.p_isotropic,
            "best_baseline": row.best_baseline,
            "best_baseline_auroc": row.best_baseline_auroc,
        }


def _transfer_rows(
    run: Run, checkpoint: Checkpoint, fit: Fit, sites: tuple[str, ...], band: list[int]
) -> Iterator[dict[str, Any]]:
    chosen = [s for site, s in zip(sites, fit.sites, strict=True) if site_layer(site) in band]
    for trained, found in (
        (checkpoint.name, [s.transfer for s in chosen]),
        (checkpoint.parent, [s.frozen for s in chosen]),
    ):
        for method, fitted, scored in found[0]:
            cells = [c[method, fitted, scored] for c in found]
            yield {
                "checkpoint": checkpoint.name,
                **run.about(checkpoint),
                "train_checkpoint": trained,
                "train_domain": fitted,
                "test_domain": scored,
                "method": method,
                "n_scenarios": cells[0][2],
                "auroc": float(np.mean([auroc for auroc, _, _ in cells])),
                "dprime": float(np.mean([dprime for _, dprime, _ in cells])),
            }


def _confound_rows(run: Run, checkpoint: Checkpoint, fit: Fit) -> Iterator[dict[str, Any]]:
    for row in (r for s in fit.sites for r in s.confounds):
        yield {
            "checkpoint": checkpoint.name,
            **run.about(checkpoint),
            "domain": row.domain,
            "layer": site_layer(row.site),
            "confound": row.confound,
            "quantity": row.quantity,
            "n_scenarios": row.n_scenarios,
            "value": row.estimate.value,
            "low": row.estimate.low,
            "high": row.estimate.high,
        }


def _reliability_rows(run: Run, checkpoint: Checkpoint, fit: Fit, layer: int) -> Iterator[dict[str, Any]]:
    for one in (b for s in fit.sites for b in s.bins if site_layer(b.site) == layer):
        yield {
            "checkpoint": checkpoint.name,
            **run.about(checkpoint),
            "domain": one.domain,
            "layer": layer,
            "bin_low": one.low,
            "bin_high": one.high,
            "predicted": one.predicted,
            "observed": one.observed,
            "n": one.n,
        }


if __name__ == "__main__":
    from scripts.cli import main

    main("train-probes")
