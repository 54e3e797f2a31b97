"""A checkpoint's probes: fitted and scored at every site, by as many processes as wanted; directions as files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from joblib import Parallel, delayed
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from activations.artifact import FORMAT_VERSION, content_hash, writing
from activations.errors import InputError
from probes.direction import Direction
from probes.permutation import max_t
from probes.readers import fit_reader
from probes.sides import Layout, Sides
from probes.sites import SiteFound, Task, measure_site

N_FOLDS = 5


def fit(
    positive: Float[np.ndarray, "scenario d"],
    negative: Float[np.ndarray, "scenario d"],
    *,
    method: str = "mass-mean",
    site: str = "",
    tau: float = 1.0,
    seed: int = 0,
) -> Direction:
    """The direction of a method on all scenarios given; for a number to report, use `probes.evaluate.evaluate`.

    Args:
        positive, negative: residuals of the sides, one row a scenario (average paraphrases first).
        method: one of `probes.readers.METHODS`.
        site, tau: what the direction's file says of where it was read, and of the unit of doses there.
        seed: seeds inner folds and the starts of CCS.

    Raises:
        ValueError: shapes that differ, an unknown method, or sides that do not differ.
    """
    sides = Sides(positive=np.asarray(positive, dtype=np.float64), negative=np.asarray(negative, dtype=np.float64))
    if sides.positive.shape != sides.negative.shape:
        raise ValueError(f"sides of {sides.positive.shape} and {sides.negative.shape}")
    vector, _ = fit_reader(sides, method, seed=seed)
    return Direction(
        vector=vector,
        site=site,
        position="",
        method=method,
        contrast="",
        domain="",
        size=float(sides.difference.mean(axis=0) @ vector),
        tau=tau,
        scenarios=content_hash([row.tolist() for row in sides.difference]),
        checkpoint="",
    )


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


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Fit:
    """What `fit_checkpoint` found, site by site in order of depth, and the sign-flip test over all of them."""

    sites: list[SiteFound]
    flips: dict[tuple[str, str], tuple[float, float, float]]  # by site and slice: t, p, p adjusted over all


def fit_checkpoint(
    task: Task, sites: Sequence[str], *, jobs: int = 1, advance: Callable[[int], None] = lambda _: None
) -> Fit:
    """Cross-fitted readers, separations, nulls and directions at every site.

    Args:
        task: the checkpoint's store and what its sites share.
        sites: the store's sites in order of depth; the first, the embedding, gives the others a baseline.
        jobs: processes; each holds one site's residuals. The results do not depend on it.
        advance: told 1 after every site.
    """
    first = measure_site(task, sites[0], {})
    advance(1)
    embedding = {r.domain: r.separation.auroc for r in first.rows if r.method == "mass-mean"}
    found = [first]
    with Parallel(n_jobs=jobs, return_as="generator", inner_max_num_threads=1) as pool:
        for one in pool(delayed(measure_site)(task, site, embedding) for site in sites[1:]):
            found.append(one)
            advance(1)
    test = max_t(np.concatenate([s.statistics for s in found], axis=1))
    names = [(site, name) for site, s in zip(sites, found, strict=True) for name in s.slices]
    return Fit(
        sites=found,
        flips={
            key: (float(t), float(p), float(adjusted))
            for key, t, p, adjusted in zip(names, test.statistic, test.p, test.p_adjusted, strict=True)
        },
    )


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
                held = sorted(
                    {d["domain"] for d in about.values() if (d["contrast"], d["method"]) == (contrast, method)}
                )
                mend = "run `compassion train-probes`" if domain in held else f"domains: {', '.join(held)}"
                raise InputError(f"holds no direction {key!r}", where=str(path), mend=mend)
            return Direction(vector=handle.get_tensor(key), **about[key])
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f"cannot be read as directions ({error})", where=str(path), mend="run `compassion train-probes`"
        ) from error


def direction_key(contrast: str, domain: str, method: str, site: str) -> str:
    """The name of a direction's tensor in a directions file."""
    return f"{contrast}/{domain}/{method}/{site}"
