"""Training steps with a known truth: Gaussian ones, and real captured residuals with effects planted in them.

Both hand out `EdgeView`s, which the statistics cannot tell from a step read from disk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from activations.errors import InputError
from activations.store import ActivationStore
from analysis.edge import EdgeView, SiteView, neutral_rows
from probes.sides import Layout, Sides, balanced_folds, layout, margins, read_prompts, read_sides
from probes.sites import POSITION, neutral_tau

FOLDS = 5
DOMAINS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What a simulated step does.

    size: retention of the mean difference, its scatter kept. gain: factor on all that differences have along the
    direction, mean and scatter. turn: angle in degrees by which every vector of the child is turned, the
    function kept. noise: factor on the spread about each side's mean. bias: shift of both sides and of the prompts
    along the direction, within-side SDs. margin: change of the margin, SDs of the parent's. gains, margins: the same
    for every domain by itself.
    """

    name: str
    size: float = 1.0
    gain: float = 1.0
    turn: float = 0.0
    noise: float = 1.0
    bias: float = 0.0
    margin: float = 0.0
    gains: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()

    def gain_of(self, n: int) -> float | Float[np.ndarray, "scenario"]:
        """The gain of every scenario, `n` a domain."""
        return np.repeat(self.gains, n) if self.gains else self.gain

    def margin_of(self, n: int) -> float | Float[np.ndarray, "scenario"]:
        """The change of margin of every scenario, `n` a domain."""
        return np.repeat(self.margins, n) if self.margins else self.margin

    @property
    def values(self) -> Mapping[str, float]:
        """The true value of every quantity that has an exact one."""
        cosine, kept = float(np.cos(np.radians(self.turn))), self.size * self.gain
        found = {
            "R_tau": kept,
            "F": kept * cosine,
            "F_reverse": cosine / kept,
            "cosine": cosine,
            "B": self.margin,
        }
        if self.noise == 1.0 and kept == 1.0:
            found |= {"R_sd": 1.0, "sigma": 1.0}
        if self.bias == 0.0 and self.turn == 0.0:
            found |= {"midpoint": 0.0, "P": 0.0}
        return found


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Checkpoint:
    """A checkpoint's rows at one site, before an effect is planted."""

    positive: Float[np.ndarray, "scenario d"]
    negative: Float[np.ndarray, "scenario d"]
    prompts: Float[np.ndarray, "scenario d"]
    neutral: Float[np.ndarray, "text d"]


