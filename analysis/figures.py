"""Tables to figures. Nothing is computed here: every point drawn is a cell of a table."""

import math
from collections.abc import Sequence
from io import BytesIO, StringIO
from itertools import pairwise
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe–Ito: told apart in all common forms of colour blindness, and in grey by order of use.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "svg.fonttype": "none",
    "svg.hashsalt": "compassion-probes",
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}


def layer_curves(
    layers: pd.DataFrame,
    value: str,
    label: str,
    band: Sequence[int],
    *,
    low: str = "",
    high: str = "",
    floor: float | None = None,
) -> Figure:
    """A quantity of layers.csv (mass-mean rows) over depth: a line a checkpoint, the band shaded."""
    rows = layers[layers.method == "mass-mean"].sort_values("layer", kind="stable")
    parts = _parts(rows[["domain", "checkpoint", "layer", value, "best_baseline_auroc", *filter(None, (low, high))]])
    panels = _panels(_order(rows.domain), _order(rows.checkpoint))
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(panels), 2.0)
        for axis, (title, lines) in zip(axes, panels, strict=True):
            axis.axvspan(min(band) - 0.5, max(band) + 0.5, color="#DDDDDD", alpha=0.6, linewidth=0)
            for number, (domain, checkpoint, name) in enumerate(lines):
                part = parts[domain, checkpoint]
                style = _style(number)
                axis.plot(part.layer, part[value], **style | {"marker": ""}, label=name)
                if low and number == 0:
                    axis.fill_between(part.layer, part[low], part[high], color=style["color"], alpha=0.15, linewidth=0)
            if value == "auroc":
                first = parts[lines[0][:2]]
                axis.plot(first.layer, first.best_baseline_auroc, color=GREY, linestyle=":", label="best baseline")
            if floor is not None:
                axis.axhline(floor, color=GREY, linewidth=0.6)
            axis.set_title(title)
        _finish(figure, axes, "layer", label)
    return figure


def retention_dots(edges: pd.DataFrame) -> Figure:
    """Band retention, frozen retention and margin change with their intervals: by domain and step, or, of many steps,
    a line a step over all domains.
    """
    panels = (("R_tau", "retention of size (τ)", 1.0), ("F", "frozen retention", 1.0), ("B", "margin change (SD)", 0.0))
    labelled = edges.assign(step=edges.parent + " → " + edges.child)
    rows, series = _order(labelled.domain), _order(labelled.step)
    by, within = "domain", "step"
    if len(series) > len(COLOURS):
        everything = "pooled" if "pooled" in rows else rows[0]
        rows, series, by, within = series, [everything], "step", "domain"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.3 + 0.42 * len(rows)))
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), sharey=True)
        for axis, (quantity, title, null) in zip(axes, panels, strict=True):
            axis.axvline(null, color=GREY, linewidth=0.8)
            for number, one in enumerate(series):
                part = labelled[(labelled[within] == one) & (labelled.quantity == quantity)].set_index(by).reindex(rows)
                shift = 0.5 * ((number + 0.5) / len(series) - 0.5)
                axis.errorbar(
                    part.value,
                    [len(rows) - 1 - i - shift for i in range(len(rows))],
                    xerr=[part.value - part.low, part.high - part.value],
                    fmt=MARKERS[number % len(MARKERS)],
                    linewidth=1.2,
                    color=COLOURS[number % len(COLOURS)],
                    label=one,
                )
            axis.set_title(title)
        axes[0].set_yticks(range(len(rows) - 1, -1, -1), [r.replace("_", " ") for r in rows])
        _legend(figure, axes[0], left=0.2 + 0.075 * max(map(len, rows)))
    return figure


def dose_response(steering: pd.DataFrame) -> Figure:
    """The margin's shift from dose 0 against the dose: a line a checkpoint, intervals as bars."""
    steering = steering[(steering.kind == "add") & (steering.control == "none")]
    panels = _panels(_order(steering.domain), _order(steering.checkpoint))
    ordered = steering.sort_values("alpha", kind="stable")
    parts = _parts(ordered[["domain", "checkpoint", "alpha", "shift", "shift_low", "shift_high"]])
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(panels), 1.9)
        for axis, (title, lines) in zip(axes, panels, strict=True):
            axis.axvline(0, color=GREY, linewidth=0.6)
            axis.axhline(0, color=GREY, linewidth=0.6)
            for number, (domain, checkpoint, name) in enumerate(lines):
                part = parts[domain, checkpoint]
                reach = [part["shift"] - part.shift_low, part.shift_high - part["shift"]]
                axis.errorbar(part.alpha, part["shift"], yerr=reach, elinewidth=0.8, **_style(number), label=name)
            axis.set_title(title)
        _finish(figure, axes, "dose α (τ)", "Δ margin (nats/token)")
    return figure


