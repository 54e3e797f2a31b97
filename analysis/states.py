"""One word for what an interval says of a change: flat, down, up, unclear or lost (METHOD §5).

Flat is tested first: with many scenarios a change far too small to matter is told from none, and "up" by 0.6 % would
make every verdict MIXED.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from activations.study import SmallestEffect
from probes.inference import Estimate

FLAT, DOWN, UP, UNCLEAR, LOST = "flat", "down", "up", "unclear", "lost"
LEVEL, EQUIVALENCE = 0.95, 0.90  # a 90 % interval inside the smallest effect is two one-sided tests at 5 %

Interval = Callable[[float], Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """An estimate with its 95 % limits, its 90 % limits, and the 95 % limits adjusted (Bonferroni) for a family."""

    value: float
    low: float
    high: float
    low_90: float
    high_90: float
    low_adjusted: float
    high_adjusted: float
    p: float = float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """What counts as no change: a null, and the smallest changes that matter on either side of it."""

    null: float
    low: float
    high: float


def limits(interval: Interval, family: int) -> Limits:
    """The three intervals that a state is read from.

    Args:
        interval: the estimate at a confidence level.
        family: tests that share the error rate, the prompt domains of a step; 1 for a pooled row.
    """
    plain, narrow, wide = (interval(level) for level in (LEVEL, EQUIVALENCE, 1 - (1 - LEVEL) / family))
    return Limits(
        value=plain.value,
        low=plain.low,
        high=plain.high,
        low_90=narrow.low,
        high_90=narrow.high,
        low_adjusted=wide.low,
        high_adjusted=wide.high,
        p=plain.p,
    )


def state(found: Limits, region: Region, *, size: bool = False) -> str:
    """Flat, down, up, unclear, or (for the ratio of two sizes) lost.

    Lost is a loss whose interval reaches down to no size at all; an interval that also reaches up to no change shows
    nothing, and is unclear.
    """
    if not np.isfinite([found.low_90, found.high_90, found.low_adjusted, found.high_adjusted]).all():
        return UNCLEAR
    if region.low <= found.low_90 and found.high_90 <= region.high:
        return FLAT
    if found.high_adjusted < region.null:
        return LOST if size and found.low_adjusted <= 0 else DOWN
    if found.low_adjusted > region.null:
        return UP
    return UNCLEAR


def regions(smallest: SmallestEffect) -> dict[str, Region]:
    """No change, by kind of quantity: a ratio, a margin (SD), a position (SD)."""
    kept = 1 - smallest.retention
    return {
        "ratio": Region(null=1.0, low=kept, high=1 / kept),
        "margin": Region(null=0.0, low=-smallest.margin_sd, high=smallest.margin_sd),
        "position": Region(null=0.0, low=-smallest.position_sd, high=smallest.position_sd),
    }
