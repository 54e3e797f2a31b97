"""Layer-wise pages and steering pages: cells of layers.csv, drift.csv, slopes.csv and steering.csv to panels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.page import number, words
from analysis.panels import Frame, Group, Panel, span
from analysis.sections import records

Slices = Mapping[tuple[str, ...], pd.DataFrame]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """What one group of panels draws."""

    table: str
    column: str
    title: str
    note: str
    axis: tuple[float, float]
    level: float | None
    limits: tuple[str, str] | None = None
    fixed: bool = False  # the axis ends there whatever the cells say; what lies beyond is drawn at its end


_BOTH = " Dashed: the parent."
QUANTITIES = (
    Quantity(
        table="layers",
        column="size_tau",
        title="Size (τ)",
        note="Unbiased size of the mean difference over τ; it can fall below 0 where nothing is there.",
        axis=(0.0, 0.1),
        level=0.0,
    ),
    Quantity(
        table="drift",
        column="retention",
        title="Retention (τ)",
        note="The child's size over the parent's, each refitted, with 95 % intervals; the line is no change.",
        axis=(0.0, 2.0),
        level=1.0,
        limits=("retention_low", "retention_high"),
        fixed=True,
    ),
    Quantity(
        table="drift",
        column="frozen",
        title="Transfer across the step (frozen, τ)",
        note="What the parent's own direction reads in the child, with 95 % intervals; 1 is as much as in the parent.",
        axis=(0.0, 2.0),
        level=1.0,
        limits=("frozen_low", "frozen_high"),
        fixed=True,
    ),
    Quantity(
        table="layers",
        column="dprime",
        title="d′, held out",
        note="Gap between the sides in SDs within a side.",
        axis=(0.0, 1.0),
        level=0.0,
    ),
    Quantity(
        table="layers",
        column="auroc",
        title="AUROC, held out",
        note="With its 95 % interval. Dotted: the best reader of the text alone.",
        axis=(0.4, 1.0),
        level=0.5,
        limits=("auroc_low", "auroc_high"),
    ),
    Quantity(
        table="layers",
        column="selectivity",
        title="Selectivity",
        note="AUROC less that of directions fitted to random labels.",
        axis=(0.0, 0.5),
        level=0.0,
    ),
)


def layer_pages(
    layers: pd.DataFrame, drift: pd.DataFrame, steps: Sequence[Mapping[str, Any]], domains: Sequence[str], band: list[int]
) -> list[dict[str, Any]]:
    """A page for the root alone, then one for every step: a group of panels a quantity, a panel a domain.

    Args:
        layers, drift: the tables; mass-mean rows of the compassion contrast are drawn, drift in τ.
        steps: rows of the verdict matrix.
        domains: in the order of the matrix.
        band: layers of the declared band.
    """
    fitted = layers[(layers.method == "mass-mean") & (layers.contrast == layers.contrast.iloc[0])]
    by_checkpoint = _slices(fitted, ["checkpoint", "domain"])
    moved = drift[(drift.gauge == "tau") & (drift.layer != "band")] if len(drift) else drift
    moved = moved[moved.contrast == moved.contrast.iloc[0]] if len(moved) else moved
    by_step = _slices(moved.assign(layer=moved.layer.astype(int)), ["parent", "child", "domain"])
    ends = {q.column: _axis(q, fitted if q.table == "layers" else moved) for q in QUANTITIES}
    xs = (float(fitted.layer.min()), float(fitted.layer.max()))
    root = str(layers.checkpoint.iloc[0])
    known = domains or list(dict.fromkeys(fitted.domain))
    pages = [{"parent": None, "child": root, "step": "", "groups": _groups(by_checkpoint, {}, None, root, known, band, xs, ends)}]
    for step in steps:
        groups = _groups(by_checkpoint, by_step, step["parent"], step["child"], known, band, xs, ends)
        pages.append({"parent": step["parent"], "child": step["child"], "step": step["step"], "groups": groups})
    return pages


def _groups(
    checkpoints: Slices,
    steps: Slices,
    parent: str | None,
    child: str,
    domains: Sequence[str],
    band: list[int],
    xs: tuple[float, float],
    ends: Mapping[str, tuple[float, float]],
) -> list[Group]:
    found = []
    for quantity in QUANTITIES:
        if quantity.table == "drift" and parent is None:
            continue
        frame = Frame(xs, ends[quantity.column])
        panels = []
        for domain in domains:
            own = checkpoints.get((child, domain)) if quantity.table == "layers" else steps.get((str(parent), child, domain))
            if own is not None:
                before = checkpoints.get((parent, domain)) if parent and quantity.table == "layers" else None
                panels.append(_panel(quantity, frame, domain, own, before, band))
        note = quantity.note + (_BOTH if parent and quantity.table == "layers" else "")
        found.append(Group(title=quantity.title, note=note, source=quantity.table, panels=panels))
    return found


def _panel(
    quantity: Quantity, frame: Frame, domain: str, own: pd.DataFrame, before: pd.DataFrame | None, band: list[int]
) -> Panel:
    xs = own.layer.to_numpy(dtype=float)
    paths = []
    if quantity.limits:
        low, high = (own[c].to_numpy(dtype=float) for c in quantity.limits)
        paths.append(("ribbon", frame.ribbon(xs, low, high)))
    if quantity.column == "auroc":
        paths.append(("text", frame.line(xs, own.best_baseline_auroc.to_numpy(dtype=float))))
    if before is not None:
        paths.append(("before", frame.line(before.layer.to_numpy(dtype=float), before[quantity.column].to_numpy(dtype=float))))
    paths.append(("own", frame.line(xs, own[quantity.column].to_numpy(dtype=float))))
    middle = band[len(band) // 2]
    at = own[own.layer == middle]
    says = f"{quantity.title} in {words(domain)}: {number(at[quantity.column].iloc[0])} after layer {middle}"
    if before is not None:
        says += f", in the parent {number(before[before.layer == middle][quantity.column].iloc[0])}"
    left = frame.x(min(band) - 0.5)
    return Panel(
        domain=domain,
        says=says,
        paths=[(kind, path) for kind, path in paths if path],
        x_ends=(number(frame.xs[0], 0), number(frame.xs[1], 0)),
        y_ends=(number(frame.ys[0]), number(frame.ys[1])),
        level=None if quantity.level is None else frame.y(quantity.level),
        band=(left, frame.x(max(band) + 0.5) - left),
    )


def steering_pages(steering: pd.DataFrame, slopes: pd.DataFrame, band: list[int]) -> list[dict[str, Any]]:
    """A page for every steered checkpoint: margin against dose and slope against layer by domain, damage against dose."""
    added = steering[steering.kind == "add"]
    if added.empty:
        return []
    own, random = added[added.control == "none"], added[added.control != "none"]
    doses = (float(own.alpha.min()), float(own.alpha.max()))
    shift = Frame(doses, span([*own.shift_low, *own.shift_high], at_least=(-0.05, 0.05)))
    at_layers = (float(slopes.layer.min()), float(slopes.layer.max()))
    slope = Frame(at_layers, span([*slopes[slopes.control == "none"].slope], at_least=(-0.1, 0.1)))
    null = _slices(slopes[slopes.control == "matched"], ["checkpoint", "domain"])
    slanted = _slices(slopes[slopes.control == "none"], ["checkpoint", "domain"])
    others = _slices(random, ["checkpoint", "domain"])
    pages = []
    for checkpoint, part in own.groupby("checkpoint", sort=False):
        dosed = [
            _dose_panel(shift, str(domain), rows.sort_values("alpha"), others.get((str(checkpoint), str(domain))))
            for domain, rows in part.groupby("domain", sort=False)
        ]
        sloped = [
            _slope_panel(slope, domain, slanted[(checkpoint, domain)], null.get((checkpoint, domain)), band)
            for domain in dict.fromkeys(part.domain)
            if (checkpoint, domain) in slanted
        ]
        damage = part[part.domain == part.domain.iloc[-1]].sort_values("alpha")
        pages.append(
            {
                "checkpoint": checkpoint,
                "groups": [
                    Group(
                        title="Margin against dose",
                        note="Change of the margin from dose 0 (nats/token), held-out scenarios, 95 % intervals. "
                        "Thin: random directions.",
                        source="steering",
                        panels=dosed,
                    ),
                    Group(
                        title="Slope by layer",
                        note="First-order slope of the margin in the dose, with 95 % intervals. Grey: where 97.5 % of "
                        "random directions of the texts' covariance lie.",
                        source="slopes",
                        panels=sloped,
                    ),
                ],
                "damage": records(damage),
            }
        )
    return pages


def _dose_panel(frame: Frame, domain: str, own: pd.DataFrame, others: pd.DataFrame | None) -> Panel:
    xs = own.alpha.to_numpy(dtype=float)
    thin = ""
    if others is not None:
        for _, rows in others.sort_values("alpha").groupby("control", sort=False):
            thin += frame.line(rows.alpha.to_numpy(dtype=float), rows["shift"].to_numpy(dtype=float))
    last = own.iloc[-1]
    return Panel(
        domain=domain,
        says=f"Margin change in {words(domain)} at dose {number(last.alpha)}: {number(last['shift'], 3)} "
        f"[{number(last.shift_low, 3)}, {number(last.shift_high, 3)}]",
        paths=[
            ("random", thin),
            ("bars", frame.bars(xs, own.shift_low.to_numpy(dtype=float), own.shift_high.to_numpy(dtype=float))),
            ("own", frame.line(xs, own["shift"].to_numpy(dtype=float))),
            ("dots", frame.dots(xs, own["shift"].to_numpy(dtype=float))),
        ],
        x_ends=(number(frame.xs[0]), number(frame.xs[1])),
        y_ends=(number(frame.ys[0]), number(frame.ys[1])),
        level=frame.y(0.0),
    )


def _slope_panel(frame: Frame, domain: str, own: pd.DataFrame, null: pd.DataFrame | None, band: list[int]) -> Panel:
    xs = own.layer.to_numpy(dtype=float)
    paths = []
    if null is not None:
        reach = null.slope_high.to_numpy(dtype=float)
        paths.append(("null", frame.ribbon(null.layer.to_numpy(dtype=float), -reach, reach)))
    limits = (own.slope_low.to_numpy(dtype=float), own.slope_high.to_numpy(dtype=float))
    paths += [("ribbon", frame.ribbon(xs, *limits)), ("own", frame.line(xs, own.slope.to_numpy(dtype=float)))]
    middle = own[own.layer == band[len(band) // 2]]
    left = frame.x(min(band) - 0.5)
    return Panel(
        domain=domain,
        says=f"Slope in {words(domain)} after layer {band[len(band) // 2]}: {number(middle.slope.iloc[0])}",
        paths=paths,
        x_ends=(number(frame.xs[0], 0), number(frame.xs[1], 0)),
        y_ends=(number(frame.ys[0]), number(frame.ys[1])),
        level=frame.y(0.0),
        band=(left, frame.x(max(band) + 0.5) - left),
    )


def _slices(table: pd.DataFrame, keys: list[str]) -> Slices:
    """The rows of every combination of the keys, by layer where there is one."""
    if table.empty:
        return {}
    order = "layer" if "layer" in table and table.layer.notna().all() else keys[0]
    ordered = table.sort_values(order, kind="stable")
    return {tuple(map(str, key)): part for key, part in ordered.groupby(keys, sort=False)}


def _axis(quantity: Quantity, table: pd.DataFrame) -> tuple[float, float]:
    if quantity.fixed or table.empty:
        return quantity.axis
    return span(_cells(table, [quantity.column]), at_least=quantity.axis)


def _cells(table: pd.DataFrame, columns: Iterable[str]) -> np.ndarray:
    return np.concatenate([table[c].to_numpy(dtype=float) for c in columns])


