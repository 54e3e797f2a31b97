"""The instrument's own error rates: the whole statistics and verdict path on steps whose truth is known (METHOD §5).

Every simulated step goes through `measure_edge`, the gates that simulation can fail (G2, G4) and `judge`; the gates
that speak of texts and models (G1, G3, G5–G8) are passed by construction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from activations.study import SmallestEffect
from analysis.drift import measure_edge
from analysis.edge import held_out_units
from analysis.gates import FLOOR, Gate, enough_scenarios, parent_signal
from analysis.states import DOWN, FLAT, LOST
from analysis.verdict import ERODED, INCONCLUSIVE, NO_VERDICT, PRESERVED, ROTATED, head, judge
from analysis.worlds import Truth, World
from probes.controls import exceedance, matched_directions
from probes.metrics import dprime
from probes.sides import Sides
from probes.sites import one_thread

SMALLEST = SmallestEffect()
FALSE_ALARM, COVERED, RIGHT, POWER = 0.05, 0.93, 0.80, (0.75, 0.85)
NOTHING = Truth(name="no change")
TRUTHS = (
    NOTHING,
    Truth(name="size −10 %", size=0.9),
    Truth(name="size −20 %", size=0.8),
    Truth(name="size −30 %", size=0.7),
    Truth(name="size −50 %", size=0.5),
    Truth(name="gain −20 %", gain=0.8),
    Truth(name="gain −30 %", gain=0.7),
    Truth(name="size −30 %, margin −0.5 SD", size=0.7, margin=-0.5),
    Truth(name="size −50 %, margin −0.5 SD", size=0.5, margin=-0.5),
    Truth(name="turned by 60°", turn=60.0),
    Truth(name="noise ×1.5", noise=1.5),
    Truth(name="shifted by −0.5 SD", bias=-0.5),
    Truth(name="margin −0.2 SD", margin=-SMALLEST.margin_sd),
    Truth(name="margin −0.5 SD", margin=-0.5),
)
QUICK = ("no change", "size −20 %", "size −30 %, margin −0.5 SD", "turned by 60°", "noise ×1.5", "margin −0.5 SD")
AT_DETECTABLE = "gain and margin down by the printed MDE"
WANTED = {"no change": PRESERVED, "size −30 %, margin −0.5 SD": ERODED, "turned by 60°": ROTATED}


def certify(
    worlds: Sequence[World],
    *,
    scenarios: Sequence[int],
    verdicts: int,
    truths: Sequence[Truth] = TRUTHS,
    seed: int = 0,
    jobs: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """calibration.csv: what the verdict path says of steps whose truth is known.

    Args:
        worlds: where steps are drawn from.
        scenarios: scenarios a domain.
        verdicts: step × domain verdicts in every cell, at least.
        truths: what the steps do. Besides, gain and margin of every domain fall by what its own verdict says is the
            smallest change it can detect.
        seed: of everything that is drawn.
        jobs: processes; the table does not depend on their number.
        advance: told 1 after every step.
    """
    rows: list[dict[str, Any]] = []
    with Parallel(n_jobs=jobs, return_as="generator") as pool:
        for world in worlds:
            for n in scenarios:
                about = {"world": world.name, "n_scenarios": n}
                for truth in truths:
                    found = _cell(pool, simulated, world, truth, n, verdicts, seed, advance)
                    rows += [about | {"truth": truth.name} | row for row in _summary(found, truth, world.exact)]
                found = _cell(pool, at_detectable, world, NOTHING, n, verdicts, seed, advance)
                rows += [about | {"truth": AT_DETECTABLE} | row for row in _power(found)]
    return pd.DataFrame(rows)


def steps_of(n_worlds: int, scenarios: Sequence[int], truths: Sequence[Truth], verdicts: int) -> int:
    """How many steps `certify` takes at most, twelve domains each."""
    return n_worlds * len(scenarios) * (len(truths) + 1) * -(-verdicts // 7)


def requirements(table: pd.DataFrame) -> pd.DataFrame:
    """What must hold of a certificate, each with the worst cell and whether it does.

    A rate beyond its limit by no more than two Monte-Carlo standard errors is "within error", so that a right
    instrument does not fail a short certificate.
    """
    rows: list[dict[str, Any]] = []

    def add(what: str, part: pd.DataFrame, worst: str, *, low: float = -np.inf, high: float = np.inf) -> None:
        if part.empty:
            return
        at = part.loc[getattr(part.value, worst)()]
        grace = 2 * at.mc_error
        rows.append(
            {
                "requirement": what,
                "world": at.world,
                "truth": at.truth,
                "n_scenarios": int(at.n_scenarios),
                "value": at.value,
                "mc_error": at.mc_error,
                "n": int(at.n),
                "holds": "yes"
                if low <= at.value <= high
                else "within error"
                if low - grace <= at.value <= high + grace
                else "no",
            }
        )

    table = table.reset_index(drop=True)
    said = table[table.measure == "verdict"]
    lost = [AT_DETECTABLE, *(t.name for t in TRUTHS if t.size * t.gain < 1 and t.margin < 0)]
    null = said[(said.name == ERODED) & ~said.truth.isin(lost)]
    add("false ERODED at most 5 %", null[null.n_scenarios >= FLOOR], "idxmax", high=FALSE_ALARM)
    for quantity, part in table[table.measure == "coverage"].groupby("name"):
        add(f"95 % interval of {quantity} covers at least 93 %", part, "idxmin", low=COVERED)
    for name in ("R_tau", "B"):
        part = table[(table.measure == "detected") & (table.name == name)]
        part = part[part.truth == AT_DETECTABLE]
        add(f"power at the printed MDE of {name}: 80 ± 5 %", part, "idxmin", low=POWER[0], high=POWER[1])
        add(f"power at the printed MDE of {name}, highest", part, "idxmax", low=POWER[0], high=POWER[1])
    wrong = table[(table.measure == "flat although not")]
    add("equivalence claimed wrongly at most 5 %", wrong, "idxmax", high=FALSE_ALARM)
    for truth, wanted in WANTED.items():
        part = said[(said.name == wanted) & (said.truth == truth) & (said.n_scenarios == 60)]
        add(f"{truth} reads {wanted} in at least 80 %, K = 60", part, "idxmin", low=RIGHT)
    return pd.DataFrame(rows)


def confusion(table: pd.DataFrame, world: str, n: int) -> pd.DataFrame:
    """Truth × verdict (without what is appended to it), shares, for one world and number of scenarios."""
    part = table[(table.measure == "verdict") & (table.world == world) & (table.n_scenarios == n)]
    part = part[~part.name.str.contains("; ")]
    wide = part.pivot_table(index="truth", columns="name", values="value", sort=False, fill_value=0.0)
    last = [c for c in (INCONCLUSIVE, NO_VERDICT) if c in wide]
    return wide[[c for c in wide if c not in last] + last]


def simulated(world: World, truth: Truth, n: int, seed: Sequence[int]) -> pd.DataFrame:
    """One step's edges with its verdicts: the rows of edges.csv, and `verdict` beside them."""
    with one_thread():
        view = world.step(np.random.default_rng(list(seed)), n, truth)
        first = next(view.sites)
        p = _null_p(first.parent, view.folds, np.asarray(view.plan.domains), view.seed)
        view = replace(view, sites=_again(first, view))
        found = measure_edge(view, SMALLEST, by_layer=False, pooled=False)
        edges = found.edges.assign(parent="parent", child="child", stage="sft", data_domain="", seed="")
        gates = [
            {"parent": "parent", "child": "child", "domain": domain} | gate.about()
            for domain, part in edges.groupby("domain", sort=False)
            for gate in _gates(part.set_index("quantity"), p[str(domain)])
        ]
        verdicts = judge(edges, pd.DataFrame(gates)).set_index("domain").verdict
    return edges.assign(verdict=edges.domain.map(verdicts))


