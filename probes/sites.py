"""Everything that is measured at one site of one checkpoint: readers of all methods, their separation, their nulls.

One site is one task: it reads its own slices of the stores and returns rows, so that sites can be done by several
processes, each holding one site's residuals and nothing else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from activations.store import ActivationStore
from probes.codelength import codelength
from probes.controls import exceedance, random_directions
from probes.designs import Cells, ConfoundRow, confound_rows, factorial_rows, retold
from probes.direction import Direction
from probes.evaluate import Separation, mass_mean_scores, neutral_limits, separations
from probes.geometry import cross_product, signed_root
from probes.metrics import auroc, dprime
from probes.permutation import draw_signs, held_out_differences, t_statistics
from probes.readers import CLOSED_FORM, METHODS, Readers, fit_readers
from probes.sides import POOLED, Layout, Sides, read_sides

CONTROL_DRAWS = 20
POSITION, NEUTRAL_POSITION = "response_mean", "text_mean"
EMBEDDING = "embedding-mean"
BINS = 10
STEERING = "mass-mean/held-out"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Task:
    """What every site of a checkpoint shares. The covariance of `root`, the lineage's root, whitens all checkpoints."""

    store: Path
    root: Path
    plan: Layout
    folds: Int[np.ndarray, "scenario"]
    baselines: dict[str, dict[str, float]]  # by slice: held-out AUROC of every reader of the text alone
    kept_out: Int[np.ndarray, "kept_out"]
    contrast: str
    seed: int
    draws: int
    parent: Path | None = None  # the parent's store, whose readers score this checkpoint's rows as well
    methods: tuple[str, ...] = METHODS
    slices: tuple[str, ...] = ()  # of the plan; all of them without


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One line of layers.csv, without the checkpoint's own columns. NaN where a method has no such number."""

    domain: str
    site: str
    method: str
    n_scenarios: int
    separation: Separation
    size_raw: float
    tau: float
    selectivity: float
    codelength: float
    calibration_error: float
    p_matched: float
    p_isotropic: float
    best_baseline: str
    best_baseline_auroc: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """One line of reliability.csv: how often sides given this probability were compassionate."""

    domain: str
    site: str
    low: float
    high: float
    predicted: float
    observed: float
    n: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SiteFound:
    """What one site gives: rows, directions, and the sign-flip statistics of every slice."""

    rows: list[LayerRow]
    bins: list[Bin]
    directions: list[Direction]
    slices: tuple[str, ...]
    statistics: Float[np.ndarray, "draw slice"]
    transfer: Cells
    frozen: Cells  # the same by the parent's readers, closed forms only
    confounds: list[ConfoundRow]


def measure_site(task: Task, site: str, embedding: dict[str, float]) -> SiteFound:
    """Fit and score every method on every slice of a site, with the nulls beside them.

    Args:
        site: a site of the store.
        embedding: by slice, the AUROC that the mean embedding reaches; empty at the embedding itself.
    """
    with one_thread():
        return _measure_site(task, site, embedding)


