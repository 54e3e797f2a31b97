"""What is measured at one site of a training step: parent and child on the same texts, products with delete-one values.

METHOD §3: three gauges (raw, τ, σ), because a pre-norm block reads h/rms(h) and raw lengths do not compare across
checkpoints; sizes unbiased (products of different scenarios only); whatever reads along the parent's direction is
cross-fitted, because scoring the parent on its own training rows manufactures erosion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from activations.errors import InputError
from activations.store import ActivationStore
from probes.geometry import Alignment, Product, align, cross_product
from probes.sides import Layout, Sides, margins, null_margins, read_prompts, read_sides
from probes.sites import POSITION, neutral_tau

GAUGES = ("raw", "tau", "sd")

NEUTRAL_POSITIONS = ("text_mean", "text_last")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SiteView:
    """One site of a step: the sides of every scenario in both checkpoints, and what only the band needs."""

    layer: int
    parent: Sides
    child: Sides
    taus: tuple[float, float]
    prompts: tuple[Float[np.ndarray, "scenario d"], Float[np.ndarray, "scenario d"]] | None = None
    neutral: tuple[Float[np.ndarray, "text d"], Float[np.ndarray, "text d"]] | None = None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class EdgeView:
    """A training step as arrays: where they come from, a store or a simulation, the statistics cannot tell."""

    plan: Layout
    folds: Int[np.ndarray, "scenario"]
    band: Sequence[int]
    sites: Iterator[SiteView]
    margins: tuple[Float[np.ndarray, "scenario"], Float[np.ndarray, "scenario"]]
    pmi: tuple[Float[np.ndarray, "scenario"], Float[np.ndarray, "scenario"]] | None
    perplexities: tuple[float, float]
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SiteProducts:
    """The unbiased products of one site, domain and gauge, parent (a) and child (b), in that gauge's unit."""

    aa: Product
    bb: Product
    ab: Product
    frozen_scale: Product  # multiplies ab/aa: the frozen gap is measured in the child's own unit


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class BandSite:
    """What one site and domain of the band adds to the gauges: spread, midpoint, position, and the aligned reading."""

    sigma: Product  # child's within-side variance over the parent's, each along its own direction and in τ
    midpoint: Float[np.ndarray, "scenario"]  # shift of the sides' midpoint along the parent's direction, SDs
    position: Float[np.ndarray, "scenario"] | None  # shift at the last prompt token, SDs of the parent's prompts
    position_null: Float[np.ndarray, "draw"] | None  # the same along random directions of the texts' covariance
    along: Float[np.ndarray, "scenario"]  # of every child difference: its product with their mean, τ²
    aligned: tuple[Product, Product] | None  # ab and aa within the neutral texts' subspace, child turned onto parent


def band_layers(n_layers: int, band: tuple[float, float]) -> list[int]:
    """The blocks of the declared band: those whose share of depth (l + 1)/n lies in [low, high].

    A shallow model whose band holds no block gets the one nearest its middle.
    """
    low, high = band
    inside = [layer for layer in range(n_layers) if low <= (layer + 1) / n_layers <= high]
    return inside or [min(range(n_layers), key=lambda layer: abs((layer + 1) / n_layers - (low + high) / 2))]


def neutral_perplexity(store: ActivationStore) -> float:
    """exp of the mean over neutral texts of the negative log-prob a token."""
    return float(np.exp(-store.mean_logprob("neutral").mean()))


def read_edge(
    parent: ActivationStore,
    child: ActivationStore,
    plan: Layout,
    folds: Int[np.ndarray, "scenario"],
    band: Sequence[int],
    *,
    contrast: str,
    seed: int = 0,
    child_plan: Layout | None = None,
) -> EdgeView:
    """A step from two stores; sites are read as they are asked for, one at a time.

    Args:
        parent, child: the two checkpoints' activations of the same texts.
        plan: which texts make up which scenario.
        folds: the fold of every scenario.
        band: the declared layers.
        contrast: the plan's contrast.
        child_plan: the same scenarios where the child holds them among other texts.

    Raises:
        InputError: the two stores do not hold the same texts.
    """
    theirs = child_plan or plan
    same = child_plan is not None or list(parent.rows("response").text_id) == list(child.rows("response").text_id)
    if parent.sites != child.sites or not same or theirs.scenarios != plan.scenarios:
        raise InputError(
            f"holds other texts or sites than {parent.path.name}", where=str(child.path), mend="run capture again"
        )
    both = ((parent, plan), (child, theirs))
    raw = margins(parent, plan), margins(child, theirs)
    pmi = None
    if "null_prompt" in parent.kinds and "null_prompt" in child.kinds:
        pmi = (raw[0] - null_margins(parent, plan, contrast), raw[1] - null_margins(child, theirs, contrast))

    def sites() -> Iterator[SiteView]:
        for number, site in enumerate(parent.sites):
            inside = number - 1 in band
            a, b = (read_sides(store, where, POSITION, site) for store, where in both)
            prompts = [read_prompts(store, where, contrast, site) for store, where in both] if inside else [None, None]
            yield SiteView(
                layer=number - 1,
                parent=a,
                child=b,
                taus=(neutral_tau(parent, site), neutral_tau(child, site)),
                prompts=(prompts[0], prompts[1]) if prompts[0] is not None and prompts[1] is not None else None,
                neutral=(neutral_rows(parent, site), neutral_rows(child, site)) if inside else None,
            )

    return EdgeView(
        plan=plan,
        folds=folds,
        band=band,
        sites=sites(),
        margins=raw,
        pmi=pmi,
        perplexities=(neutral_perplexity(parent), neutral_perplexity(child)),
        seed=seed,
    )


