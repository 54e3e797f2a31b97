"""One checkpoint's directions and their held-out separation, site by site, domain by domain."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from activations.artifact import FORMAT_VERSION, writing
from activations.errors import InputError
from activations.store import ActivationStore
from probes.direction import Direction
from probes.estimators import LogisticProbe
from probes.evaluate import Separation, auroc, cross_scores, mass_mean_scores, separation
from probes.geometry import cross_product, signed_root
from probes.sides import POOLED, Layout, Sides, read_sides
from probes.surface import Scores

N_FOLDS = 5
CONTROL_DRAWS = 20
POSITION = "response_mean"
EMBEDDING = "embedding-mean"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One line of layers.csv, without the checkpoint's own columns."""

    domain: str
    site: str
    method: str
    n_scenarios: int
    separation: Separation
    size_raw: float
    tau: float
    selectivity: float
    best_baseline: str
    best_baseline_auroc: float


def neutral_tau(store: ActivationStore, site: str) -> float:
    """τ: the median residual norm of neutral tokens at a site."""
    return float(np.median(store.token_norm(site)))


def held_out(plan: Layout, per_domain: int, seed: int) -> Int[np.ndarray, "kept_out"]:
    """Scenarios kept out of every steering direction: `per_domain` of each domain, at most half of it.

    Drawn by the seed alone, the same for every checkpoint.
    """
    chosen: list[int] = []
    for number, domain in enumerate(dict.fromkeys(plan.domains)):
        members = sorted(plan.members(domain), key=lambda i: plan.scenarios[i])
        rng = np.random.default_rng([seed, number])
        chosen += rng.permutation(members)[: min(per_domain, len(members) // 2)].tolist()
    return np.sort(np.asarray(chosen, dtype=np.int64))


def fit_checkpoint(
    store: ActivationStore,
    plan: Layout,
    folds: Int[np.ndarray, "scenario"],
    baselines: dict[str, dict[str, Scores]],
    kept_out: Int[np.ndarray, "kept_out"],
    *,
    contrast: str,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[list[LayerRow], list[Direction]]:
    """Cross-fitted mass-mean and logistic probes at every site, and the directions fitted on all scenarios.

    Args:
        store: the checkpoint's activations.
        plan: which texts make up which scenario.
        folds: the fold of every scenario.
        baselines: held-out surface scores per slice (domain or "pooled"), on the same folds.
        kept_out: scenarios that the steering direction must not have seen.
        contrast: the contrast's name.
        seed: seeds the control task's random labels.
        advance: told 1 after every site.

    Returns:
        Rows of layers.csv, and per site: one direction a slice ("mass-mean", all its scenarios) and one pooled
        direction for steering ("mass-mean/held-out", without `kept_out`).
    """
    rows: list[LayerRow] = []
    directions: list[Direction] = []
    embedding: dict[str, Scores] = {}
    for site in store.sites:
        sides = read_sides(store, plan, POSITION, site)
        tau = neutral_tau(store, site)
        for domain in plan.slices():
            members = plan.members(domain)
            part, part_folds = sides.rows(members), folds[members]
            rng = np.random.default_rng([seed, len(members)])
            signs = np.concatenate([np.ones((1, len(members))), rng.choice([-1.0, 1.0], (CONTROL_DRAWS, len(members)))])
            plus, minus = mass_mean_scores(part, part, part_folds, signs)
            if site == store.sites[0]:
                embedding[domain] = (plus[0], minus[0])
            control = float(np.mean([auroc(p, n) for p, n in zip(plus[1:], minus[1:], strict=True)]))
            best, best_area = _best_baseline(baselines[domain], embedding[domain], is_embedding=site == store.sites[0])
            size = signed_root(cross_product(part.difference, part.difference).value)
            scored = {
                "mass-mean": (plus[0], minus[0]),
                "logistic": cross_scores(part.positive, part.negative, part_folds, LogisticProbe()),
            }
            for method, (p, n) in scored.items():
                found = separation(p, n)
                rows.append(
                    LayerRow(
                        domain=domain,
                        site=site,
                        method=method,
                        n_scenarios=len(members),
                        separation=found,
                        size_raw=size,
                        tau=tau,
                        best_baseline=best,
                        best_baseline_auroc=best_area,
                        selectivity=found.auroc - control if method == "mass-mean" else float("nan"),
                    )
                )
        for domain in dict.fromkeys([*plan.slices(), POOLED]):  # a study of one domain has a pooled direction too
            members = plan.members(domain)
            directions.append(_direction(store, plan, sides, members, site, tau, "mass-mean", domain, contrast))
        train = np.setdiff1d(np.arange(len(plan)), kept_out)
        directions.append(_direction(store, plan, sides, train, site, tau, "mass-mean/held-out", POOLED, contrast))
        advance(1)
    return rows, directions


def save_directions(path: Path, directions: Sequence[Direction]) -> None:
    """Write many directions as one safetensors file: one tensor [d_model] each, what is said of them as metadata."""
    tensors, about = {}, {}
    for direction in directions:
        key = direction_key(direction.contrast, direction.domain, direction.method, direction.site)
        tensors[key] = direction.vector.astype(np.float32)
        about[key] = direction.about()
    metadata = {"kind": "directions", "format_version": str(FORMAT_VERSION), "about": json.dumps(about, sort_keys=True)}
    with writing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_direction(path: Path, contrast: str, domain: str, method: str, site: str) -> Direction:
    """One direction of a file that `save_directions` wrote.

    Raises:
        InputError: no such file, or no such direction in it.
    """
    key = direction_key(contrast, domain, method, site)
    try:
        with safe_open(path, framework="numpy") as handle:
            about = json.loads((handle.metadata() or {})["about"])
            if key not in about:
                raise InputError(f"holds no direction {key!r}", where=str(path), mend="run `compassion train-probes`")
            return Direction(vector=handle.get_tensor(key), **about[key])
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f"cannot be read as directions ({error})", where=str(path), mend="run `compassion train-probes`"
        ) from error


def direction_key(contrast: str, domain: str, method: str, site: str) -> str:
    """The name of a direction's tensor in a directions file."""
    return f"{contrast}/{domain}/{method}/{site}"


def _best_baseline(found: dict[str, Scores], embedding: Scores, *, is_embedding: bool) -> tuple[str, float]:
    areas = {name: auroc(*scores) for name, scores in found.items()}
    if not is_embedding:  # at the embedding site itself it would be compared with itself
        areas[EMBEDDING] = auroc(*embedding)
    best = max(areas, key=lambda name: areas[name])
    return best, areas[best]


def _direction(
    store: ActivationStore,
    plan: Layout,
    sides: Sides,
    members: np.ndarray,
    site: str,
    tau: float,
    method: str,
    domain: str,
    contrast: str,
) -> Direction:
    delta: Float[np.ndarray, d_model] = sides.rows(members).difference.mean(axis=0)
    return Direction(
        vector=delta,
        site=site,
        position=POSITION,
        method=method,
        contrast=contrast,
        domain=domain,
        size=float(np.linalg.norm(delta)),
        tau=tau,
        scenarios=plan.hash(members),
        checkpoint=store.identity,
    )
