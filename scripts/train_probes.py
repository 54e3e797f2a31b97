"""train-probes: cross-fitted probes and directions at every site, into layers.csv and directions/."""

import pandas as pd

from activations.artifact import write_json
from activations.openmodel import site_layer
from analysis.tables import write_table
from probes.audit import AuditLimits, audit_pairs
from probes.fit import N_FOLDS, POSITION, fit_checkpoint, held_out, save_directions
from probes.sides import scenario_folds
from probes.surface import side_texts, surface_baselines
from scripts.runfolder import CONTRAST, Run


def train_probes(run: Run) -> None:
    """Fit every checkpoint on the same folds and score it on the scenarios each fold left out."""
    rows = []
    seed = run.study.settings.seed
    with run.progress("audit pairs", 1) as advance:
        write_json(run.folder / "audit.json", audit_pairs(run.pairs, AuditLimits()).about())
        advance(1)
    for checkpoint in run.study.lineage.checkpoints:
        with run.open_store(checkpoint.name) as store:
            plan = run.layout(store)
            folds = scenario_folds(plan, N_FOLDS, seed)
            positive, negative = side_texts(run.pairs, plan, CONTRAST)
            baselines = {
                d: surface_baselines(positive[m], negative[m], folds[m])
                for d in plan.slices()
                for m in [plan.members(d)]
            }
            kept_out = held_out(plan, run.study.settings.steer_scenarios, seed)
            with run.progress(f"train-probes {checkpoint.name}", len(store.sites)) as advance:
                found, directions = fit_checkpoint(
                    store, plan, folds, baselines, kept_out, contrast=CONTRAST, seed=seed, advance=advance
                )
            save_directions(run.directions(checkpoint.name), directions)
        for row in found:
            at = row.separation
            mass_mean = row.method == "mass-mean"
            rows.append(
                {
                    "checkpoint": checkpoint.name,
                    **run.about(checkpoint),
                    "contrast": CONTRAST,
                    "domain": row.domain,
                    "layer": site_layer(row.site),
                    "position": POSITION,
                    "method": row.method,
                    "n_scenarios": row.n_scenarios,
                    "size_raw": row.size_raw,
                    "size_tau": row.size_raw / row.tau,
                    "size_sd": row.size_raw / at.sigma if mass_mean and at.sigma > 0 else float("nan"),
                    "dprime": at.dprime,
                    "auroc": at.auroc,
                    "auroc_low": at.auroc_low,
                    "auroc_high": at.auroc_high,
                    "win_rate": at.win_rate,
                    "selectivity": row.selectivity,
                    "best_baseline": row.best_baseline,
                    "best_baseline_auroc": row.best_baseline_auroc,
                }
            )
    write_table(run.tables, "layers", pd.DataFrame(rows))


if __name__ == "__main__":
    from scripts.cli import main

    main("train-probes")