@runtime_checkable
class World(Protocol):
    """A source of steps."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        ...

    @property
    def exact(self) -> frozenset[str]:
        """Quantities whose true value is known here to the last digit."""
        ...

    def step(self, rng: np.random.Generator, n: int, truth: Truth) -> EdgeView:
        """One step with `n` scenarios in each of its domains."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """Normal residuals with the spectrum, the layers' and the checkpoints' likeness measured on the embedded model.

    Measured on 120 scenarios of four domains (mean difference against its scatter, middle of the band): D² is .055 of
    the scatter's trace, whose participation ratio is above 50 and grows with the number of scenarios; the sides' common
    part has 1.9 times that trace; differences keep .78 of themselves over four layers and .97 over a training step;
    the margin's change has an SD of .35 of the margin's. Three layers, 192 wide, eigenvalues i^−.6 (participation 88).
    """

    name: str = "gaussian"
    width: int = 192
    layers: int = 3
    decay: float = 0.6
    signal: float = 0.055
    common: float = 1.9
    between_layers: float = 0.85
    between_checkpoints: float = 0.97
    margin_noise: float = 0.35
    neutral: int = 100
    domains: int = DOMAINS
    exact: frozenset[str] = frozenset(("R_tau", "R_sd", "F", "F_reverse", "cosine", "sigma", "midpoint", "P", "B"))

    def step(self, rng: np.random.Generator, n: int, truth: Truth) -> EdgeView:
        """One step with `n` scenarios in each domain; a direction of its own for every domain and layer."""
        scale = np.arange(1, self.width + 1) ** (-self.decay / 2)
        trace = float((scale**2).sum())
        plan = _plan(n, self.domains)
        total = len(plan)

        def drawn(rows: int, before: np.ndarray | None, keep: float) -> np.ndarray:
            fresh = rng.standard_normal((rows, self.width)) * scale
            return fresh if before is None else keep * before + np.sqrt(1 - keep**2) * fresh

        before = rng.standard_normal(total)
        after = before + truth.margin_of(n) + self.margin_noise * rng.standard_normal(total)
        which = np.repeat(np.arange(self.domains), n)

        def sites() -> Iterator[SiteView]:
            noise = common = prompts = neutral = None
            means = None
            for layer in range(self.layers):
                keep = self.between_layers
                noise, common = drawn(total, noise, keep), drawn(total, common, keep)
                prompts, neutral = drawn(total, prompts, keep), drawn(self.neutral, neutral, keep)
                means = drawn(self.domains, means, keep)
                lengths = np.linalg.norm(means, axis=1, keepdims=True)
                mu = (means / lengths * np.sqrt(self.signal * trace))[which]
                again = [drawn(len(x), x, self.between_checkpoints) for x in (noise, common, prompts, neutral)]
                mid_a, mid_b = np.sqrt(self.common) * common, np.sqrt(self.common) * again[1]
                parent = Checkpoint(
                    positive=mid_a + (mu + noise) / 2,
                    negative=mid_a - (mu + noise) / 2,
                    prompts=prompts,
                    neutral=neutral,
                )
                child = Checkpoint(
                    positive=mid_b + (mu + again[0]) / 2,
                    negative=mid_b - (mu + again[0]) / 2,
                    prompts=again[2],
                    neutral=again[3],
                )
                yield _view(layer, parent, planted(child, mu, truth, n), (1.0, 1.0))

        return _edge(plan, range(self.layers), sites(), (before, after), rng)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Captured:
    """Real residuals of a step, its own effect taken out and a known one planted in the mean difference.

    Scenarios of all domains are one population: each difference is taken about its domain's mean, in parent and child
    alike, and the pooled direction is put back at the size a domain has. What a scenario's difference has beside its
    mean, how that goes from parent to child, from layer to layer, from text to text: all real. The mean shift of the
    child's texts is taken out too; the real step's change of spread is not (so that R_sd and sigma have no exact truth
    here). A simulated domain is drawn without replacement, and no scenario is in two domains of a step, so that there
    are as many domains as the population allows, at most twelve.

    A draw without replacement from N scenarios varies less about their mean than new scenarios would, by 1 − n/N, and
    estimates that take the noise out as if they were new take out too much (at any n; a cosine of 1 read 1.0013). So
    every step gets a mean of its own: one random combination of all scenarios, the same one in both checkpoints, all
    layers, prompts and margins, with the missing 1/N of the variance. Means and their products then vary as those of
    new scenarios do.
    """

    parents: Sequence[Checkpoint]
    children: Sequence[Checkpoint]
    means: Sequence[Float[np.ndarray, "d"]]
    taus: Sequence[tuple[float, float]]
    margins: tuple[Float[np.ndarray, "scenario"], Float[np.ndarray, "scenario"]]
    name: str = "captured"
    exact: frozenset[str] = frozenset(("R_tau", "F", "F_reverse", "cosine", "midpoint", "P", "B"))

    def step(self, rng: np.random.Generator, n: int, truth: Truth) -> EdgeView:
        """One step with `n` scenarios in each domain.

        Raises:
            InputError: fewer scenarios than that were captured.
        """
        size = len(self.margins[0])
        if size < n:
            raise InputError(f"holds {size} scenarios, fewer than {n}", where="the run to calibrate on")
        plan = _plan(n, min(DOMAINS, size // n))
        rows = rng.permutation(size)[: len(plan)]
        weights = rng.normal(size=size) / np.sqrt(size * (size - 1))
        weights -= weights.mean()
        own, later = (m[rows] + weights @ m for m in self.margins)
        before, after = own, later + truth.margin_of(n) * self.margins[0].std(ddof=1)

        def sites() -> Iterator[SiteView]:
            for layer, (a, b) in enumerate(zip(self.parents, self.children, strict=True)):
                mu = np.broadcast_to(self.means[layer], (len(rows), len(self.means[layer])))
                chosen = [
                    Checkpoint(
                        positive=c.positive[rows] + weights @ c.positive + mu / 2,
                        negative=c.negative[rows] + weights @ c.negative - mu / 2,
                        prompts=c.prompts[rows] + weights @ c.prompts,
                        neutral=c.neutral,
                    )
                    for c in (a, b)
                ]
                yield _view(layer, chosen[0], planted(chosen[1], mu, truth, n), self.taus[layer])

        return _edge(plan, range(len(self.parents)), sites(), (before, after), rng)


def captured(parent: Path, child: Path, contrast: str, layers: Sequence[int]) -> Captured:
    """The population that two stores hold, at some layers.

    Raises:
        InputError: a store is missing or damaged, or holds no prompts.
    """
    with ActivationStore(parent) as a, ActivationStore(child) as b:
        plan = layout(a.rows("response"), contrast, str(parent))
        stores, parents, children, means, taus = (a, b), [], [], [], []
        number = {d: i for i, d in enumerate(dict.fromkeys(plan.domains))}
        domain = np.asarray([number[d] for d in plan.domains])
        for layer in layers:
            site = a.sites[layer + 1]
            both = []
            tau = [neutral_tau(store, site) for store in stores]
            for store in stores:
                sides, prompts = read_sides(store, plan, POSITION, site), read_prompts(store, plan, contrast, site)
                if prompts is None:
                    raise InputError("holds no prompts", where=str(store.path), mend="run capture again")
                mean = np.stack([sides.difference[domain == i].mean(axis=0) for i in range(len(number))])[domain]
                both.append(
                    Checkpoint(
                        positive=sides.positive - mean / 2,
                        negative=sides.negative + mean / 2,
                        prompts=prompts,
                        neutral=neutral_rows(store, site),
                    )
                )
                if store is a:
                    means.append(_typical(sides.difference, domain))
            parents.append(both[0])
            children.append(_unshifted(*both))
            # The child in the parent's unit: what the real step did to sizes is no part of a planted truth.
            taus.append((tau[0], tau[0]))
        raw = margins(a, plan), margins(b, plan)
    return Captured(
        parents=parents,
        children=children,
        means=means,
        taus=taus,
        margins=(raw[0], raw[1] - (raw[1] - raw[0]).mean()),
    )


def _unshifted(parent: Checkpoint, child: Checkpoint) -> Checkpoint:
    """The child without the mean shift of its sides' middle and of its prompts."""
    middle = (child.positive + child.negative - parent.positive - parent.negative).mean(axis=0) / 2
    return Checkpoint(
        positive=child.positive - middle,
        negative=child.negative - middle,
        prompts=child.prompts - (child.prompts - parent.prompts).mean(axis=0),
        neutral=child.neutral,
    )