def at_detectable(world: World, truth: Truth, n: int, seed: Sequence[int]) -> pd.DataFrame:
    """A step of this truth, drawn again with every domain's gain and margin down by the MDE it printed."""
    printed = simulated(world, truth, n, seed).pivot(index="domain", columns="quantity", values="value")
    loss, change = printed["R_mde"], printed["B_mde"].where(np.isfinite(printed["B_mde"]), 0.0)
    down = Truth(name=AT_DETECTABLE, gains=tuple(1 - loss), margins=tuple(-change))
    found = simulated(world, down, n, seed)
    return found.assign(R_mde=found.domain.map(loss), B_mde=found.domain.map(printed["B_mde"]))


def _power(table: pd.DataFrame) -> list[dict[str, Any]]:
    """How often the printed MDE was found, where one was printed; and the verdicts."""
    rows = _verdicts(table, ())
    for quantity, null in (("R_tau", 1.0), ("B", 0.0)):
        part = table[(table.quantity == quantity)]
        mde = part["R_mde" if quantity == "R_tau" else "B_mde"]
        part = part[np.isfinite(mde) & ((mde < 1) if quantity == "R_tau" else True)]
        rows.append(_share("detected", quantity, (part.high_adjusted < null).astype(float), part.step))
    return rows


def _again(first: Any, view: Any) -> Any:
    yield first
    yield from view.sites


