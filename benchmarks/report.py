"""Seconds and megabytes of the report of a large study: tables of synthetic numbers, then the real report.

    python -m benchmarks.report [--checkpoints 20] [--domains 12] [--layers 33] [--keep FOLDER] [--json]

The numbers mean nothing; their count, their columns and the texts' lengths are those of a real run.
"""

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from activations.artifact import write_json
from activations.study import SmallestEffect, StudySettings
from analysis.report import write_report
from analysis.states import DOWN, FLAT, UNCLEAR, UP
from analysis.tables import ELSEWHERE, TABLES, write_table
from analysis.verdict import judge
from probes.sides import POOLED

NAMES = (
    *("animal_welfare", "crisis_support", "customer_service", "education", "elder_care", "grief", "healthcare"),
    *("mental_health", "money", "parenting", "relationships", "workplace"),
)
METHODS = ("mass-mean", "whitened", "lda", "logistic", "pca", "ccs")
CONFOUNDS = ("politeness", "sentiment", "formality", "length", "refusal", "first_person", "all")
ALPHAS = (-0.1, -0.05, -0.02, 0.02, 0.05, 0.1)
QUANTITIES = {
    **dict.fromkeys(("R_tau", "R_sd", "F", "F_reverse", "F_aligned", "sigma", "perplexity", "cosine"), 1.0),
    **dict.fromkeys(("B", "B_pmi", "B_nats", "P", "G", "midpoint"), 0.0),
    **dict.fromkeys(("signal", "R_mde", "B_mde"), 0.15),
}


def make(
    folder: Path,
    *,
    checkpoints: int,
    domains: list[str],
    layers: int,
    answer: str = "I am sorry. Please sit down; we will fill in the form together, and then call your sister. " * 3,
    numbers: int = 0,
) -> None:
    """A run folder whose tables hold synthetic numbers: everything `write_report` reads.

    Args:
        folder: the run folder to fill.
        checkpoints: of a lineage with branches and a chain.
        domains: prompt domains; "pooled" is added.
        layers: blocks; tables hold the embedding too.
        answer: what every sampled answer says.
        numbers: seed of the numbers.
    """
    rng = np.random.default_rng(numbers)
    lineage = _lineage(checkpoints)
    _lock(folder, lineage, layers)
    about = {c["checkpoint"]: {k: c[k] for k in ("checkpoint", "stage", "data_domain", "seed")} for c in lineage}
    steps = [(c["parent"], c["checkpoint"]) for c in lineage if c["parent"]]
    slices, sites = [*domains, POOLED], range(-1, layers)
    made = {
        "layers": _over(rng, about.values(), contrast=["compassion"], domain=slices, layer=sites, method=METHODS),
        "confounds": _over(
            rng, about.values(), domain=slices, layer=sites, confound=CONFOUNDS, quantity=["cosine", "retained"]
        ),
        "behaviour": _over(rng, about.values(), contrast=["compassion"], domain=slices),
        "receipts": _over(rng, about.values()),
        "steering": _over(
            rng,
            about.values(),
            domain=slices,
            kind=["add"],
            control=["none", *(f"matched-{n}" for n in range(10))],
            alpha=ALPHAS,
        ),
        "slopes": _over(
            rng, about.values(), domain=slices, layer=sites, control=["none", "matched", "shuffled", "confound: tone"]
        ),
        "generations": _over(
            rng, about.values(), domain=domains, scenario_id=["s0", "s1"], alpha=[-0.1, 0.0, 0.1], text=[answer]
        ),
        "instrument": _over(rng, [{"passed": "yes", "state": "flat"}], control=["recaptured", "damaged"]),
    }
    two = _over(rng, about.values(), domain=slices, layer=sites, confound=["2x2"], quantity=["caring", "tone"])
    made["confounds"] = pd.concat([made["confounds"], two])
    own = [about[c["checkpoint"]] | {"train_checkpoint": c["checkpoint"]} for c in lineage]
    frozen = [about[c] | {"train_checkpoint": p} for p, c in steps]
    made["transfer"] = _over(rng, own + frozen, train_domain=slices, test_domain=slices, method=METHODS)
    edges = [{"parent": p, "child": c} | {k: v for k, v in about[c].items() if k != "checkpoint"} for p, c in steps]
    drift = _over(
        rng, edges, contrast=["compassion"], domain=slices, layer=[*map(str, sites), "band"], gauge=["raw", "tau", "sd"]
    )
    made["drift"] = drift
    made["edges"] = _edges(rng, edges, slices)
    made["gates"] = _gates(rng, edges, slices)
    made["branches"] = _over(rng, [{"parent": "c0", "unit": "scenario"}], child_a=["c1"], child_b=["c2"], domain=slices)
    made["verdicts"] = judge(made["edges"], made["gates"])
    for name in TABLES:
        if name not in ELSEWHERE:
            table = made.get(name, pd.DataFrame(columns=list(TABLES[name])))
            write_table(folder / "tables", name, _whole(rng, name, table))


