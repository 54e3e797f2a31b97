"""What a training step did to the direction: rows of drift.csv and edges.csv — per layer, band and domain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from activations.study import SmallestEffect
from analysis.edge import (
    BandSite,
    EdgeView,
    SiteProducts,
    band_site,
    deviation,
    mean,
    mean_product,
    over,
    site_alignment,
    site_gauges,
    times,
)
from analysis.states import DOWN, FLAT, LEVEL, UNCLEAR, UP, Interval, Limits, Region, limits, regions, state
from probes.geometry import Product, cosine, signed_root
from probes.inference import (
    NOT_ESTIMABLE,
    Estimate,
    exponential,
    holm,
    jackknife_error,
    jackknife_interval,
    mean_interval,
    ratio_interval,
    root_ratio,
    smallest_detectable,
)
from probes.sides import POOLED

BAND = "band"
NUMERICAL = 1e-4  # retention this close to 1 is rounding between two captures, not a change
NULL_DIRECTIONS = 1000
PERPLEXITY_LIMIT = 1.25  # a child more surprised than this by neutral text is damaged as a whole (gate G7)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class EdgeFound:
    """A step's rows, without the step's own columns, and what branches are compared by.

    `changes` holds, by quantity (log_R, F, B) and domain, the change with its delete-one values.
    """

    drift: pd.DataFrame
    edges: pd.DataFrame
    changes: dict[tuple[str, str], Product]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Band:
    """A domain's products over the sites of the band."""

    gauges: dict[str, list[SiteProducts]]
    more: list[BandSite]


def measure_edge(
    view: EdgeView,
    smallest: SmallestEffect,
    advance: Callable[[int], None] = lambda _: None,
    *,
    by_layer: bool = True,
    pooled: bool = True,
) -> EdgeFound:
    """Everything that is said of a step, from parent and child on the same texts.

    Args:
        view: the step.
        smallest: the smallest changes that matter; they decide what is flat.
        advance: told 1 after every site.
        by_layer: without it `drift` holds the band's rows only.
        pooled: without it there is no row over all domains.
    """
    plan = view.plan
    slices = [d for d in plan.slices() if pooled or d != POOLED or len(set(plan.domains)) == 1]
    members = {domain: plan.members(domain) for domain in slices}
    weights = np.random.default_rng([view.seed, 2]).normal(size=(NULL_DIRECTIONS, 2 * len(plan)))
    weights = weights.reshape(NULL_DIRECTIONS, 2, len(plan))
    rows: list[dict[str, Any]] = []
    bands = {domain: _Band(gauges={}, more=[]) for domain in slices}
    for site in view.sites:
        inside = site.layer in view.band
        alignment = site_alignment(site) if inside else None
        for domain, chosen in members.items():
            folds = view.folds[chosen]
            gauges, spread = site_gauges(site.parent.rows(chosen), site.child.rows(chosen), folds, site.taus)
            for gauge, found in gauges.items():
                if by_layer:
                    rows.append({"domain": domain, "layer": str(site.layer), "gauge": gauge} | _layer_row(found))
                if inside:
                    bands[domain].gauges.setdefault(gauge, []).append(found)
            if inside:
                drawn = weights[:, :, chosen].reshape(NULL_DIRECTIONS, -1)
                bands[domain].more.append(band_site(site, chosen, folds, spread, alignment, drawn))
        advance(1)
    edges: list[dict[str, Any]] = []
    changes: dict[tuple[str, str], Product] = {}
    n_domains = len([d for d in slices if d != POOLED])
    for domain in slices:
        band = bands[domain]
        for gauge, layers in band.gauges.items():
            rows.append({"domain": domain, "layer": BAND, "gauge": gauge} | _band_row(layers))
        family = 1 if domain == POOLED else n_domains
        about = {"domain": domain, "n_scenarios": len(members[domain])}
        edges += [about | row for row in _edge_rows(view, band, members[domain], smallest, family)]
        changes |= {(name, domain): found for name, found in _changes(view, band, members[domain]).items()}
    return EdgeFound(drift=_adjusted(pd.DataFrame(rows)), edges=pd.DataFrame(edges), changes=changes)


