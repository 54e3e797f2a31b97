"""analyze: activations and the probes' tables to drift, edges, gates, verdicts, branches, behaviour and receipts."""

from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from activations.lineage import Checkpoint
from activations.store import ActivationStore
from analysis import gates
from analysis.branches import branch_rows, dose_rows
from analysis.drift import EdgeFound, measure_edge
from analysis.edge import band_layers, neutral_perplexity, read_edge
from analysis.generated import generated_rows
from analysis.steerability import steerability_rows
from analysis.tables import TABLES, read_table, write_table
from analysis.verdict import judge
from probes.fit import N_FOLDS
from probes.inference import mean_interval
from probes.sides import Layout, layout, margins, null_margins, scenario_folds
from scripts.instrument import controls
from scripts.runfolder import Run


def analyze(run: Run) -> None:
    """Write every table that compares checkpoints, then print one line per step and domain."""
    lineage = run.study.lineage
    drift: list[pd.DataFrame] = []
    edges: list[pd.DataFrame] = []
    gated: list[dict[str, Any]] = []
    changes: dict[str, Any] = {}
    held = controls(run)
    probed = [read_table(run.tables, name) for name in ("layers", "transfer", "confounds")]
    generations, steered = (_if_there(run, name) for name in ("generations", "steered"))
    for parent, child in lineage.edges:
        about = {"parent": parent.name, "child": child.name, **run.about(child)}
        with run.open_store(parent.name) as before, run.open_store(child.name) as after:
            for contrast in _contrasts(before, run.contrast):
                found, plan = _measure(run, parent, child, before, after, contrast)
                drift.append(found.drift.assign(**about, contrast=contrast))
                rows = found.edges
                if contrast == run.contrast:
                    step = parent.name, child.name, plan.slices(), run.study.settings.smallest_effect
                    said = list(generated_rows(generations, *step))
                    steers = list(steerability_rows(steered, *step))
                    rows = pd.concat([rows, *(pd.DataFrame(r) for r in (said, steers) if r)])
                edges.append(rows.assign(**about, contrast=contrast))
                if contrast == run.contrast:
                    changes[child.name] = found.changes
                    first = gates.same_texts(before.header, after.header)
                    gated += [
                        {"parent": parent.name, "child": child.name} | row
                        for row in _gate_rows(run, parent, first, found, held, probed, len(before.sites) - 1)
                    ]
                    domains = plan.slices()
    write_table(run.tables, "instrument", held)
    _write(run, "drift", drift)
    _write(run, "edges", edges)
    write_table(run.tables, "gates", _frame(gated, "gates"))
    verdicts = judge(pd.concat(edges)[lambda t: t.contrast == run.contrast], _frame(gated, "gates")) if edges else None
    write_table(run.tables, "verdicts", verdicts if verdicts is not None else _frame([], "verdicts"))
    branches: list[dict[str, Any]] = []
    doses: list[dict[str, Any]] = []
    for parent in lineage.checkpoints:
        children = [c for p, c in lineage.edges if p.name == parent.name]
        if children:
            branches += branch_rows(parent.name, children, changes, domains)
            doses += dose_rows(parent.name, children, changes, domains)
    write_table(run.tables, "branches", _frame(branches, "branches"))
    write_table(run.tables, "doses", _frame(doses, "doses"))
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
    """One table per training step, a line per domain, read from edges.csv and verdicts.csv."""
    low, high = run.study.settings.layer_band
    edges = read_table(run.tables, "edges")
    edges = edges[edges.contrast == run.contrast]
    verdicts = read_table(run.tables, "verdicts").set_index(["parent", "child", "domain"])
    tables = []
    for (parent, child), step in edges.groupby(["parent", "child"], sort=False):
        perplexity = step[step.quantity == "perplexity"].value.iloc[0]
        title = f"{parent} → {child}: layers at {low:.0%}–{high:.0%} of depth, neutral perplexity ×{perplexity:.2f}"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("domain")
        for name in ("retention (τ)", "frozen", "Δ margin (SD)"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict, evidence")
        for domain, part in step.groupby("domain", sort=False):
            cells = [_said(part[part.quantity == quantity]) for quantity in ("R_tau", "F", "B")]
            found = verdicts.loc[(parent, child, domain)]
            why = f" ({found.gates_failed})" if found.gates_failed else f", {found.evidence}"
            table.add_row(str(domain), *cells, f"{found.verdict}{why}")
        tables.append(table)
    return tables


def _measure(
    run: Run, parent: Checkpoint, child: Checkpoint, before: ActivationStore, after: ActivationStore, contrast: str
) -> tuple[EdgeFound, Layout]:
    settings = run.study.settings
    plan = layout(before.rows("response"), contrast, str(before.path))
    folds = scenario_folds(plan, N_FOLDS, settings.seed)
    band = band_layers(len(before.sites) - 1, settings.layer_band)
    view = read_edge(before, after, plan, folds, band, contrast=contrast, seed=settings.seed)
    what = f"analyze {parent.name} → {child.name}" + ("" if contrast == run.contrast else f", {contrast}")
    with run.progress(what, len(before.sites)) as advance:
        return measure_edge(view, settings.smallest_effect, advance), plan


def _if_there(run: Run, name: str) -> pd.DataFrame:
    """The table of a stage that may have been left out; empty then: what it would add is not measured."""
    if not (run.tables / f"{name}.csv").is_file():
        return pd.DataFrame(columns=list(TABLES[name]))
    return read_table(run.tables, name)


def _contrasts(store: ActivationStore, main: str) -> list[str]:
    """The studied contrast, and every other one that can be cross-fitted, each in every one of its domains."""
    rows = store.rows("response")
    found = [main]
    for name, part in rows[(rows.design == "contrast") & (rows.contrast != main)].groupby("contrast", sort=False):
        if part.groupby("domain").scenario_id.nunique().min() >= N_FOLDS:
            found.append(str(name))
    return found


def _gate_rows(
    run: Run,
    parent: Checkpoint,
    first: gates.Gate,
    found: EdgeFound,
    held: pd.DataFrame,
    probed: list[pd.DataFrame],
    n_layers: int,
) -> list[dict[str, Any]]:
    """The gates of one step: its own numbers, the parent's tables, the instrument's controls."""
    settings = run.study.settings
    band = band_layers(n_layers, settings.layer_band)
    layers, transfer, confounds = probed
    own = gates.checkpoint_gates(layers, transfer, confounds, parent.name, band[len(band) // 2])
    rows = []
    for domain, part in found.edges.groupby("domain", sort=False):
        by = part.set_index("quantity")
        text, tone, p = own[str(domain)]
        for gate in (
            first,
            gates.enough_scenarios(
                int(part.n_scenarios.iloc[0]), by.value["R_mde"], settings.smallest_effect.retention, by.state["R_tau"]
            ),
            gates.declared_first(N_FOLDS),
            gates.parent_signal(by.low["signal"], p),
            text,
            tone,
            gates.capability(by.value["perplexity"]),
            gates.instrument(held),
        ):
            rows.append({"domain": str(domain)} | gate.about())
    return rows


def _frame(rows: list[dict[str, Any]], name: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=None if rows else list(TABLES[name]))


def _write(run: Run, name: str, parts: list[pd.DataFrame]) -> None:
    write_table(run.tables, name, pd.concat(parts) if parts else pd.DataFrame(columns=list(TABLES[name])))


def _said(rows: pd.DataFrame) -> str:
    value, low, high = rows[["value", "low", "high"]].iloc[0]
    if pd.isna(value):
        return "not estimable"
    return f"{value:z.2f} [{low:z.2f}, {high:z.2f}]".replace("-", "−")


def _behaviour_rows(run: Run, checkpoint: Checkpoint, store: ActivationStore) -> list[dict[str, Any]]:
    plan = run.layout(store)
    raw = margins(store, plan)
    null = None
    if "null_prompt" in store.kinds:
        null = raw - null_margins(store, plan, run.contrast)
    rows = []
    for domain in plan.slices():
        members = plan.members(domain)
        found = mean_interval(raw[members])
        rows.append(
            {
                "checkpoint": checkpoint.name,
                **run.about(checkpoint),
                "contrast": run.contrast,
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