def site_gauges(
    a: Sides, b: Sides, folds: Int[np.ndarray, "scenario"], taus: tuple[float, float]
) -> tuple[dict[str, SiteProducts], tuple[Product, Product]]:
    """The products of a site and domain in every gauge; and σ² of parent and child, each along its own direction."""
    da, db = a.difference, b.difference
    aa, bb, ab = cross_product(da, da), cross_product(db, db), cross_product(da, db)
    # Spread along each checkpoint's own held-out direction, and in the child along the parent's.
    var_a, var_b, var_frozen = (held_out_variance(train, test, folds) for train, test in ((a, a), (b, b), (a, b)))
    unit = Product(value=1.0, without=np.ones(len(folds)))
    tau_a, tau_b = taus
    gauges = {
        "raw": SiteProducts(aa=aa, bb=bb, ab=ab, frozen_scale=unit),
        "tau": SiteProducts(
            aa=aa.scaled(tau_a**-2), bb=bb.scaled(tau_b**-2), ab=ab.scaled(1 / (tau_a * tau_b)), frozen_scale=unit
        ),
        "sd": SiteProducts(
            aa=over(aa, var_a), bb=over(bb, var_b), ab=over(ab, var_a), frozen_scale=_root(over(var_a, var_frozen))
        ),
    }
    return gauges, (var_a, var_b)


def band_site(
    view: SiteView,
    members: Int[np.ndarray, "n"],
    folds: Int[np.ndarray, "n"],
    spread: tuple[Product, Product],
    alignment: Alignment | None,
    weights: Float[np.ndarray, "draw row"],
) -> BandSite:
    """What a site of the band says of a domain beyond its sizes.

    Args:
        view: the site.
        members, folds: the domain's scenarios and their folds.
        spread: σ² of parent and child.
        alignment: of the child's neutral texts with the parent's.
        weights: normal weights [draw, 2·scenarios]: null directions are those weights on the rows of the parent's
            sides, each about its side's mean; the same weights at every site, so that a null direction follows
            through the layers as the real one does.
    """
    a, b = view.parent.rows(members), view.child.rows(members)
    var_a, var_b = spread
    units = held_out_units(a.difference, folds)
    middle = (b.positive + b.negative - a.positive - a.negative) / 2
    sigma_a = np.sqrt(var_a.value)
    position = null = None
    if view.prompts is not None:
        before, shift = view.prompts[0][members], view.prompts[1][members] - view.prompts[0][members]
        centred = before - before.mean(axis=0)
        spread_prompt = np.einsum("sd,sd->s", centred, units).std(ddof=1)
        position = np.einsum("sd,sd->s", shift, units) / spread_prompt
        rows = np.concatenate([side - side.mean(axis=0) for side in (a.positive, a.negative)])
        along = (centred @ rows.T) @ weights.T
        null = (weights @ (rows @ shift.mean(axis=0))) / along.std(axis=0, ddof=1)
    aligned = None
    if alignment is not None:
        tau_a, tau_b = view.taus
        da, db = alignment.parent(a.difference) / tau_a, alignment.child(b.difference) / tau_b
        aligned = cross_product(da, db), cross_product(da, da)
    delta = b.difference / view.taus[1]
    return BandSite(
        along=delta @ delta.mean(axis=0),
        sigma=over(var_b, var_a).scaled((view.taus[0] / view.taus[1]) ** 2),
        midpoint=np.einsum("sd,sd->s", middle, units) / sigma_a,
        position=position,
        position_null=null,
        aligned=aligned,
    )


