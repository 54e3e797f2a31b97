"""Slopes of the margin along a direction, against sets of control directions at equal norm and at matched KL."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from probes.controls import without
from probes.inference import mean_interval
from probes.sides import Sides

MATCHED_KL = 0.01  # nats a neutral token at which effects of different directions are compared

Rows = Float[np.ndarray, "direction d_model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """One direction's effect, or a set's, on one slice. Slopes are nats a token per τ.

    For a set of control directions `slope`, `low` and `high` are the mean and the 2.5 % and 97.5 % points of |slope|
    over directions, `effect_at_kl` and `dose_at_kl` means, and `beaten` the share of them that the direction exceeds.
    """

    control: str
    n_directions: int
    n_scenarios: int
    slope: float
    low: float
    high: float
    sd: float
    anti_steerable: float
    effect_at_kl: float
    dose_at_kl: float
    beaten: float
    beaten_at_kl: float


def control_sets(
    sides: Sides,
    direction: Float[np.ndarray, "d_model"],
    confounds: Mapping[str, np.ndarray],
    *,
    draws: int,
    seed: int | Sequence[int],
) -> dict[str, Rows]:
    """Unit directions to compare a direction with, by what they are.

    matched: N(0, Σ), Σ the covariance of the texts about their own side's mean; orthogonal: the same outside the
    direction; shuffled: mean differences with sides swapped at random; and each confound's own direction.

    Args:
        sides: of scenarios that are not scored.
        direction: the unit direction.
        confounds: by name the mean difference of other contrasts.
        draws: directions a random set.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    rows = np.concatenate([s - s.mean(axis=0) for s in (sides.positive, sides.negative)])
    matched = rng.normal(size=(draws, len(rows))) @ rows
    signs = rng.choice([-1.0, 1.0], size=(draws, len(sides.difference)))
    found = {
        "matched": matched,
        "orthogonal": without(matched, direction[None]),
        "shuffled": signs @ sides.difference,
    }
    found |= {f"confound: {name}": mean[None] for name, mean in confounds.items()}
    return {name: v / np.linalg.norm(v, axis=1, keepdims=True) for name, v in found.items()}


def slopes(
    gradient: Float[np.ndarray, "scenario d_model"],
    fisher: Float[np.ndarray, "sample d_model"],
    tau: float,
    direction: Float[np.ndarray, "d_model"],
    controls: Mapping[str, Rows],
    members: Int[np.ndarray, "n"],
) -> Iterator[Slope]:
    """First-order effects of a direction and of every control set on some scenarios, at one site.

    Args:
        gradient: of every scenario's margin by a step at all its edited tokens (`margin_gradients`).
        fisher: samples whose products give the KL of a step (`fisher_samples`).
        tau: the unit of doses.
        direction: the unit direction, fitted on other scenarios.
        controls: unit directions (`control_sets`).
        members: the scenarios of the slice.
    """
    own = tau * gradient[members] @ direction
    per_kl, dose = _at_kl(own.mean(), direction[None], fisher, tau)
    interval = mean_interval(own)
    yield Slope(
        control="none",
        n_directions=1,
        n_scenarios=len(members),
        slope=interval.value,
        low=interval.low,
        high=interval.high,
        sd=float(own.std(ddof=1)) if len(own) > 1 else float("nan"),
        anti_steerable=float((own < 0).mean()),
        effect_at_kl=float(per_kl[0]),
        dose_at_kl=float(dose[0]),
        beaten=float("nan"),
        beaten_at_kl=float("nan"),
    )
    mean = tau * gradient[members].mean(axis=0)
    for name, rows in controls.items():
        size = np.abs(rows @ mean)
        theirs, doses = _at_kl(size, rows, fisher, tau)
        low, high = np.quantile(size, [0.025, 0.975])
        yield Slope(
            control=name,
            n_directions=len(rows),
            n_scenarios=len(members),
            slope=float(size.mean()) if len(rows) > 1 else float(rows[0] @ mean),
            low=float(low) if len(rows) > 1 else float("nan"),
            high=float(high) if len(rows) > 1 else float("nan"),
            sd=float("nan"),
            anti_steerable=float("nan"),
            effect_at_kl=float(theirs.mean()),
            dose_at_kl=float(doses.mean()),
            beaten=float((size < interval.value).mean()),
            beaten_at_kl=float((theirs < per_kl[0]).mean()),
        )


def _at_kl(
    slope: float | np.floating | Float[np.ndarray, "direction"],
    rows: Rows,
    fisher: Float[np.ndarray, "sample d_model"],
    tau: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The effect, and the dose in τ, at which neutral text has lost `MATCHED_KL`: KL ≈ ½ α²τ² Σ_g (g·v)²."""
    curvature = tau**2 * np.square(rows @ fisher.T).sum(axis=1)
    dose = np.sqrt(2 * MATCHED_KL / np.maximum(curvature, 1e-300))
    return np.asarray(slope * dose), dose