def _lineage(count: int) -> list[dict[str, Any]]:
    """A root, two branches of it, and everything else in chains and forks behind them."""
    stages = ("midtrain", "sft", "dpo", "rl", "control")
    found: list[dict[str, Any]] = []
    for n in range(count):
        parent = "" if n == 0 else found[(n - 1) // 2 if n < 7 else n - 4]["checkpoint"]
        stage = "base" if n == 0 else stages[n % len(stages)]
        data = "" if n == 0 else ("helpfulness", "coding")[n % 2]
        found.append({"checkpoint": f"c{n}", "parent": parent, "stage": stage, "data_domain": data, "seed": n})
    return found


def _lock(folder: Path, lineage: list[dict[str, Any]], layers: int) -> None:
    settings = StudySettings(name="synthetic", layer_band=(0.35, 0.65), smallest_effect=SmallestEffect())
    lock = {
        "study": settings.model_dump(mode="json", by_alias=True),
        "checkpoints": {
            c["checkpoint"]: {"parent": c["parent"] or None, "stage": c["stage"], "weights": "0" * 64} for c in lineage
        },
        "lineage": [],
        "folder": str(folder),
        "pairs_hash": "0" * 64,
        "row_plan": {"row_budget": 256, "rows_per_batch": 4},
        "packing": {"layers": layers},
        "versions": {"compassion-probes": "synthetic", "python": "3"},
    }
    write_json(folder / "study.lock.json", lock)


def _over(rng: np.random.Generator, rows: Any, **axes: Any) -> pd.DataFrame:
    """A row for every one of `rows` and every combination of the axes, with numbers that lie in order."""
    combined = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return pd.DataFrame([row | more for row in rows for more in combined])


def _edges(rng: np.random.Generator, steps: list[dict[str, Any]], slices: list[str]) -> pd.DataFrame:
    table = _over(rng, steps, contrast=["compassion"], domain=slices, quantity=list(QUANTITIES))
    null = table.quantity.map(QUANTITIES).to_numpy()
    moved = rng.choice([0.0, 0.0, -0.5, 0.35], size=(len(steps), len(slices), 1))
    moved = np.broadcast_to(moved, (len(steps), len(slices), len(QUANTITIES))).ravel()
    half = rng.uniform(0.05, 0.18, len(table))
    value = null + moved + rng.normal(0, 0.03, len(table))
    table = table.assign(value=value, low=value - half, high=value + half)
    table = table.assign(low_90=value - 0.84 * half, high_90=value + 0.84 * half)
    table = table.assign(low_adjusted=value - 1.4 * half, high_adjusted=value + 1.4 * half)
    flat = (table.low_90 > null - 0.2) & (table.high_90 < null + 0.2)
    down, up = table.high_adjusted < null, table.low_adjusted > null
    return table.assign(
        state=np.select([flat, down, up], [FLAT, DOWN, UP], UNCLEAR), n_scenarios=60, null_percentile=0.5
    )


def _gates(rng: np.random.Generator, steps: list[dict[str, Any]], slices: list[str]) -> pd.DataFrame:
    rows = [{k: s[k] for k in ("parent", "child")} for s in steps]
    table = _over(rng, rows, domain=slices, gate=[f"G{n}" for n in range(1, 9)])
    fails = (table.gate == "G5") & (rng.random(len(table)) < 0.3)
    says = np.where(fails, "the probe is not ahead of tfidf: 0.81 against 0.80 [−0.03, 0.05]", "holds")
    return table.assign(passed=np.where(fails, "no", "yes"), says=says)


def _whole(rng: np.random.Generator, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with every column it must have: text where text belongs, else numbers, limits around their value."""
    said = {"method": "mass-mean", "position": "response_mean", "best_baseline": "tfidf", "prompt": "My dog died."}
    said |= {"state": "flat", "weight_hash": "ab" * 32, "identity": "cd" * 32, "revision": "", "dtype": "float32"}
    said |= {"says": "holds", "quantity": "log_R", "patched": "into child", "kind": "add", "control": "none"}
    filled = table.copy()
    for column in TABLES[name]:
        if column not in filled:
            base = column.removesuffix("_low").removesuffix("_high").removesuffix("_adjusted")
            base = {"low": "value", "high": "value"}.get(base, base)
            if column in said:
                filled[column] = said[column]
            elif column != base and base in filled and not table.empty:
                filled[column] = filled[base].astype(float) + (-0.1 if column.endswith("low") else 0.1)
            else:
                filled[column] = rng.uniform(0.5, 1.0, len(filled)) + 0.2 * np.sin(np.arange(len(filled)) / 40)
    for column in ("n_scenarios", "n_directions", "row_budget", "n_layers", "d_model", "sample"):
        if column in TABLES[name] and column not in table:
            filled[column] = 60
    return filled


def measure(*, checkpoints: int, domains: int, layers: int, keep: Path | None = None) -> dict[str, Any]:
    """Seconds of `write_report` on such a study, by the clock and of a processor, and megabytes of what it writes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        make(folder, checkpoints=checkpoints, domains=[*NAMES, *map(str, range(99))][:domains], layers=layers)
        started, worked = time.monotonic(), time.process_time()
        page = write_report(folder)
        seconds, cpu = time.monotonic() - started, time.process_time() - worked
        size = page.stat().st_size / 1e6
        figures = sum(p.stat().st_size for p in (folder / "figures").iterdir()) / 1e6
    about = {"checkpoints": checkpoints, "domains": domains, "layers": layers}
    taken = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
    return about | taken | {"html_mb": round(size, 2), "figures_mb": round(figures, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--domains", type=int, default=12)
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--keep", type=Path, default=None, help="leave the run folder here")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(checkpoints=asked.checkpoints, domains=asked.domains, layers=asked.layers, keep=asked.keep)
    if asked.json:
        print(json.dumps(found))
    else:
        print(
            f"{asked.checkpoints} checkpoints × {asked.domains} domains × {asked.layers} layers: "
            f"{found['seconds']:.1f} s ({found['cpu_seconds']:.1f} of a processor), "
            f"report.html {found['html_mb']:.1f} MB, figures {found['figures_mb']:.1f} MB"
        )


if __name__ == "__main__":
    main()