def retention(layers: Sequence[SiteProducts]) -> Interval:
    """Band retention: exp of the mean over layers of half the log of D²_B/D²_A.

    Where a squared size (or one of its delete-one values) is not positive its log is undefined, as where nothing is
    left; the ratio of band means still has Fieller's interval.
    """
    logs = _log_retention(layers)
    if logs is not None:
        return lambda level: exponential(jackknife_interval(logs, level=level))
    top, bottom = mean([f.bb for f in layers]), mean([f.aa for f in layers])
    return lambda level: root_ratio(top, bottom, level=level)


def detectable_loss(layers: Sequence[SiteProducts], along: Sequence[np.ndarray], family: int) -> float:
    """The smallest loss of retention that this step's noise lets 80 of 100 studies find (METHOD §3, power).

    The loss is one of gain, as the known damage is: every child difference keeps the share λ of what lies along their
    mean, λ such that retention is r; r solves log r = −(t_level + t_.80)·SE(log r), the error taken at r itself. (The
    error at the retention that was found would refuse a large loss, found clearly, for want of power; the error at no
    change would promise too much, because parent and child share most of their noise and it cancels less and less as
    the child's signal shrinks. A loss of the mean alone, its scatter along the direction kept, takes more scenarios.)

    Args:
        layers: the band's products in τ.
        along: by layer, each child difference's product with their mean.
        family: tests that share the error rate.

    Returns:
        1 − r; 1 where no loss is found that often.
    """
    n = len(along[0])
    kept = 1.0
    for _ in range(20):
        planted = [_with_size(f, g, kept) for f, g in zip(layers, along, strict=True)]
        logs = _log_retention(planted)
        if logs is None:
            return 1.0
        error = jackknife_error(logs.without)
        before, kept = kept, float(np.exp(-smallest_detectable(error, n - 1, level=1 - (1 - LEVEL) / family)))
        if abs(before - kept) < 1e-4:
            break
    return 1 - kept


def _with_size(found: SiteProducts, along: np.ndarray, kept: float) -> SiteProducts:
    """The same site had the child's differences, along their mean, the gain that leaves this retention."""
    n, length = len(along), float(along.mean())  # |δ̄|², noise and all
    total, own = along.sum(), np.square(along)
    mine = Product(  # the unbiased square along δ̄, and without each scenario
        value=float(total**2 - own.sum()) / (n * (n - 1) * length),
        without=((total - along) ** 2 - (own.sum() - own)) / ((n - 1) * (n - 2) * length),
    )
    more = max((kept**2 * found.aa.value - found.bb.value) / mine.value, -1.0)  # λ² − 1
    child = Product(value=found.bb.value + more * mine.value, without=found.bb.without + more * mine.without)
    return SiteProducts(aa=found.aa, bb=child, ab=found.ab, frozen_scale=found.frozen_scale)


def _log_retention(layers: Sequence[SiteProducts]) -> Product | None:
    if not all((p.value > 0) and (p.without > 0).all() for f in layers for p in (f.aa, f.bb)):
        return None
    return mean(
        [
            Product(
                value=float(np.log(f.bb.value) - np.log(f.aa.value)) / 2,
                without=(np.log(f.bb.without) - np.log(f.aa.without)) / 2,
            )
            for f in layers
        ]
    )


def _reading(layers: Sequence[tuple[Product, Product, Product]]) -> Product | None:
    """Mean over layers of top/bottom·scale; None where a bottom is not positive."""
    if not layers or not all(bottom.value > 0 and (bottom.without > 0).all() for _, bottom, _ in layers):
        return None
    return mean([times(over(top, bottom), scale) for top, bottom, scale in layers])


def _one(product: Product) -> Product:
    return Product(value=1.0, without=np.ones_like(product.without))


def _readings(band: _Band) -> dict[str, Product | None]:
    """Frozen retention in τ: forward (parent's direction reads the child), reverse, and aligned on neutral text."""
    tau = band.gauges["tau"]
    aligned = [m.aligned for m in band.more if m.aligned is not None]
    return {
        "F": _reading([(f.ab, f.aa, f.frozen_scale) for f in tau]),
        "F_reverse": _reading([(f.ab, f.bb, f.frozen_scale) for f in tau]),
        "F_aligned": _reading([(ab, aa, _one(aa)) for ab, aa in aligned]),
    }


