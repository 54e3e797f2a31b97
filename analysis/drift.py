"""What a training step did to the direction: size kept, direction kept, behaviour kept — per layer, band and domain.

METHOD: three gauges (raw, τ, σ) because a pre-norm block reads h/rms(h) and raw lengths do not compare across
checkpoints; sizes unbiased (products of different scenarios only); frozen readings cross-fitted, because scoring the
parent on its own training rows manufactures erosion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from activations.errors import InputError
from activations.store import ActivationStore
from probes.evaluate import mass_mean_scores
from probes.geometry import Product, cosine, cross_product, signed_root
from probes.inference import (
    NOT_ESTIMABLE,
    Estimate,
    exponential,
    holm,
    jackknife_interval,
    mean_interval,
    ratio_interval,
    root_ratio,
)
from probes.sides import POOLED, Layout, Sides, margins, read_sides
from probes.sites import POSITION, neutral_tau

GAUGES = ("raw", "tau", "sd")
BAND = "band"
NUMERICAL = 1e-4  # retention this close to 1 is rounding between two captures, not a change


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SiteProducts:
    """The unbiased products of one site, domain and gauge, parent (a) and child (b)."""

    aa: Product
    bb: Product
    ab: Product
    frozen_scale: Product  # multiplies ab/aa: the frozen gap is measured in the child's own unit


def band_layers(n_layers: int, band: tuple[float, float]) -> list[int]:
    """The blocks of the declared band: those whose share of depth (l + 1)/n lies in [low, high].

    A shallow model whose band holds no block gets the one nearest its middle.
    """
    low, high = band
    inside = [layer for layer in range(n_layers) if low <= (layer + 1) / n_layers <= high]
    return inside or [min(range(n_layers), key=lambda layer: abs((layer + 1) / n_layers - (low + high) / 2))]


def edge_drift(
    parent: ActivationStore,
    child: ActivationStore,
    plan: Layout,
    folds: Int[np.ndarray, "scenario"],
    band: Sequence[int],
    advance: Callable[[int], None],
) -> pd.DataFrame:
    """Rows of drift.csv for one edge, without the edge's own columns.

    Args:
        parent, child: the two checkpoints' activations of the same texts.
        plan: which texts make up which scenario.
        folds: the fold of every scenario.
        band: the declared layers.
        advance: told 1 after every site.

    Raises:
        InputError: the two stores do not hold the same texts.
    """
    if parent.sites != child.sites or list(parent.rows("response").text_id) != list(child.rows("response").text_id):
        raise InputError(
            f"holds other texts or sites than {parent.path.name}", where=str(child.path), mend="run capture again"
        )
    products: dict[tuple[str, str], dict[int, SiteProducts]] = {}
    for number, site in enumerate(parent.sites):
        a, b = read_sides(parent, plan, POSITION, site), read_sides(child, plan, POSITION, site)
        taus = neutral_tau(parent, site), neutral_tau(child, site)
        for domain in plan.slices():
            members = plan.members(domain)
            for gauge, found in _gauges(a.rows(members), b.rows(members), folds[members], taus).items():
                products.setdefault((domain, gauge), {})[number - 1] = found
        advance(1)
    rows: list[dict[str, Any]] = []
    for (domain, gauge), by_layer in products.items():
        for layer, found in by_layer.items():
            rows.append({"domain": domain, "layer": str(layer), "gauge": gauge} | _layer_row(found))
        rows.append({"domain": domain, "layer": BAND, "gauge": gauge} | _band_row([by_layer[i] for i in band]))
    return _adjusted(pd.DataFrame(rows))


def margin_change(
    parent: ActivationStore, child: ActivationStore, plan: Layout
) -> dict[str, tuple[Estimate, Estimate]]:
    """ΔB per slice: (in SDs of the parent's per-scenario margins, in nats a token); the difference is paired."""
    before, after = margins(parent, plan), margins(child, plan)
    found = {}
    for domain in plan.slices():
        members = plan.members(domain)
        change = after[members] - before[members]
        spread = float(before[members].std(ddof=1))
        in_sd = mean_interval(change / spread) if spread > 0 else NOT_ESTIMABLE
        found[domain] = (in_sd, mean_interval(change))
    return found


def neutral_perplexity(store: ActivationStore) -> float:
    """exp of the mean over neutral texts of the negative log-prob a token."""
    return float(np.exp(-store.mean_logprob("neutral").mean()))


def within_variance(positive: Float[np.ndarray, "scenario"], negative: Float[np.ndarray, "scenario"]) -> Product:
    """σ²: the mean of the two within-side variances of held-out scores, with its delete-one values."""
    sides = np.stack([positive, negative])
    n = sides.shape[1]
    total, square = sides.sum(axis=1, keepdims=True), (sides**2).sum(axis=1, keepdims=True)
    without = ((square - sides**2) - (total - sides) ** 2 / (n - 1)) / (n - 2)
    return Product(value=float(sides.var(axis=1, ddof=1).mean()), without=without.mean(axis=0))


def _gauges(
    a: Sides, b: Sides, folds: Int[np.ndarray, "scenario"], taus: tuple[float, float]
) -> dict[str, SiteProducts]:
    one = np.ones((1, len(folds)))
    da, db = a.difference, b.difference
    aa, bb, ab = cross_product(da, da), cross_product(db, db), cross_product(da, db)
    # Spread along each checkpoint's own held-out direction, and in the child along the parent's.
    var_a, var_b, var_frozen = (
        within_variance(*(s[0] for s in mass_mean_scores(train, test, folds, one)))
        for train, test in ((a, a), (b, b), (a, b))
    )
    unit = Product(value=1.0, without=np.ones(len(folds)))
    tau_a, tau_b = taus
    return {
        "raw": SiteProducts(aa=aa, bb=bb, ab=ab, frozen_scale=unit),
        "tau": SiteProducts(
            aa=aa.scaled(tau_a**-2), bb=bb.scaled(tau_b**-2), ab=ab.scaled(1 / (tau_a * tau_b)), frozen_scale=unit
        ),
        "sd": SiteProducts(
            aa=_over(aa, var_a), bb=_over(bb, var_b), ab=_over(ab, var_a), frozen_scale=_root(_over(var_a, var_frozen))
        ),
    }


def _layer_row(found: SiteProducts) -> dict[str, float]:
    frozen = ratio_interval(_times(found.ab, found.frozen_scale), found.aa)
    return _row(
        signed_root(found.aa.value),
        signed_root(found.bb.value),
        root_ratio(found.bb, found.aa),
        frozen,
        _cosine_estimate([found]),
    )


def _band_row(layers: list[SiteProducts]) -> dict[str, float]:
    retention = NOT_ESTIMABLE
    if all((p.value > 0) and (p.without > 0).all() for found in layers for p in (found.aa, found.bb)):
        logs = [
            Product(
                value=(np.log(f.bb.value) - np.log(f.aa.value)) / 2,
                without=(np.log(f.bb.without) - np.log(f.aa.without)) / 2,
            )
            for f in layers
        ]
        retention = exponential(jackknife_interval(_mean(logs)))
    else:
        # The log is undefined where nothing is left; the ratio of band means still has Fieller's interval.
        retention = root_ratio(_mean([f.bb for f in layers]), _mean([f.aa for f in layers]))
    frozen = NOT_ESTIMABLE
    if all(f.aa.value > 0 and (f.aa.without > 0).all() for f in layers):
        ratios = [_times(_over(f.ab, f.aa), f.frozen_scale) for f in layers]
        frozen = jackknife_interval(_mean(ratios), null=1.0)
    before = float(np.mean([signed_root(f.aa.value) for f in layers]))
    after = float(np.mean([signed_root(f.bb.value) for f in layers]))
    return _row(before, after, retention, frozen, _cosine_estimate(layers))


def _cosine_estimate(layers: list[SiteProducts]) -> Estimate:
    for found in layers:
        for size in (found.aa, found.bb):  # no cosine with a vector whose length is not above 0
            if not jackknife_interval(size).low > 0:
                return NOT_ESTIMABLE
    return jackknife_interval(_mean([cosine(f.ab, f.aa, f.bb) for f in layers]), null=1.0)


def _row(before: float, after: float, retention: Estimate, frozen: Estimate, angle: Estimate) -> dict[str, float]:
    p = 1.0 if abs(retention.value - 1) < NUMERICAL else retention.p
    return {
        "size_parent": before,
        "size_child": after,
        "p": p,
        "retention": retention.value,
        "retention_low": retention.low,
        "retention_high": retention.high,
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


def _mean(products: Sequence[Product]) -> Product:
    return Product(
        value=float(np.mean([p.value for p in products])), without=np.mean([p.without for p in products], axis=0)
    )


def _over(top: Product, bottom: Product) -> Product:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = top.value / bottom.value if bottom.value else float("nan")
        return Product(value=float(value), without=top.without / bottom.without)


def _times(a: Product, b: Product) -> Product:
    return Product(value=a.value * b.value, without=a.without * b.without)


def _root(a: Product) -> Product:
    return Product(value=float(np.sqrt(a.value)), without=np.sqrt(a.without))