def slope_profile(slopes: pd.DataFrame, band: Sequence[int]) -> Figure:
    """First-order slope by layer: a line a checkpoint; grey: 97.5 % of the first's random ones."""
    panels = _panels(_order(slopes.domain), _order(slopes.checkpoint))
    ordered = slopes.sort_values("layer", kind="stable")[
        ["domain", "checkpoint", "control", "layer", "slope", "slope_high"]
    ]
    own, matched = (_parts(ordered[ordered.control == c]) for c in ("none", "matched"))
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(panels), 1.9)
        for axis, (title, lines) in zip(axes, panels, strict=True):
            axis.axvspan(min(band) - 0.5, max(band) + 0.5, color="#DDDDDD", alpha=0.6, linewidth=0)
            null = matched[lines[0][:2]]
            axis.fill_between(null.layer, -null.slope_high, null.slope_high, color=GREY, alpha=0.35, linewidth=0)
            axis.axhline(0, color=GREY, linewidth=0.6)
            for number, (domain, checkpoint, name) in enumerate(lines):
                part = own[domain, checkpoint]
                axis.plot(part.layer, part.slope, **_style(number) | {"marker": ""}, label=name)
            axis.set_title(title)
        _finish(figure, axes, "layer", "slope (nats/token per τ)")
    return figure


def as_svg(figure: Figure) -> str:
    """The figure as SVG text, the same bytes for the same table."""
    out = StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def as_png(figure: Figure) -> bytes:
    """The figure as PNG, 150 dots an inch."""
    out = BytesIO()
    figure.savefig(out, format="png", dpi=150)
    return out.getvalue()


def _panels(domains: list[str], checkpoints: list[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Titles and lines (domain, checkpoint, name): a panel a domain, or, of more checkpoints than there are colours, a
    panel a checkpoint over all domains, beside the first.
    """
    if len(checkpoints) <= len(COLOURS):
        return [(d.replace("_", " "), [(d, c, c) for c in checkpoints]) for d in domains]
    domain, root = "pooled" if "pooled" in domains else domains[0], checkpoints[0]
    return [(f"{c}, {domain}", [(domain, root, root), (domain, c, "the panel's own")]) for c in checkpoints[1:]]


def _parts(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """A table's rows by domain and checkpoint."""
    return {(str(d), str(c)): part for (d, c), part in table.groupby(["domain", "checkpoint"], sort=False)}


def _order(column: pd.Series) -> list[str]:
    return list(dict.fromkeys(column))


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))[number % 4],
        "marker": MARKERS[number % len(MARKERS)],
    }


def _grid(panels: int, height: float) -> tuple[Figure, list[Any]]:
    columns = min(4, panels)
    lines = math.ceil(panels / columns)
    figure = Figure(figsize=(9.0, 1.0 + height * lines))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, axes[:panels]


def _finish(figure: Figure, axes: list[Any], x: str, y: str) -> None:
    columns = next(
        (i for i, (a, b) in enumerate(pairwise(axes), start=1) if b.get_position().x0 <= a.get_position().x0), len(axes)
    )
    for number, axis in enumerate(axes):
        if number + columns >= len(axes):
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
        if number % columns == 0:
            axis.set_ylabel(y)
    _legend(figure, axes[0])


def _legend(figure: Figure, axis: Any, left: float = 0.65) -> None:
    """One legend below all panels, and the margins around them in inches: a layout engine takes seconds for these."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(max(1, int(8.5 / (0.6 + 0.085 * max(map(len, labels))))), len(labels))
    below = 0.5 + 0.2 * math.ceil(len(labels) / columns)
    width, height = figure.get_size_inches()
    height += below - 0.7
    figure.set_size_inches(width, height)
    figure.subplots_adjust(
        left=left / width, right=1 - 0.1 / width, top=1 - 0.3 / height, bottom=below / height, hspace=0.3, wspace=0.08
    )
    figure.legend(handles, labels, loc="lower center", ncols=columns)