@contextmanager
def one_thread() -> Iterator[None]:
    """Many small problems: threads cost more than they give, and their number must not change a digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _measure_site(task: Task, site: str, embedding: dict[str, float]) -> SiteFound:
    plan, folds = task.plan, task.folds
    slices = {name: plan.members(name) for name in task.slices or plan.slices()}
    with ActivationStore(task.store) as store:
        sides = read_sides(store, plan, POSITION, site)
        tau = neutral_tau(store, site)
        neutral = store.residual("neutral", NEUTRAL_POSITION, site).astype(np.float64)
    root = None
    if task.root != task.store:
        with ActivationStore(task.root) as store:
            root = read_sides(store, plan, POSITION, site)
    readers = fit_readers(sides, slices, folds, methods=task.methods, root=root, units=plan.scenarios, seed=task.seed)
    positive, negative = readers.scores(sides.positive), readers.scores(sides.negative)
    limits = neutral_limits(readers, neutral)
    rows: list[LayerRow] = []
    bins: list[Bin] = []
    statistics = []
    signs = draw_signs(len(plan), task.draws, task.seed)
    for name, members in slices.items():
        part, part_folds = sides.rows(members), folds[members]
        own = [readers.rows(method, name, part_folds) for method in task.methods]
        plus, minus = (np.stack([side[r, members] for r in own]) for side in (positive, negative))
        found = separations(plus, minus, np.stack([limits[r] for r in own]))
        size = signed_root(cross_product(part.difference, part.difference).value)
        random = random_directions(part, seed=task.seed)
        best, best_area = _best(task.baselines[name] | ({EMBEDDING: embedding[name]} if embedding else {}))
        probability = _probabilities(readers, own, task.methods, plus, minus)
        for i, method in enumerate(task.methods):
            at = found[i]
            mass_mean, logistic = method == "mass-mean", method == "logistic"
            if logistic:
                bins += _reliability(*probability, name, site)
            rows.append(
                LayerRow(
                    domain=name,
                    site=site,
                    method=method,
                    n_scenarios=len(members),
                    separation=at,
                    size_raw=size,
                    tau=tau,
                    selectivity=at.auroc - _control_task(part, part_folds, task.seed) if mass_mean else np.nan,
                    codelength=codelength(part, seed=task.seed) if logistic else np.nan,
                    calibration_error=_calibration_error(bins[-BINS:]) if logistic else np.nan,
                    p_matched=exceedance(at.dprime, random.matched),
                    p_isotropic=exceedance(at.dprime, random.isotropic),
                    best_baseline=best,
                    best_baseline_auroc=best_area,
                )
            )
        gram = part.difference @ part.difference.T
        statistics.append(t_statistics(held_out_differences(gram, part_folds, signs[:, members])))
    transfer = _transfer(task.methods, slices, folds, readers, positive, negative)
    frozen: Cells = {}
    if task.parent is not None:
        with ActivationStore(task.parent) as store:
            before = read_sides(store, plan, POSITION, site)
        closed = tuple(m for m in task.methods if m in CLOSED_FORM)
        theirs = fit_readers(before, slices, folds, methods=closed, root=root, seed=task.seed)
        frozen = _transfer(closed, slices, folds, theirs, theirs.scores(sides.positive), theirs.scores(sides.negative))
    with ActivationStore(task.store) as store:
        where = (store, site, POSITION, task.contrast)
        transfer |= retold(*where, plan, folds, readers, task.methods)
        confounds = confound_rows(*where, sides, slices, folds, readers)
        confounds += factorial_rows(*where, plan, folds, readers)
        directions = _directions(task, store.identity, sides, site, tau)
    return SiteFound(
        rows=rows,
        bins=bins,
        directions=directions,
        slices=tuple(slices),
        statistics=np.stack(statistics, axis=1),
        transfer=transfer,
        frozen=frozen,
        confounds=confounds,
    )


def neutral_tau(store: ActivationStore, site: str) -> float:
    """τ: the median residual norm of neutral tokens at a site."""
    return float(np.median(store.token_norm(site)))


def _transfer(
    methods: Sequence[str],
    slices: dict[str, np.ndarray],
    folds: Int[np.ndarray, "scenario"],
    readers: Readers,
    positive: Float[np.ndarray, "reader scenario"],
    negative: Float[np.ndarray, "reader scenario"],
) -> Cells:
    """Every slice scored by every slice's readers; a scenario's own fold is left out of every fit."""
    found: Cells = {}
    for scored, members in slices.items():
        keys = [(method, fitted) for method in methods for fitted in slices]
        own = [readers.rows(method, fitted, folds[members]) for method, fitted in keys]
        plus, minus = (np.stack([side[r, members] for r in own]) for side in (positive, negative))
        areas, ds = auroc(plus, minus), dprime(plus, minus)
        n = len(members)
        found |= {(*key, scored): (float(a), float(d), n) for key, a, d in zip(keys, areas, ds, strict=True)}
    return found


def _control_task(part: Sides, folds: Int[np.ndarray, "scenario"], seed: int) -> float:
    """Mean AUROC of mass-mean readers of labels drawn at random for each scenario (arXiv:1909.03368)."""
    signs = np.random.default_rng([seed, len(folds)]).choice([-1.0, 1.0], (CONTROL_DRAWS, len(folds)))
    return float(auroc(*mass_mean_scores(part, part, folds, signs)).mean())


def _best(areas: dict[str, float]) -> tuple[str, float]:
    best = max(areas, key=lambda name: areas[name])
    return best, areas[best]


def _probabilities(
    readers: Readers, own: list[np.ndarray], methods: Sequence[str], plus: np.ndarray, minus: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The logistic readers' held-out probabilities that a side is the positive one, and whether it is."""
    if "logistic" not in methods:
        return np.empty(0), np.empty(0)
    i = list(methods).index("logistic")
    odds = np.concatenate([readers.gain[own[i]] * plus[i], readers.gain[own[i]] * minus[i]])
    return 1 / (1 + np.exp(-odds)), np.repeat([1.0, 0.0], plus.shape[1])


def _reliability(probability: np.ndarray, truth: np.ndarray, domain: str, site: str) -> list[Bin]:
    edges = np.linspace(0.0, 1.0, BINS + 1)
    number = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    found = []
    for i in range(BINS):
        inside = number == i
        n = int(inside.sum())
        found.append(
            Bin(
                domain=domain,
                site=site,
                low=float(edges[i]),
                high=float(edges[i + 1]),
                predicted=float(probability[inside].mean()) if n else float("nan"),
                observed=float(truth[inside].mean()) if n else float("nan"),
                n=n,
            )
        )
    return found


def _calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error: |observed − predicted|, weighted by how many sides a bin holds."""
    total = sum(b.n for b in bins)
    return sum(b.n * abs(b.observed - b.predicted) for b in bins if b.n) / total if total else float("nan")


def _directions(task: Task, identity: str, sides: Sides, site: str, tau: float) -> list[Direction]:
    plan = task.plan
    chosen = [(name, "mass-mean", plan.members(name)) for name in dict.fromkeys([*plan.slices(), POOLED])]
    chosen.append((POOLED, STEERING, np.setdiff1d(np.arange(len(plan)), task.kept_out)))
    found = []
    for domain, method, members in chosen:
        delta = sides.rows(members).difference.mean(axis=0)
        found.append(
            Direction(
                vector=delta,
                site=site,
                position=POSITION,
                method=method,
                contrast=task.contrast,
                domain=domain,
                size=float(np.linalg.norm(delta)),
                tau=tau,
                scenarios=plan.hash(members),
                checkpoint=identity,
            )
        )
    return found
