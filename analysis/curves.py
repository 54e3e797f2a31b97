"""Layer-wise pages and steering pages: cells of layers.csv, drift.csv, slopes.csv and steering.csv to panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.page import MISSING, number, words
from analysis.panels import Frame, Group, Panel, span
from analysis.sections import records

Rows = Mapping[str, np.ndarray]  # columns of some rows, in order
Slices = Mapping[tuple[str, ...], Rows]


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
    layers: pd.DataFrame,
    drift: pd.DataFrame,
    steps: Sequence[Mapping[str, Any]],
    domains: Sequence[str],
    band: list[int],
) -> list[dict[str, Any]]:
    """A page for the root alone, then one for every step: a group of panels a quantity, a panel a domain.

    Args:
        layers, drift: the tables; mass-mean rows of the compassion contrast are drawn, drift in τ.
        steps: rows of the verdict matrix.
        domains: in the order of the matrix.
        band: layers of the declared band.
    """
    fitted = layers[(layers.method == "mass-mean") & (layers.contrast == layers.contrast.iloc[0])]
    needed = {q.table: ["layer", "best_baseline_auroc"] if q.table == "layers" else ["layer"] for q in QUANTITIES}
    for quantity in QUANTITIES:
        needed[quantity.table] += [quantity.column, *(quantity.limits or ())]
    by_checkpoint = slices(fitted, ["checkpoint", "domain"], "layer", needed["layers"])
    moved = drift[(drift.gauge == "tau") & (drift.layer != "band")] if len(drift) else drift
    moved = moved[moved.contrast == moved.contrast.iloc[0]] if len(moved) else moved
    moved = moved.assign(layer=moved.layer.astype(int))
    by_step = slices(moved, ["parent", "child", "domain"], "layer", needed["drift"])
    ends = {q.column: _axis(q, fitted if q.table == "layers" else moved) for q in QUANTITIES}
    xs = (float(fitted.layer.min()), float(fitted.layer.max()))
    root = str(layers.checkpoint.iloc[0])
    known = domains or list(dict.fromkeys(fitted.domain))
    pages = [
        {
            "parent": None,
            "child": root,
            "step": "",
            "groups": _groups(by_checkpoint, {}, None, root, known, band, xs, ends),
        }
    ]
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
            own = (
                checkpoints.get((child, domain))
                if quantity.table == "layers"
                else steps.get((str(parent), child, domain))
            )
            if own is not None:
                before = checkpoints.get((parent, domain)) if parent and quantity.table == "layers" else None
                panels.append(_panel(quantity, frame, domain, own, before, band))
        note = quantity.note + (_BOTH if parent and quantity.table == "layers" else "")
        found.append(Group(title=quantity.title, note=note, source=quantity.table, panels=panels))
    return found


def _panel(quantity: Quantity, frame: Frame, domain: str, own: Rows, before: Rows | None, band: list[int]) -> Panel:
    xs, middle = own["layer"], band[len(band) // 2]
    paths = []
    if quantity.limits:
        paths.append(("ribbon", frame.ribbon(xs, own[quantity.limits[0]], own[quantity.limits[1]])))
    if quantity.column == "auroc":
        paths.append(("text", frame.line(xs, own["best_baseline_auroc"])))
    if before is not None:
        paths.append(("before", frame.line(before["layer"], before[quantity.column])))
    paths.append(("own", frame.line(xs, own[quantity.column])))
    says = f"{quantity.title} in {words(domain)}: {_at(own, middle, quantity.column)} after layer {middle}"
    if before is not None:
        says += f", in the parent {_at(before, middle, quantity.column)}"
    return Panel(
        domain=domain,
        says=says,
        paths=[(kind, path) for kind, path in paths if path],
        x_ends=(number(frame.xs[0], 0), number(frame.xs[1], 0)),
        y_ends=(number(frame.ys[0]), number(frame.ys[1])),
        level=None if quantity.level is None else frame.y(quantity.level),
        band=_shaded(frame, band),
    )


def _at(rows: Rows, layer: int, column: str) -> str:
    found = rows[column][rows["layer"] == layer]
    return number(float(found[0])) if len(found) else MISSING


def _shaded(frame: Frame, band: list[int]) -> tuple[int, int]:
    left = frame.x(min(band) - 0.5)
    return left, frame.x(max(band) + 0.5) - left


def steering_pages(steering: pd.DataFrame, slopes: pd.DataFrame, band: list[int]) -> list[dict[str, Any]]:
    """A page for every steered checkpoint: margin by dose and slope by layer in every domain, damage by dose."""
    added = steering[steering.kind == "add"]
    if added.empty:
        return []
    own, random = added[added.control == "none"], added[added.control != "none"]
    doses = (float(own.alpha.min()), float(own.alpha.max()))
    shift = Frame(doses, span([*own.shift_low, *own.shift_high], at_least=(-0.05, 0.05)))
    at_layers = (float(slopes.layer.min()), float(slopes.layer.max()))
    slope = Frame(at_layers, span([*slopes[slopes.control == "none"].slope], at_least=(-0.1, 0.1)))
    keys = ["checkpoint", "domain"]
    at_doses = slices(own, keys, "alpha", ["alpha", "shift", "shift_low", "shift_high"])
    randoms = slices(random, [*keys, "control"], "alpha", ["alpha", "shift"])
    thin: dict[tuple[str, ...], str] = {}
    for (checkpoint, domain, _), rows in randoms.items():
        thin[checkpoint, domain] = thin.get((checkpoint, domain), "") + shift.line(rows["alpha"], rows["shift"])
    columns = ["layer", "slope", "slope_low", "slope_high"]
    null = slices(slopes[slopes.control == "matched"], keys, "layer", columns)
    slanted = slices(slopes[slopes.control == "none"], keys, "layer", columns)
    pages = []
    for checkpoint, part in own.groupby("checkpoint", sort=False):
        here = [(str(checkpoint), d) for d in dict.fromkeys(part.domain)]
        dosed = [_dose_panel(shift, key[1], at_doses[key], thin.get(key, "")) for key in here]
        sloped = [_slope_panel(slope, key[1], slanted[key], null.get(key), band) for key in here if key in slanted]
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
                    Group(
                        title="Damage against dose",
                        note="On neutral text, which no domain's scenarios are part of.",
                        source="steering",
                        panels=[
                            _damage_panel(damage, "kl", "KL (nats)"),
                            _damage_panel(damage, "perplexity", "Perplexity"),
                        ],
                    ),
                ],
                "damage": records(damage),
            }
        )
    return pages


def _dose_panel(frame: Frame, domain: str, own: Rows, thin: str) -> Panel:
    xs = own["alpha"]
    last = {column: values[-1] for column, values in own.items()}
    return Panel(
        domain=domain,
        says=f"Margin change in {words(domain)} at dose {number(last['alpha'])}: {number(last['shift'], 3)} "
        f"[{number(last['shift_low'], 3)}, {number(last['shift_high'], 3)}]",
        paths=[
            ("random", thin),
            ("bars", frame.bars(xs, own["shift_low"], own["shift_high"])),
            ("own", frame.line(xs, own["shift"])),
            ("dots", frame.dots(xs, own["shift"])),
        ],
        x_ends=(number(frame.xs[0]), number(frame.xs[1])),
        y_ends=(number(frame.ys[0]), number(frame.ys[1])),
        level=frame.y(0.0),
    )


def _damage_panel(damage: pd.DataFrame, column: str, title: str) -> Panel:
    xs, ys = (damage[c].to_numpy(dtype=float) for c in ("alpha", column))
    frame = Frame((float(xs.min()), float(xs.max())), span(ys, at_least=(0.0, 0.0)))
    return Panel(
        domain="",
        title=title,
        says=f"{title} on neutral text at dose {number(float(xs[-1]))}: {number(float(ys[-1]), 3)}",
        paths=[("own", frame.line(xs, ys)), ("dots", frame.dots(xs, ys))],
        x_ends=(number(frame.xs[0]), number(frame.xs[1])),
        y_ends=(number(frame.ys[0]), number(frame.ys[1])),
    )


def _slope_panel(frame: Frame, domain: str, own: Rows, null: Rows | None, band: list[int]) -> Panel:
    paths = [] if null is None else [("null", frame.ribbon(null["layer"], -null["slope_high"], null["slope_high"]))]
    paths.append(("ribbon", frame.ribbon(own["layer"], own["slope_low"], own["slope_high"])))
    paths.append(("own", frame.line(own["layer"], own["slope"])))
    middle = band[len(band) // 2]
    return Panel(
        domain=domain,
        says=f"Slope in {words(domain)} after layer {middle}: {_at(own, middle, 'slope')}",
        paths=paths,
        x_ends=(number(frame.xs[0], 0), number(frame.xs[1], 0)),
        y_ends=(number(frame.ys[0]), number(frame.ys[1])),
        level=frame.y(0.0),
        band=_shaded(frame, band),
    )


def slices(table: pd.DataFrame, keys: list[str], order: str, columns: list[str]) -> Slices:
    """The rows of every combination of the keys, in the given order, as arrays of the columns."""
    ordered = table.sort_values(order, kind="stable")
    arrays = {c: ordered[c].to_numpy(dtype=float) for c in columns}
    places = ordered.groupby(keys, sort=False).indices
    return {tuple(map(str, key)): {c: a[rows] for c, a in arrays.items()} for key, rows in places.items()}


def _axis(quantity: Quantity, table: pd.DataFrame) -> tuple[float, float]:
    if quantity.fixed or table.empty:
        return quantity.axis
    return span(table[quantity.column], at_least=quantity.axis)
