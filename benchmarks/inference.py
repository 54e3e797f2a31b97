"""Speed of the cross-fitted grid and of the sign-flip tests, and the family-wise error the latter promise.

    python -m benchmarks.inference [--json]             # the grid, the flips, scikit-learn beside them
    python -m benchmarks.inference --family 1000        # false alarms over the whole grid, on data without an effect

The grid is a made-up checkpoint in a real store: 31 sites × 12 domains × 60 scenarios, 576 wide, with the heavy
spectrum and the layers that follow from one another of a residual stream. `--store FILE` takes the spectrum, and what
layers share, from a captured checkpoint instead (for --family).
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import PredefinedSplit, permutation_test_score

from activations.pairs import Text
from activations.store import ActivationStore, Measured, write_part, write_store
from probes.estimators import MassMean
from probes.fit import N_FOLDS, fit_checkpoint
from probes.permutation import DRAWS, draw_signs, held_out_differences, max_t, t_statistics
from probes.readers import CLOSED_FORM, METHODS
from probes.sides import layout, read_sides, scenario_folds
from probes.sites import POSITION, Task, one_thread

SITES, DOMAINS, SCENARIOS, WIDTH, NEUTRAL = 31, 12, 60, 576, 64
SPECTRUM = np.exp(-np.arange(WIDTH) / 60.0) * 5 + 0.2
EFFECT = 0.35


def stream(rng: np.random.Generator, rows: int, sites: int, width: int) -> np.ndarray:
    """Residuals [row, site, width]: each layer keeps most of the one before and adds to it."""
    scale = SPECTRUM[:width]
    at = rng.standard_normal((rows, width)) * scale
    found = np.empty((rows, sites, width), np.float32)
    for site in range(sites):
        at = 0.95 * at + 0.31 * rng.standard_normal((rows, width)) * scale
        found[:, site] = at
    return found


def make(folder: Path, *, sites: int, domains: int, scenarios: int, width: int) -> Path:
    """A store of made-up answers: sides share their scenario, and differ by a small shift at every site."""
    rng = np.random.default_rng(0)
    rows, parts = [], []
    for domain in range(domains):
        shared = stream(rng, scenarios, sites, width)
        own = stream(rng, 2 * scenarios, sites, width).reshape(scenarios, 2, sites, width)
        values = shared[:, None] + 0.5 * own
        values[:, 0] += EFFECT * SPECTRUM[:width] * rng.standard_normal((1, 1, width))
        for scenario in range(scenarios):
            for side in ("positive", "negative"):
                name = f"d{domain}-{scenario:03d}"
                about = {"scenario_id": name, "domain": f"d{domain}", "contrast": "compassion", "design": "contrast"}
                rows.append(Text(kind="response", text_id=f"{name}-{side}", text="x", group=name, side=side, **about))
        both = values.reshape(-1, 1, sites, width)
        measured = Measured(
            residual=np.concatenate([both, both], axis=1).astype(np.float32),
            logprob=np.zeros(len(both), np.float32),
            token_norm=np.zeros((0, sites), np.float32),
            n_tokens=np.ones(len(both), np.int64),
        )
        parts.append(folder / f"{domain}.safetensors")
        write_part(parts[-1], "benchmark", {"response": measured})
    plain = stream(rng, NEUTRAL, sites, width)[:, None]
    rows += [Text(kind="neutral", text_id=f"n{i}", text="x", group=f"n{i}", domain="") for i in range(NEUTRAL)]
    measured = Measured(
        residual=np.concatenate([plain, plain], axis=1),
        logprob=np.zeros(NEUTRAL, np.float32),
        token_norm=np.linalg.norm(plain[:, 0], axis=-1).astype(np.float32),
        n_tokens=np.ones(NEUTRAL, np.int64),
    )
    parts.append(folder / "neutral.safetensors")
    write_part(parts[-1], "benchmark", {"neutral": measured})
    header = {"identity": "benchmark", "checkpoint": "made-up", "d_model": width, "determinants": {}, "receipt": {}}
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{n}.hook_resid_post" for n in range(sites - 1))]
    path = folder / "made-up.h5"
    write_store(path, header, names, rows, parts, "benchmark")
    return path


def task_of(path: Path, methods: tuple[str, ...], *, pooled: bool) -> tuple[Task, tuple[str, ...]]:
    """What `fit_checkpoint` needs for a made-up store."""
    with ActivationStore(path) as store:
        plan, sites = layout(store.rows("response"), "compassion", str(path)), store.sites
    folds = scenario_folds(plan, N_FOLDS, 0)
    names = plan.slices() if pooled else plan.slices()[:-1]
    task = Task(
        store=path,
        root=path,
        plan=plan,
        folds=folds,
        baselines={name: {"tfidf": 0.5} for name in plan.slices()},
        kept_out=np.arange(0, len(plan), 6),
        contrast="compassion",
        seed=0,
        draws=DRAWS,
        methods=methods,
        slices=tuple(names),
    )
    return task, sites


def grids(path: Path, jobs: int) -> dict[str, float]:
    """Seconds of the whole cross-validated grid, by what is fitted."""
    found = {}
    for name, methods, pooled in (
        ("cv_grid_closed_form_seconds", CLOSED_FORM, False),
        ("cv_grid_seconds", METHODS, False),
        ("cv_grid_with_pooled_seconds", METHODS, True),
    ):
        task, sites = task_of(path, methods, pooled=pooled)
        began = time.perf_counter()
        fit_checkpoint(task, sites, jobs=jobs)
        found[name] = time.perf_counter() - began
    return found


def flips(path: Path, jobs: int) -> dict[str, float]:
    """Seconds of 1000 refits of every slice with max-T, once the Gram matrices stand."""
    task, sites = task_of(path, CLOSED_FORM, pooled=False)
    parts = [task.plan.members(name) for name in task.slices]
    signs = draw_signs(len(task.plan), DRAWS, 0)
    grams = []
    with ActivationStore(path) as store:
        for site in sites:
            delta = read_sides(store, task.plan, POSITION, site).difference
            grams.append([delta[m] @ delta[m].T for m in parts])

    def one(gram: list[np.ndarray]) -> np.ndarray:
        with one_thread():
            pieces = zip(gram, parts, strict=True)
            return np.stack(
                [t_statistics(held_out_differences(g, task.folds[m], signs[:, m])) for g, m in pieces], axis=1
            )

    with Parallel(n_jobs=jobs, prefer="threads") as pool:
        began = time.perf_counter()
        test = max_t(np.concatenate(pool(delayed(one)(g) for g in grams), axis=1))
        seconds = time.perf_counter() - began
    return {"permutation_grid_seconds": seconds, "permutation_tests": float(len(test.p))}


def beside_sklearn(permutations: int) -> dict[str, float]:
    """The same statistic, folds and null by `permutation_test_score`: time a permutation, and the p-values."""
    rng = np.random.default_rng(1)
    folds, worst, ours_seconds, their_seconds = np.arange(SCENARIOS) % N_FOLDS, 0.0, 0.0, 0.0
    allowed = 0.0
    for effect in (0.0, 0.03, 0.05, 0.07):
        shared = stream(rng, SCENARIOS, 1, WIDTH)[:, 0].astype(float)
        own = stream(rng, 2 * SCENARIOS, 1, WIDTH)[:, 0].astype(float)
        positive, negative = shared + own[:SCENARIOS] + effect * SPECTRUM, shared + own[SCENARIOS:]
        with one_thread():
            began = time.perf_counter()
            delta = positive - negative
            signs = draw_signs(SCENARIOS, DRAWS, 2)
            gaps = held_out_differences(delta @ delta.T, folds, signs).mean(axis=1)
            p = (1 + (gaps[1:] >= gaps[0]).sum()) / (1 + DRAWS)
            ours_seconds += (time.perf_counter() - began) / DRAWS
            warnings.filterwarnings("ignore", message="The groups parameter is ignored")  # the shuffling heeds them
            began = time.perf_counter()
            _, _, theirs = permutation_test_score(
                MassMean(),
                np.concatenate([positive, negative]),
                np.repeat([1, 0], SCENARIOS),
                groups=np.tile(np.arange(SCENARIOS), 2),
                cv=PredefinedSplit(np.tile(folds, 2)),
                scoring=_gap,
                n_permutations=permutations,
                random_state=3,
            )
            their_seconds += (time.perf_counter() - began) / permutations
        middle = (p + theirs) / 2
        worst = max(worst, abs(p - theirs))
        allowed = max(allowed, 2.6 * np.sqrt(middle * (1 - middle) * (1 / DRAWS + 1 / permutations)))
    return {
        "sklearn_ratio": their_seconds / ours_seconds,
        "p_value_max_difference": worst,
        "p_value_monte_carlo_99": float(allowed),
    }


def _gap(model: MassMean, X: np.ndarray, y: np.ndarray) -> float:
    scores = model.decision_function(X)
    return float(scores[y == 1].mean() - scores[y == 0].mean())


def family(count: int, draws: int, jobs: int, captured: Path | None) -> dict[str, float]:
    """Share of data sets without an effect in which any site or domain falls below an adjusted p of .05.

    Scenario differences are drawn with the covariance, across coordinates and layers at once, of the captured (or
    made-up) differences: normal weights on those differences, so that each site's Gram matrix is W G Wᵀ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = captured or make(Path(scratch), sites=SITES, domains=DOMAINS, scenarios=SCENARIOS, width=WIDTH)
        with ActivationStore(path) as store:
            plan = layout(store.rows("response"), "compassion", str(path))
            grams = []
            for site in store.sites:
                delta = read_sides(store, plan, POSITION, site).difference
                delta = np.concatenate(
                    [delta[m] - delta[m].mean(axis=0) for m in map(plan.members, plan.slices()[:-1])]
                )
                grams.append((delta @ delta.T / len(delta)).astype(np.float32))

    def one(seed: int, effect: float) -> float:
        with one_thread():
            rng = np.random.default_rng([17, seed])
            n = grams[0].shape[0]
            weights = rng.standard_normal((DOMAINS * SCENARIOS, n)).astype(np.float32) + effect * _fixed(n)
            folds = np.tile(np.arange(SCENARIOS) % N_FOLDS, DOMAINS)
            signs = draw_signs(len(folds), draws, seed)
            columns = []
            for gram in grams:
                half = weights @ gram
                for d in range(DOMAINS):
                    m = slice(d * SCENARIOS, (d + 1) * SCENARIOS)
                    drawn = (half[m] @ weights[m].T).astype(np.float64)
                    columns.append(t_statistics(held_out_differences(drawn, folds[m], signs[:, m])))
            return float(max_t(np.stack(columns, axis=1)).p_adjusted.min())

    with Parallel(n_jobs=jobs, prefer="threads") as pool:
        began = time.perf_counter()
        null = np.asarray(pool(delayed(one)(seed, 0.0) for seed in range(count)))
        seconds = time.perf_counter() - began
        real = np.asarray(pool(delayed(one)(seed, 0.15) for seed in range(20)))
    rate = float((null <= 0.05).mean())
    return {
        "data_sets": float(count),
        "tests_in_each": float(len(grams) * DOMAINS),
        "family_wise_error": rate,
        "monte_carlo_se": float(np.sqrt(rate * (1 - rate) / count)),
        "found_with_an_effect": float((real <= 0.05).mean()),
        "seconds": seconds,
    }


def _fixed(n: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(n).astype(np.float32)


def measure(jobs: int, permutations: int) -> dict[str, float]:
    """Everything but the family-wise error."""
    with tempfile.TemporaryDirectory() as scratch:
        path = make(Path(scratch), sites=SITES, domains=DOMAINS, scenarios=SCENARIOS, width=WIDTH)
        return grids(path, jobs) | flips(path, jobs) | beside_sklearn(permutations) | {"jobs": float(jobs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--permutations", type=int, default=300)
    parser.add_argument("--family", type=int, default=0, metavar="N")
    parser.add_argument("--draws", type=int, default=199)
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    if given.family:
        found = family(given.family, given.draws, given.jobs, given.store)
    else:
        found = measure(given.jobs, given.permutations)
    if given.json:
        print(json.dumps(found))
        return
    table = Table("what", "value")
    for name, value in found.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)


if __name__ == "__main__":
    main()
