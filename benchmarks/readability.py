"""Does a probe read more than the text gives away? Held-out probes against every text-only reader, domain by domain.

    compassion capture STUDY --out RUN
    python -m benchmarks.readability RUN [--layer N] [--json]

Scenarios that use a set phrase of sympathy are left out. The layer is the middle of the study's band. All readers are
scored on the same folds, grouped by scenario; the best text-only reader is picked on the same scores, which favours it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from activations.pairs import load_pairs
from activations.store import ActivationStore
from analysis.edge import band_layers
from analysis.run_tables import read_lock
from probes.estimators import LogisticProbe, MassMean
from probes.evaluate import auroc, cross_scores, mass_mean_scores, separation
from probes.features import feature_table, has_stock_phrase, measure
from probes.sides import Sides, layout, read_sides, scenario_folds
from probes.surface import Scores, bayes_baseline, letters_baseline, side_texts, tfidf_baseline

DRAWS = 2000


def text_readers(positive: np.ndarray, negative: np.ndarray, embedding: Sides, folds: np.ndarray) -> dict[str, Scores]:
    """Held-out scores of every reader that sees the words and no context."""
    found = {
        "TF-IDF, words": cross_scores(positive, negative, folds, tfidf_baseline()),
        "naive Bayes": cross_scores(positive, negative, folds, bayes_baseline()),
        "TF-IDF, letters": cross_scores(positive, negative, folds, letters_baseline()),
        "embedding, mass-mean": mass_mean(embedding, folds),
        "embedding, logistic": cross_scores(embedding.positive, embedding.negative, folds, LogisticProbe(C=0.01)),
    }
    for name, feature in feature_table().items():
        plus, minus = (measure([t.split("\n") for t in side], feature)[:, None] for side in (positive, negative))
        found[name] = cross_scores(plus, minus, folds, MassMean())
    return found


def mass_mean(sides: Sides, folds: np.ndarray) -> Scores:
    plus, minus = mass_mean_scores(sides, sides, folds, np.ones((1, len(folds))))
    return plus[0], minus[0]


def difference(probe: Scores, reader: Scores, rng: np.random.Generator) -> tuple[float, float]:
    """95 % limits of the difference of two AUROCs on the same scenarios: paired bootstrap over scenarios."""
    n = len(probe[0])
    drawn = []
    for _ in range(DRAWS):
        rows = rng.integers(0, n, n)
        drawn.append(auroc(probe[0][rows], probe[1][rows]) - auroc(reader[0][rows], reader[1][rows]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def measure_run(run: Path, layer: int | None) -> list[dict[str, object]]:
    """One row a domain, and pooled."""
    lock = read_lock(run)
    named = lock["study"]["pairs"]
    pairs = load_pairs(*([named] if isinstance(named, str) else named))
    rng = np.random.default_rng(lock["study"]["seed"])
    rows: list[dict[str, object]] = []
    with ActivationStore(run / "activations" / f"{next(iter(lock['checkpoints']))}.h5") as store:
        plan = layout(store.rows("response"), "compassion", str(run))
        folds = scenario_folds(plan, 5, lock["study"]["seed"])
        positive, negative = side_texts(pairs, plan, "compassion")
        band = band_layers(len(store.sites) - 1, tuple(lock["study"]["layer_band"]))
        chosen = band[len(band) // 2] if layer is None else layer
        sides = read_sides(store, plan, "response_mean", store.sites[chosen + 1])
        embedding = read_sides(store, plan, "response_mean", store.sites[0])
        free = [not (has_stock_phrase(a) or has_stock_phrase(b)) for a, b in zip(positive, negative, strict=True)]
        for domain in plan.slices():
            members = plan.members(domain)
            members = members[np.asarray(free)[members]]
            own, part = folds[members], sides.rows(members)
            readers = text_readers(positive[members], negative[members], embedding.rows(members), own)
            areas = {name: auroc(*scores) for name, scores in readers.items()}
            best = max(areas, key=lambda name: areas[name])
            probes = {
                "mass-mean": mass_mean(part, own),
                "logistic": cross_scores(part.positive, part.negative, own, LogisticProbe(C=0.01)),
            }
            row: dict[str, object] = {"domain": domain, "layer": chosen, "n_scenarios": len(members)}
            row |= {"best_reader": best, "best_reader_auroc": areas[best]}
            for name, scores in probes.items():
                found = separation(*scores)
                low, high = difference(scores, readers[best], rng)
                row |= {f"{name} d'": found.dprime, name: found.auroc, f"{name} ahead": [low, high]}
            rows.append(row)
    return rows


def main() -> None:
    """Print a table, or with --json one JSON array."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder that holds the root's activations")
    parser.add_argument("--layer", type=int, help="0-based block; default: the middle of the band")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    chosen = parser.parse_args()
    rows = measure_run(chosen.run, chosen.layer)
    if chosen.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*[_said(value) for value in row.values()])
    Console(width=150).print(table)


def _said(value: object) -> str:
    if isinstance(value, list):
        return f"[{value[0]:+.2f}, {value[1]:+.2f}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
