"""analyze: activations to tables of drift, edges, behaviour and receipts, and a printed summary."""

from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from activations.lineage import Checkpoint
from activations.store import ActivationStore
from analysis.drift import BAND, band_layers, edge_drift, margin_change, neutral_perplexity
from analysis.tables import TABLES, read_table, write_table
from probes.fit import N_FOLDS
from probes.inference import Estimate, mean_interval
from probes.sides import margins, null_margins, scenario_folds
from scripts.runfolder import CONTRAST, Run


def analyze(run: Run) -> None:
    """Write drift.csv, edges.csv, behaviour.csv and receipts.csv, then print one line per step and domain."""
    lineage, settings = run.study.lineage, run.study.settings
    drift: list[pd.DataFrame] = []
    edges: list[dict[str, Any]] = []
    for parent, child in lineage.edges:
        with run.open_store(parent.name) as before, run.open_store(child.name) as after:
            plan = run.layout(before)
            folds = scenario_folds(plan, N_FOLDS, settings.seed)
            band = band_layers(len(before.sites) - 1, settings.layer_band)
            with run.progress(f"analyze {parent.name} → {child.name}", len(before.sites)) as advance:
                found = edge_drift(before, after, plan, folds, band, advance)
            about = {"parent": parent.name, "child": child.name, **run.about(child), "contrast": CONTRAST}
            drift.append(found.assign(**about))
            edges += [about | row for row in _edge_rows(found, before, after, margin_change(before, after, plan))]
    write_table(run.tables, "drift", pd.concat(drift) if drift else pd.DataFrame(columns=list(TABLES["drift"])))
    write_table(run.tables, "edges", pd.DataFrame(edges, columns=None if edges else list(TABLES["edges"])))
    behaviour, receipts = [], []
    for checkpoint in lineage.checkpoints:
        with run.open_store(checkpoint.name) as store:
            behaviour += _behaviour_rows(run, checkpoint, store)
            receipts.append(_receipt_row(run, checkpoint, store))
    write_table(run.tables, "behaviour", pd.DataFrame(behaviour))
    write_table(run.tables, "receipts", pd.DataFrame(receipts))
    for table in summary(run):
        run.console.print(table)


def summary(run: Run) -> list[Table]:
    """One table per training step, a line per domain, read from edges.csv."""
    low, high = run.study.settings.layer_band
    edges = read_table(run.tables, "edges")
    tables = []
    for (parent, child), step in edges.groupby(["parent", "child"], sort=False):
        perplexity = step[step.quantity == "perplexity"].value.iloc[0]
        title = f"{parent} → {child}: layers at {low:.0%}–{high:.0%} of depth, neutral perplexity ×{perplexity:.2f}"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("domain")
        for name in ("retention (τ)", "frozen", "cosine", "Δ margin (SD)"):
            table.add_column(name, justify="right", no_wrap=True)
        for domain, part in step.groupby("domain", sort=False):
            cells = [_said(part[part.quantity == quantity]) for quantity in ("R_tau", "F", "cosine", "B")]
            table.add_row(str(domain), *cells)
        tables.append(table)
    return tables


def _said(rows: pd.DataFrame) -> str:
    value, low, high = rows[["value", "low", "high"]].iloc[0]
    if pd.isna(value):
        return "not estimable"
    return f"{value:z.2f} [{low:z.2f}, {high:z.2f}]".replace("-", "−")


def _edge_rows(
    drift: pd.DataFrame,
    before: ActivationStore,
    after: ActivationStore,
    behaviour: dict[str, tuple[Estimate, Estimate]],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    band = drift[drift.layer == BAND].set_index(["domain", "gauge"])
    ratio = neutral_perplexity(after) / neutral_perplexity(before)
    for domain, (in_sd, in_nats) in behaviour.items():
        for quantity, gauge, name in (
            ("R_tau", "tau", "retention"),
            ("R_sd", "sd", "retention"),
            ("F", "tau", "frozen"),
            ("cosine", "tau", "cosine"),
        ):
            value, low, high = band.loc[(domain, gauge), [name, f"{name}_low", f"{name}_high"]]
            rows.append({"domain": domain, "quantity": quantity, "value": value, "low": low, "high": high})
        for quantity, estimate in (("B", in_sd), ("B_nats", in_nats)):
            rows.append(
                {
                    "domain": domain,
                    "quantity": quantity,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                }
            )
        none = float("nan")
        rows.append({"domain": domain, "quantity": "perplexity", "value": ratio, "low": none, "high": none})
    return rows


def _behaviour_rows(run: Run, checkpoint: Checkpoint, store: ActivationStore) -> list[dict[str, Any]]:
    plan = run.layout(store)
    raw = margins(store, plan)
    null = None
    if "null_prompt" in store.kinds:
        null = raw - null_margins(store, plan, CONTRAST)
    rows = []
    for domain in plan.slices():
        members = plan.members(domain)
        found = mean_interval(raw[members])
        rows.append(
            {
                "checkpoint": checkpoint.name,
                **run.about(checkpoint),
                "contrast": CONTRAST,
                "domain": domain,
                "n_scenarios": len(members),
                "margin": found.value,
                "margin_low": found.low,
                "margin_high": found.high,
                "margin_pmi": float(null[members].mean()) if null is not None else float("nan"),
                "neutral_perplexity": neutral_perplexity(store),
            }
        )
    return rows


def _receipt_row(run: Run, checkpoint: Checkpoint, store: ActivationStore) -> dict[str, Any]:
    receipt = store.header["receipt"]
    names = (
        "weight_hash",
        "revision",
        "dtype",
        "n_layers",
        "d_model",
        "row_budget",
        "hook_deviation",
        "packing_deviation",
        "logprob_deviation",
    )
    changes = receipt["adapters"]
    return {
        "checkpoint": checkpoint.name,
        **run.about(checkpoint),
        "identity": store.identity,
        "logit_change": changes[-1]["largest_logit_change"] if changes else float("nan"),
        **{n: receipt[n] for n in names},
    }


if __name__ == "__main__":
    from scripts.cli import main

    main("analyze")
