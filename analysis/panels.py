"""Small drawings as SVG paths: intervals as glyphs, curves as panels. Cells of tables in, coordinates out.

The templates set them in the page's own colours, so that they read in light, dark and print, and stay small.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

Values = np.ndarray | Sequence[float]
LEFT, RIGHT, TOP, BOTTOM = 26, 196, 5, 78  # of a panel's axes, in a drawing of 200 by 92


@dataclass(frozen=True, kw_only=True, slots=True)
class Glyph:
    """One interval on an axis of 0 to 100: the region of no change, the null, the interval, the estimate."""

    zone: tuple[int, int]
    null: int
    low: int
    high: int
    value: int


def glyph(
    value: float, low: float, high: float, *, null: float, zone: tuple[float, float], axis: tuple[float, float]
) -> Glyph | None:
    """The interval as drawn in a cell, at the axis' end where it lies beyond; None where there is no estimate."""
    if not math.isfinite(value):
        return None

    def at(number: float) -> int:
        share = (number - axis[0]) / (axis[1] - axis[0])
        return round(100 * min(max(share, 0.0), 1.0))

    low, high = (axis[0] if math.isnan(low) else low), (axis[1] if math.isnan(high) else high)
    return Glyph(zone=(at(zone[0]), at(zone[1])), null=at(null), low=at(low), high=at(high), value=at(value))


@dataclass(frozen=True, slots=True)
class Frame:
    """The range of a panel's axes, in the tables' units."""

    xs: tuple[float, float]
    ys: tuple[float, float]

    def x(self, value: float) -> int:
        """Where an abscissa lies."""
        low, high = self.xs
        return round(LEFT + (RIGHT - LEFT) * (value - low) / ((high - low) or 1.0))

    def y(self, value: float) -> int:
        """Where an ordinate lies; beyond the axis, at its end."""
        low, high = self.ys
        share = (value - low) / ((high - low) or 1.0)
        return round(BOTTOM - (BOTTOM - TOP) * min(max(share, 0.0), 1.0))

    def line(self, xs: Values, ys: Values) -> str:
        """A curve; it breaks where a cell is empty."""
        parts, drawing = [], False
        for x, y in zip(xs, ys, strict=True):
            if math.isnan(y):
                drawing = False
                continue
            parts.append(f"{'L' if drawing else 'M'}{self.x(x)} {self.y(y)}")
            drawing = True
        return "".join(parts)

    def ribbon(self, xs: Values, low: Values, high: Values) -> str:
        """The area between two limits; an empty limit ends it."""
        held = [not (math.isnan(a) or math.isnan(b)) for a, b in zip(low, high, strict=True)]
        parts, start = [], 0
        while start < len(held):
            if not held[start]:
                start += 1
                continue
            end = start
            while end < len(held) and held[end]:
                end += 1
            there = [f"{self.x(xs[i])} {self.y(high[i])}" for i in range(start, end)]
            back = [f"{self.x(xs[i])} {self.y(low[i])}" for i in reversed(range(start, end))]
            parts.append("M" + "L".join([*there, *back]) + "Z")
            start = end
        return "".join(parts)

    def bars(self, xs: Values, low: Values, high: Values) -> str:
        """An upright bar for every interval."""
        return "".join(
            f"M{self.x(x)} {self.y(a)}V{self.y(b)}"
            for x, a, b in zip(xs, low, high, strict=True)
            if not (math.isnan(a) or math.isnan(b))
        )

    def dots(self, xs: Values, ys: Values) -> str:
        """Points, as strokes of no length with round ends."""
        return "".join(f"M{self.x(x)} {self.y(y)}h0" for x, y in zip(xs, ys, strict=True) if not math.isnan(y))


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One small drawing: (class, path) pairs from back to front, in words what it shows, the axes' end labels."""

    domain: str
    says: str
    paths: list[tuple[str, str]]
    x_ends: tuple[str, str]
    y_ends: tuple[str, str]
    title: str = ""  # where it is no domain's
    level: int | None = None  # a line of reference
    band: tuple[int, int] | None = None  # left edge and width


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Panels of one quantity, one a domain, on the same axes."""

    title: str
    note: str
    source: str
    panels: list[Panel] = field(default_factory=list)


def span(values: Iterable[float], *, at_least: tuple[float, float]) -> tuple[float, float]:
    """The range that holds finite values and `at_least`; its ends are cells, or `at_least`'s."""
    known = [v for v in values if np.isfinite(v)]
    return min([at_least[0], *known]), max([at_least[1], *known])