def _margin_changes(view: EdgeView, members: np.ndarray) -> dict[str, Product]:
    """The margin's mean change in SDs of the parent's margins, in nats, and the same of the PMI margin.

    The SD is an estimate too: left out of the interval, a true change of −.5 SD is covered 84 times in 100.
    """
    found = {}
    for name, pair in (("B", view.margins), ("B_pmi", view.pmi)):
        if pair is None:
            continue
        before, after = pair[0][members], pair[1][members]
        change = mean_product(after - before)
        found[name] = over(change, deviation(before))
        if name == "B":
            found["B_nats"] = change
    return found


def _detectable_margin(view: EdgeView, members: np.ndarray, family: int) -> float:
    """The smallest change of B found in 80 of 100 studies: m = T·√(SE² + m²·v), v the SD's own relative variance."""
    before, after = view.margins[0][members], view.margins[1][members]
    spread, change = deviation(before), mean_product(after - before)
    if not spread.value > 0:
        return float("nan")
    found = smallest_detectable(1.0, len(members) - 1, level=1 - (1 - LEVEL) / family)
    rest = 1 - (found * jackknife_error(spread.without) / spread.value) ** 2
    return found * jackknife_error(change.without) / spread.value / float(np.sqrt(rest)) if rest > 0 else float("inf")


def _edge_rows(
    view: EdgeView, band: _Band, members: np.ndarray, smallest: SmallestEffect, family: int
) -> list[dict[str, Any]]:
    region = regions(smallest)
    tau = band.gauges["tau"]
    rows: list[dict[str, Any]] = []

    def add(quantity: str, interval: Interval, within: Region | None, *, size: bool = False) -> Limits:
        found = limits(interval, family)
        said = state(found, within, size=size) if within is not None else ""
        rows.append(edge_row(quantity, found, said))
        return found

    add("R_tau", retention(tau), region["ratio"], size=True)
    add("R_sd", retention(band.gauges["sd"]), region["ratio"], size=True)
    for name, reading in _readings(band).items():
        add(name, _around(reading, null=1.0), region["ratio"])
    angle = _cosine(tau)
    add("cosine", _around(angle, null=1.0), None)
    add("sigma", _sigma(band.more), region["ratio"])
    add("midpoint", _of_mean(np.mean([m.midpoint for m in band.more], axis=0)), region["position"])
    _position(band, region["position"], family, rows)
    margins = _margin_changes(view, members)
    for name, change in margins.items():
        add(name, _around(change, null=0.0), region["margin"] if name != "B_nats" else None)
    signal = mean([f.aa for f in tau])
    rows.append(edge_row("signal", limits(lambda level: jackknife_interval(signal, level=level), family), ""))
    ratio = view.perplexities[1] / view.perplexities[0]
    said = UP if ratio > PERPLEXITY_LIMIT else DOWN if ratio < 1 / PERPLEXITY_LIMIT else FLAT
    rows.append(edge_row("perplexity", _point(ratio), said))
    rows.append(edge_row("R_mde", _point(detectable_loss(tau, [m.along for m in band.more], family)), ""))
    rows.append(edge_row("B_mde", _point(_detectable_margin(view, members, family)), ""))
    return rows


def _position(band: _Band, region: Region, family: int, rows: list[dict[str, Any]]) -> None:
    """P moved only if it leaves its region for certain and nearly all random directions moved less that way."""
    values = [m.position for m in band.more if m.position is not None]
    nulls = [m.position_null for m in band.more if m.position_null is not None]
    if not values or not nulls:
        return
    found = limits(_of_mean(np.mean(values, axis=0)), family)
    null = np.mean(nulls, axis=0)
    percentile = float((null < found.value).mean() + (null == found.value).mean() / 2)
    said = state(found, region)
    beyond = percentile < 0.025 or percentile > 0.975
    if said in (DOWN, UP) and not (beyond and not region.low <= found.value <= region.high):
        said = UNCLEAR
    rows.append(edge_row("P", found, said) | {"null_percentile": percentile})