def planted(child: Checkpoint, mu: Float[np.ndarray, "scenario d"], truth: Truth, n: int) -> Checkpoint:
    """The child with a truth planted in it.

    Args:
        child: with the whole mean difference `mu` between its sides.
        mu: the mean difference of each scenario's domain.
        truth: what to do.
        n: scenarios a domain.
    """
    unit = mu / np.linalg.norm(mu, axis=1, keepdims=True)
    middle = (child.positive + child.negative).mean(axis=0) / 2
    along = np.einsum("sd,sd->s", child.positive - child.negative, unit)
    lost = ((1 - truth.gain_of(n)) / 2 * along)[:, None] * unit
    sides = []
    for side, sign in ((child.positive, 1.0), (child.negative, -1.0)):
        rest = side - sign * mu / 2 - middle
        sides.append(middle + truth.noise * rest + sign * (truth.size * mu / 2 - lost))
    spread = np.einsum("sd,sd->s", sides[0] - sides[0].mean(axis=0), unit).std(ddof=1)
    shift = truth.bias * spread * unit
    found = [sides[0] + shift, sides[1] + shift, child.prompts + shift, child.neutral]
    if truth.turn:
        found = [_turned(rows, truth.turn) for rows in found]
    return Checkpoint(positive=found[0], negative=found[1], prompts=found[2], neutral=found[3])


def _turned(rows: Float[np.ndarray, "row d"], degrees: float) -> Float[np.ndarray, "row d"]:
    """Every vector by exactly this angle: coordinates 2i and 2i + 1 turn in their plane (an odd last one stays)."""
    angle, even = np.radians(degrees), rows.shape[1] // 2 * 2
    found = rows.copy()
    found[:, 0:even:2] = np.cos(angle) * rows[:, 0:even:2] - np.sin(angle) * rows[:, 1:even:2]
    found[:, 1:even:2] = np.sin(angle) * rows[:, 0:even:2] + np.cos(angle) * rows[:, 1:even:2]
    return found


def _typical(delta: Float[np.ndarray, "scenario d"], domain: np.ndarray) -> Float[np.ndarray, "d"]:
    """The pooled direction at the root mean of the domains' unbiased squared sizes."""
    squares = []
    for i in np.unique(domain):
        part = delta[domain == i]
        n = len(part)
        total = part.sum(axis=0)
        squares.append((total @ total - np.square(part).sum()) / (n * (n - 1)))
    mean = delta.mean(axis=0)
    return mean / np.linalg.norm(mean) * np.sqrt(max(float(np.mean(squares)), 0.0))


def _plan(n: int, domains: int) -> Layout:
    names = [f"d{d:02d}" for d in range(domains) for _ in range(n)]
    scenarios = tuple(f"{name}-{i:04d}" for i, name in enumerate(names))
    nothing = np.zeros((len(names), 0))
    return Layout(scenarios=scenarios, domains=tuple(names), positive=nothing, negative=nothing)


def _view(layer: int, a: Checkpoint, b: Checkpoint, taus: tuple[float, float]) -> SiteView:
    return SiteView(
        layer=layer,
        parent=Sides(positive=a.positive, negative=a.negative),
        child=Sides(positive=b.positive, negative=b.negative),
        taus=taus,
        prompts=(a.prompts, b.prompts),
        neutral=(a.neutral, b.neutral),
    )


def _edge(
    plan: Layout,
    band: Sequence[int],
    sites: Iterator[SiteView],
    both: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> EdgeView:
    seed = int(rng.integers(1 << 31))
    return EdgeView(
        plan=plan,
        folds=balanced_folds(plan.scenarios, plan.domains, FOLDS, seed),
        band=band,
        sites=sites,
        margins=both,
        pmi=None,
        perplexities=(1.0, 1.0),
        seed=seed,
    )
