"""Steps against each other: siblings (difference-in-differences), one domain against the others, seeds, doses.

METHOD §3: (g_H − g_M) − (g_C − g_M) = g_H − g_C, the parent cancels. "Only in this domain" needs an interaction, never
"significant here, not there". "Training of this kind does it" needs seeds as the unit.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from activations.lineage import Checkpoint
from analysis.drift import NUMERICAL
from probes.geometry import Product
from probes.inference import (
    NOT_ESTIMABLE,
    Estimate,
    holm,
    jackknife_error,
    jackknife_interval,
    mean_interval,
    t_limits,
    two_sided,
)
from probes.sides import POOLED

QUANTITIES = ("log_R", "F", "B")
SEEDS = 3
Changes = Mapping[tuple[str, str], Product]


def difference(a: Product, b: Product) -> Product:
    """a − b of the same scenarios; what is below numerical tolerance is no difference."""
    gap = Product(value=a.value - b.value, without=a.without - b.without)
    if abs(gap.value) < NUMERICAL:
        return Product(value=0.0, without=np.zeros_like(gap.without))
    return gap


def interaction(changes: Mapping[str, Product], domain: str) -> Estimate:
    """A domain's change minus the mean of the other domains' (Welch–Satterthwaite: their scenarios are others)."""
    others = [p for name, p in changes.items() if name not in (domain, POOLED)]
    own = changes[domain]
    if not others or not all(np.isfinite(p.value) and np.isfinite(p.without).all() for p in (own, *others)):
        return NOT_ESTIMABLE
    value = own.value - float(np.mean([p.value for p in others]))
    parts = [(jackknife_error(own.without) ** 2, len(own.without))]
    parts += [(jackknife_error(p.without) ** 2 / len(others) ** 2, len(p.without)) for p in others]
    variance = sum(v for v, _ in parts)
    if variance == 0:
        return Estimate(value=value, low=value, high=value, p=1.0 if abs(value) < NUMERICAL else 0.0)
    df = variance**2 / sum(v**2 / (n - 1) for v, n in parts)
    found = t_limits(value, float(np.sqrt(variance)), df)
    return Estimate(value=value, low=found.low, high=found.high, p=two_sided(value / np.sqrt(variance), df))


def branch_rows(
    parent: str, children: Sequence[Checkpoint], changes: Mapping[str, Changes], domains: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of branches.csv for the children of one parent; controls stand by themselves.

    Args:
        parent: its name.
        children: its children in order.
        changes: by child, what `measure_edge` found.
        domains: the slices, pooled among them.
    """
    rows: list[dict[str, Any]] = []
    for child in children:
        rows += _interactions(parent, child.name, "", {k: dict(v) for k, v in _split(changes[child.name]).items()})
    for a, b in combinations([c for c in children if c.stage != "control"], 2):
        between = {
            quantity: {d: difference(changes[a.name][quantity, d], changes[b.name][quantity, d]) for d in domains}
            for quantity in QUANTITIES
        }
        for quantity, by_domain in between.items():
            found = {d: jackknife_interval(p) for d, p in by_domain.items()}
            rows += _rows(parent, a.name, b.name, quantity, "scenario", found)
        rows += _interactions(parent, a.name, b.name, between)
    rows += _by_seed(parent, children, changes, domains)
    return rows