def _changes(view: EdgeView, band: _Band, members: np.ndarray) -> dict[str, Product]:
    n = len(members)
    missing = Product(value=float("nan"), without=np.full(n, np.nan))
    return {
        "log_R": _log_retention(band.gauges["tau"]) or missing,
        "F": _readings(band)["F"] or missing,
        "B": _margin_changes(view, members)["B"],
    }


def edge_row(quantity: str, found: Limits, said: str) -> dict[str, Any]:
    """A row of edges.csv without the columns of the step, domain and contrast."""
    row = {"quantity": quantity, "null_percentile": float("nan"), "state": said}
    names = ("value", "low", "high", "low_90", "high_90", "low_adjusted", "high_adjusted")
    return row | {name: getattr(found, name) for name in names}


def _point(value: float) -> Limits:
    nothing = dict.fromkeys(("low", "high", "low_90", "high_90", "low_adjusted", "high_adjusted"), float("nan"))
    return Limits(value=value, **nothing)


def _around(product: Product | None, *, null: float) -> Interval:
    return lambda level: NOT_ESTIMABLE if product is None else jackknife_interval(product, null=null, level=level)


def _of_mean(values: np.ndarray) -> Interval:
    return lambda level: mean_interval(values, level=level)


def _sigma(more: Sequence[BandSite]) -> Interval:
    if not all(m.sigma.value > 0 and (m.sigma.without > 0).all() for m in more):
        return lambda _level: NOT_ESTIMABLE
    logs = mean([Product(value=float(np.log(m.sigma.value)) / 2, without=np.log(m.sigma.without) / 2) for m in more])
    return lambda level: exponential(jackknife_interval(logs, level=level))


def _layer_row(found: SiteProducts) -> dict[str, float]:
    frozen = ratio_interval(times(found.ab, found.frozen_scale), found.aa)
    size = root_ratio(found.bb, found.aa)
    return _row(signed_root(found.aa.value), signed_root(found.bb.value), size, frozen, [found])


def _band_row(layers: list[SiteProducts]) -> dict[str, float]:
    frozen = _around(_reading([(f.ab, f.aa, f.frozen_scale) for f in layers]), null=1.0)(LEVEL)
    before = float(np.mean([signed_root(f.aa.value) for f in layers]))
    after = float(np.mean([signed_root(f.bb.value) for f in layers]))
    return _row(before, after, retention(layers)(LEVEL), frozen, layers)


def _cosine(layers: Sequence[SiteProducts]) -> Product | None:
    for found in layers:
        for size in (found.aa, found.bb):  # no cosine with a vector whose length is not above 0
            if not jackknife_interval(size).low > 0:
                return None
    return mean([cosine(f.ab, f.aa, f.bb) for f in layers])


def _row(
    before: float, after: float, kept: Estimate, frozen: Estimate, layers: Sequence[SiteProducts]
) -> dict[str, float]:
    angle = _around(_cosine(layers), null=1.0)(LEVEL)
    return {
        "size_parent": before,
        "size_child": after,
        "p": 1.0 if abs(kept.value - 1) < NUMERICAL else kept.p,
        "retention": kept.value,
        "retention_low": kept.low,
        "retention_high": kept.high,
        "frozen": frozen.value,
        "frozen_low": frozen.low,
        "frozen_high": frozen.high,
        "cosine": angle.value,
        "cosine_low": angle.low,
        "cosine_high": angle.high,
    }


def _adjusted(rows: pd.DataFrame) -> pd.DataFrame:
    rows["p_adjusted"] = np.nan
    for _, part in rows.groupby("gauge"):
        band = part[(part.layer == BAND) & (part.domain != POOLED)]
        rows.loc[band.index, "p_adjusted"] = holm(band.p.to_numpy())
        pooled = part[(part.layer == BAND) & (part.domain == POOLED)]
        rows.loc[pooled.index, "p_adjusted"] = pooled.p
        layers = part[(part.layer != BAND) & part.p.notna()]
        if len(layers):
            rows.loc[layers.index, "p_adjusted"] = stats.false_discovery_control(layers.p.to_numpy())
    return rows
