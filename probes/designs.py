"""The other sets of pairs a store may hold, read along the compassion readers: confounds, 2×2, matched, translations.

Where a set retells scenarios of the main one, each is read by the readers that did not see that scenario.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from activations.store import ActivationStore
from probes.controls import factorial, unbiased_cosine, without
from probes.evaluate import by_fold
from probes.inference import Estimate
from probes.metrics import auroc, dprime
from probes.readers import Readers
from probes.sides import POOLED, Layout, Sides, layout, read_sides

NULLS = "null_"  # contrasts whose names begin so have no content, and are no confounds
WARM, PLAIN = "2x2-warm", "2x2-plain"
ALL = "all"
Cells = dict[tuple[str, str, str], tuple[float, float, int]]  # method, slice fitted, slice scored → AUROC, d′, n


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfoundRow:
    """One line of confounds.csv, without the checkpoint's own columns."""

    domain: str
    site: str
    confound: str
    quantity: str
    estimate: Estimate
    n_scenarios: int


def confound_rows(
    store: ActivationStore,
    site: str,
    position: str,
    contrast: str,
    sides: Sides,
    slices: dict[str, np.ndarray],
    folds: Int[np.ndarray, "scenario"],
    readers: Readers,
) -> list[ConfoundRow]:
    """How much of each slice's mass-mean reader is a confound's direction, and what d′ is left without it.

    Confound directions come from all pairs of their own contrast, which share no scenario with these.
    """
    rows = store.rows("response")
    names = [c for c in dict.fromkeys(rows.contrast) if c and c != contrast and not c.startswith(NULLS)]
    differences = {}
    for name in names:
        if ((rows.contrast == name) & (rows.design == "contrast")).any():
            plan = layout(rows, name, str(store.path))
            differences[name] = read_sides(store, plan, position, site).difference
    if not differences:
        return []
    directions = {name: d.mean(axis=0) for name, d in differences.items()}
    chosen = {name: vector[None] for name, vector in directions.items()} | {ALL: np.stack(list(directions.values()))}
    found = []
    for domain, members in slices.items():
        own = readers.rows("mass-mean", domain, folds[members])
        part = sides.rows(members)
        before = _dprime(part, readers.direction[own])
        for name, confounds in chosen.items():
            after = _dprime(part, without(readers.direction[own], confounds))
            values = {"dprime": _plain(after), "retained": _plain(after / before if before > 0 else float("nan"))}
            if name != ALL:
                values["cosine"] = unbiased_cosine(part.difference, differences[name])
            found += [
                ConfoundRow(
                    domain=domain, site=site, confound=name, quantity=quantity, estimate=at, n_scenarios=len(members)
                )
                for quantity, at in values.items()
            ]
    return found


def factorial_rows(
    store: ActivationStore,
    site: str,
    position: str,
    contrast: str,
    plan: Layout,
    folds: Int[np.ndarray, "scenario"],
    readers: Readers,
) -> list[ConfoundRow]:
    """The 2×2 of caring and tone along the pooled mass-mean readers, by domain and pooled; empty without such pairs."""
    rows = store.rows("response")
    if not {WARM, PLAIN} <= set(rows[rows.contrast == contrast].design):
        return []
    warm, plain = (layout(rows, contrast, str(store.path), design=design) for design in (WARM, PLAIN))
    both = [s for s in warm.scenarios if s in plain.scenarios]
    at_warm, at_plain = ([p.scenarios.index(s) for s in both] for p in (warm, plain))
    own = readers.rows("mass-mean", _widest(plan), unseen(both, plan, folds))
    directions = readers.direction[own]
    cells = []
    for p, order in ((warm, at_warm), (plain, at_plain)):
        sides = read_sides(store, p, position, site).rows(np.asarray(order))
        cells.append([np.einsum("sd,sd->s", rows_, directions)[:, None] for rows_ in (sides.positive, sides.negative)])
    one = np.ones(1)
    domains = np.asarray([warm.domains[i] for i in at_warm])
    found = []
    for domain in [*dict.fromkeys(domains.tolist()), POOLED]:
        inside = np.flatnonzero((domains == domain) | (domain == POOLED))
        if len(inside) < 3:
            continue
        part = [Sides(positive=p[inside], negative=n[inside]) for p, n in cells]
        effects = factorial(part[0], part[1], one)
        for quantity in ("caring", "tone", "interaction"):
            found.append(
                ConfoundRow(
                    domain=domain,
                    site=site,
                    confound="2x2",
                    quantity=quantity,
                    estimate=getattr(effects, quantity),
                    n_scenarios=len(inside),
                )
            )
    return found


def retold(
    store: ActivationStore,
    site: str,
    position: str,
    contrast: str,
    plan: Layout,
    folds: Int[np.ndarray, "scenario"],
    readers: Readers,
    methods: tuple[str, ...],
) -> Cells:
    """Every set that retells the contrast (matched words, other languages), scored by the readers of all scenarios."""
    rows = store.rows("response")
    found: Cells = {}
    for name, design, language in _sets(rows[rows.contrast == contrast]):
        other = layout(rows, contrast, str(store.path), design=design, language=language)
        sides = read_sides(store, other, position, site)
        fold = unseen(other.scenarios, plan, folds)
        widest = _widest(plan)
        for method in methods:
            plus, minus = (
                by_fold(readers.scores(s), readers, method, widest, fold) for s in (sides.positive, sides.negative)
            )
            found[method, widest, name] = (
                float(auroc(plus[None], minus[None])[0]),
                float(dprime(plus[None], minus[None])[0]),
                len(other),
            )
    return found


def unseen(
    scenarios: tuple[str, ...] | list[str], plan: Layout, folds: Int[np.ndarray, "scenario"]
) -> Int[np.ndarray, "other"]:
    """For each scenario a fold whose readers have not seen it: its own in the main set, any where it is not there."""
    fold = dict(zip(plan.scenarios, folds.tolist(), strict=True))
    return np.asarray([fold.get(s, int(folds[0])) for s in scenarios], dtype=np.int64)


def _sets(rows: pd.DataFrame) -> Iterator[tuple[str, str, str | None]]:
    for design in dict.fromkeys(rows.design):
        if design == "matched":
            yield "matched", design, None
        elif design == "translation":
            for language in sorted(set(rows[rows.design == design].language)):
                yield f"translation-{language}", design, str(language)


def _widest(plan: Layout) -> str:
    return plan.slices()[-1]


def _dprime(part: Sides, directions: Float[np.ndarray, "scenario d"]) -> float:
    plus, minus = (np.einsum("sd,sd->s", s, directions)[None] for s in (part.positive, part.negative))
    return float(dprime(plus, minus)[0])


def _plain(value: float) -> Estimate:
    return Estimate(value=value, low=float("nan"), high=float("nan"))