def _gates(by: pd.DataFrame, p: float) -> tuple[Gate, ...]:
    return (
        enough_scenarios(int(by.n_scenarios.iloc[0]), by.value["R_mde"], SMALLEST.retention, by.state["R_tau"]),
        parent_signal(by.low["signal"], p),
    )


def _null_p(sides: Sides, folds: np.ndarray, domains: np.ndarray, seed: int) -> dict[str, float]:
    """Gate G4's p by domain, as layers.csv gets it, at the first simulated layer."""
    found = {}
    for domain in dict.fromkeys(domains.tolist()):
        members = np.flatnonzero(domains == domain)
        part = sides.rows(members)
        units = held_out_units(part.difference, folds[members])
        scores = [np.einsum("sd,sd->s", side, units)[None] for side in (part.positive, part.negative)]
        null = matched_directions(part, seed=seed)
        found[str(domain)] = exceedance(float(dprime(*scores)[0]), null)
    return found


def _cell(
    pool: Any,
    draw: Callable[..., pd.DataFrame],
    world: World,
    truth: Truth,
    n: int,
    verdicts: int,
    seed: int,
    advance: Callable[[int], None],
) -> pd.DataFrame:
    key = [seed, n, *truth.name.encode()]
    first = draw(world, truth, n, [*key, 0])
    advance(1)
    parts = [first.assign(step=0)]
    steps = -(-verdicts // first.domain.nunique())
    for number, part in enumerate(pool(delayed(draw)(world, truth, n, [*key, i]) for i in range(1, steps)), 1):
        parts.append(part.assign(step=number))
        advance(1)
    return pd.concat(parts)


def _summary(table: pd.DataFrame, truth: Truth, exact: frozenset[str]) -> list[dict[str, Any]]:
    """Shares with their Monte-Carlo errors; the step is the unit, since its domains share what was drawn."""
    rows = _verdicts(table, (WANTED.get(truth.name, ERODED),))
    for quantity, part in table.groupby("quantity", sort=False):
        rows += _of_quantity(str(quantity), part, {k: v for k, v in truth.values.items() if k in exact})
    return rows


def _verdicts(table: pd.DataFrame, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Shares of verdicts in full, of their heads, and of ERODED and those wanted also where there are none."""
    one = table[table.quantity == "R_tau"]
    rows = [
        _share("verdict", verdict, (one.verdict == verdict).astype(float), one.step)
        for verdict in dict.fromkeys(one.verdict)
    ]
    heads = one.verdict.map(head)
    names = dict.fromkeys([*heads, ERODED, *wanted])
    rows += [
        _share("verdict", name, (heads == name).astype(float), one.step)
        for name in names
        if name not in set(one.verdict)
    ]
    return rows


def _of_quantity(quantity: str, part: pd.DataFrame, truth: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = []
    estimable = part[part.low.notna()]
    if quantity in truth and len(estimable):
        true = truth[quantity]
        inside = (estimable.low <= true) & (true <= estimable.high)
        rows.append(_share("coverage", quantity, inside.astype(float), estimable.step))
        rows.append(_share("width", quantity, estimable.high - estimable.low, estimable.step))
        rows.append(_share("bias", quantity, estimable.value - true, estimable.step))
        null = 0.0 if quantity in ("B", "midpoint", "P") else 1.0
        if true != null:
            low, high = (part.high_adjusted < null).astype(float), (part.low_adjusted > null).astype(float)
            rows.append(_share("detected", quantity, low if true < null else high, part.step))
        if not _within(quantity, true):
            rows.append(_share("flat although not", quantity, (part.state == FLAT).astype(float), part.step))
    if quantity in ("R_mde", "B_mde"):
        rows.append(_share("mde", quantity, part.value, part.step))
    if quantity == "R_tau":
        rows.append(_share("state", "R_tau down or lost", part.state.isin([DOWN, LOST]).astype(float), part.step))
    return rows


def _within(quantity: str, true: float) -> bool:
    """Whether a true value lies inside the smallest effect (the limit itself does not)."""
    if quantity == "B":
        return abs(true) < SMALLEST.margin_sd
    if quantity in ("midpoint", "P"):
        return abs(true) < SMALLEST.position_sd
    kept = 1 - SMALLEST.retention
    return quantity == "cosine" or kept < true < 1 / kept


def _share(measure: str, name: str, values: pd.Series, step: pd.Series) -> dict[str, Any]:
    finite = np.isfinite(values)  # where hardly anything is left an interval's upper limit can overflow
    values, step = values[finite], step[finite]
    by_step = values.groupby(step).mean()
    error = float(by_step.std(ddof=1) / np.sqrt(len(by_step))) if len(by_step) > 1 else float("nan")
    found = {"measure": measure, "name": name, "value": float(values.mean())}
    return found | {"mc_error": error, "n": len(values)}