def site_alignment(view: SiteView) -> Alignment | None:
    """The rotation of the child's neutral texts onto the parent's; None without enough texts."""
    return None if view.neutral is None else align(*view.neutral)


def neutral_rows(store: ActivationStore, site: str) -> Float[np.ndarray, "text d"]:
    """Residuals of the neutral texts at every position they are read at, each about its mean."""
    rows = [store.residual("neutral", position, site).astype(np.float64) for position in NEUTRAL_POSITIONS]
    return np.concatenate([r - r.mean(axis=0) for r in rows])


def held_out_units(
    delta: Float[np.ndarray, "scenario d"], folds: Int[np.ndarray, "scenario"]
) -> Float[np.ndarray, "scenario d"]:
    """For every scenario the unit mass-mean direction of the scenarios of the other folds."""
    found = np.empty_like(delta)
    for fold in np.unique(folds):
        direction = delta[folds != fold].mean(axis=0)
        found[folds == fold] = direction / np.linalg.norm(direction)
    return found


def held_out_variance(train: Sides, test: Sides, folds: Int[np.ndarray, "scenario"]) -> Product:
    """σ²: mean within-side variance of held-out mass-mean scores, about the training midpoint.

    Its delete-one values refit every direction without the scenario left out: with the directions held fixed, the
    interval of a ratio of two σ covers 87 times in 100.

    Args:
        train: sides the directions are fitted on.
        test: sides that are scored, the same scenarios (the same sides, or another checkpoint's).
        folds: the fold of every scenario.
    """
    delta, middle = train.difference, (train.positive + train.negative) / 2
    gram, cross = delta @ delta.T, middle @ delta.T
    n = len(folds)
    scores = [np.empty((n, n + 1)) for _ in range(2)]  # [scored, left out]; the last column leaves out none
    along = [side @ delta.T for side in (test.positive, test.negative)]
    for fold in np.unique(folds):
        held, kept = folds == fold, folds != fold
        count = kept.sum() - np.append(kept, False)  # training scenarios left
        out = np.append(np.where(kept, 1.0, 0.0), 0.0)  # leaving out a scenario of the held fold changes no direction
        ones = kept.astype(float)
        square = _less(ones @ gram @ ones, 2 * gram @ ones - np.diag(gram), out)
        length = np.sqrt(np.maximum(square, 1e-300))
        centre = _less(ones @ cross @ ones, cross @ ones + ones @ cross - np.diag(cross), out) / count
        for score, side in zip(scores, along, strict=True):
            score[held] = (_less((side[held] @ ones)[:, None], side[held], out) - centre) / length
    value = np.mean([score[:, -1].var(ddof=1) for score in scores])
    without = []
    for score in scores:
        part = score[:, :-1] - score[:, -1:].mean()
        own = np.diag(part)
        total, square = part.sum(axis=0) - own, np.square(part).sum(axis=0) - own**2
        without.append((square - total**2 / (n - 1)) / (n - 2))
    return Product(value=float(value), without=np.mean(without, axis=0))


def _less(total: Any, own: np.ndarray, out: np.ndarray) -> np.ndarray:
    """A total less each scenario's own part where leaving it out matters; the last column leaves out none."""
    return total - out * np.append(own, np.zeros((*own.shape[:-1], 1)), axis=-1)


def mean_product(values: Float[np.ndarray, "scenario"]) -> Product:
    """The mean over scenarios."""
    n = len(values)
    return Product(value=float(values.mean()), without=(values.sum() - values) / (n - 1))


def deviation(values: Float[np.ndarray, "scenario"]) -> Product:
    """The standard deviation over scenarios."""
    n = len(values)
    centred = values - values.mean()
    without = (np.square(centred).sum() - np.square(centred) * n / (n - 1)) / (n - 2)
    return Product(value=float(values.std(ddof=1)), without=np.sqrt(np.maximum(without, 0.0)))


def mean(products: Sequence[Product]) -> Product:
    """Their mean, delete-one values and all: the same scenario is left out of every one."""
    return Product(
        value=float(np.mean([p.value for p in products])), without=np.mean([p.without for p in products], axis=0)
    )


def over(top: Product, bottom: Product) -> Product:
    """Their ratio; NaN or infinite where the bottom is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = top.value / bottom.value if bottom.value else float("nan")
        return Product(value=float(value), without=top.without / bottom.without)


def times(a: Product, b: Product) -> Product:
    """Their product."""
    return Product(value=a.value * b.value, without=a.without * b.without)


def _root(a: Product) -> Product:
    return Product(value=float(np.sqrt(a.value)), without=np.sqrt(a.without))