def dose_rows(
    parent: str, children: Sequence[Checkpoint], changes: Mapping[str, Changes], domains: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of doses.csv: children that are one adapter at several scales, or one kind of edit at several strengths.

    `monotone` is Spearman's rank correlation of the dose with the change, over the doses and their parent at dose 0.
    """
    series: dict[str, list[tuple[float, str]]] = {}
    for child in children:
        named = _dose(child)
        if named is not None:
            series.setdefault(named[0], []).append((named[1], child.name))
    rows = []
    for name, members in series.items():
        if len(members) < 2:
            continue
        ordered = sorted(members)
        for quantity in QUANTITIES:
            for domain in domains:
                found = [jackknife_interval(changes[member][quantity, domain]) for _, member in ordered]
                start = 1.0 if quantity == "F" else 0.0
                values = [start, *(f.value for f in found)]
                doses = [0.0, *(dose for dose, _ in ordered)]
                rank = float(stats.spearmanr(doses, values).statistic) if np.isfinite(values).all() else float("nan")
                for (dose, member), one in zip(ordered, found, strict=True):
                    about = {"parent": parent, "series": name, "child": member, "dose": dose, "domain": domain}
                    limits = {"value": one.value, "low": one.low, "high": one.high}
                    rows.append(about | {"quantity": quantity} | limits | {"monotone": rank})
    return rows


def _dose(child: Checkpoint) -> tuple[str, float] | None:
    if child.adapter is not None:
        return f"adapter {child.adapter.path.name}", child.adapter.scale
    if child.edit is not None and child.edit.kind in ("attenuate", "rotate"):
        return child.edit.kind, child.edit.amount
    return None


def _split(changes: Changes) -> dict[str, dict[str, Product]]:
    found: dict[str, dict[str, Product]] = {}
    for (quantity, domain), product in changes.items():
        found.setdefault(quantity, {})[domain] = product
    return found


def _interactions(
    parent: str, a: str, b: str, by_quantity: Mapping[str, Mapping[str, Product]]
) -> list[dict[str, Any]]:
    rows = []
    for quantity, by_domain in by_quantity.items():
        names = [d for d in by_domain if d != POOLED]
        if len(names) > 1:
            found = {d: interaction(by_domain, d) for d in names}
            rows += _rows(parent, a, b, f"{quantity} interaction", "scenario", found)
    return rows


def _by_seed(
    parent: str, children: Sequence[Checkpoint], changes: Mapping[str, Changes], domains: Sequence[str]
) -> list[dict[str, Any]]:
    """Kinds of training with three seeds or more: each kind's mean change, and kinds against each other (Welch)."""
    kinds: dict[str, list[str]] = {}
    for child in children:
        if child.stage != "control" and child.seed is not None and child.data_domain:
            kinds.setdefault(child.data_domain, []).append(child.name)
    kinds = {kind: names for kind, names in kinds.items() if len(names) >= SEEDS}
    rows = []
    for quantity in QUANTITIES:
        values = {
            (kind, d): np.asarray([changes[name][quantity, d].value for name in names])
            for kind, names in kinds.items()
            for d in domains
        }
        null = 1.0 if quantity == "F" else 0.0
        for kind in kinds:
            found = {d: mean_interval(values[kind, d] - null) for d in domains}
            rows += _rows(parent, kind, "", f"{quantity} change" if null == 0 else f"{quantity} − 1", "seed", found)
        for a, b in combinations(kinds, 2):
            found = {d: _welch(values[a, d], values[b, d]) for d in domains}
            rows += _rows(parent, a, b, quantity, "seed", found)
    return rows


def _welch(a: np.ndarray, b: np.ndarray) -> Estimate:
    if not np.isfinite([*a, *b]).all() or a.std() + b.std() == 0:
        return NOT_ESTIMABLE
    found = stats.ttest_ind(a, b, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return Estimate(value=float(a.mean() - b.mean()), low=float(low), high=float(high), p=float(found.pvalue))


def _rows(parent: str, a: str, b: str, quantity: str, unit: str, found: Mapping[str, Estimate]) -> list[dict[str, Any]]:
    names = [d for d in found if d != POOLED]
    adjusted = dict(zip(names, holm(np.asarray([found[d].p for d in names])), strict=True))
    return [
        {
            "parent": parent,
            "child_a": a,
            "child_b": b,
            "domain": domain,
            "quantity": quantity,
            "unit": unit,
            "difference": one.value,
            "low": one.low,
            "high": one.high,
            "p_adjusted": adjusted.get(domain, one.p),
        }
        for domain, one in found.items()
    ]
