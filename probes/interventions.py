"""Interventions on the residual stream, as values: add, ablate, affine, patch, and any of them on a condition.

Each acts at one site. `hooks` composes them; under `OpenModel.hooked` they are always removed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from activations.openmodel import Hook
from probes.direction import Direction

Residual = Float[torch.Tensor, "row token d_model"]
Where = Float[torch.Tensor, "row token"]  # 1 where an intervention acts, else 0


@runtime_checkable
class Intervention(Protocol):
    """What changes a residual at one site."""

    @property
    def site(self) -> str:
        """The TransformerLens hook name it acts at."""
        ...

    def apply(self, residual: Residual, at: Where) -> Residual:
        """The edited residual, a new tensor; tokens where `at` is 0 are left as they are."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Along:
    direction: Direction

    @property
    def site(self) -> str:
        """The direction's own site."""
        return self.direction.site


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Add(_Along):
    """h ← h + α·τ·u; identity at α = 0.

    `alpha` is in units of τ, the median residual norm of neutral tokens at the direction's site.
    """

    alpha: int | float

    def apply(self, residual: Residual, at: Where) -> Residual:
        """The edited residual."""
        step = torch.as_tensor(self.alpha * self.direction.tau * self.direction.vector).to(residual)
        return residual + at.to(residual)[..., None] * step


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Ablate(_Along):
    """h ← h − u uᵀh: nothing is left along the direction."""

    def apply(self, residual: Residual, at: Where) -> Residual:
        """The edited residual."""
        return _set_projection(residual, at, self.direction, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Affine(_Along):
    """h ← h − u uᵀ(h − μ₋) + α·δ (arXiv:2411.09003): every token's place on the direction set to one value.

    `centre` is uᵀμ₋, the curt sides' mean projection; α = 0 sets a token to the curt sides' mean, α = 1 to the
    compassionate sides' (δ has the direction's `size`).
    """

    centre: int | float
    alpha: int | float

    def apply(self, residual: Residual, at: Where) -> Residual:
        """The edited residual."""
        return _set_projection(residual, at, self.direction, self.centre + self.alpha * self.direction.size)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Patch(_Along):
    """h ← h + share·u uᵀ(h′ − h): the component along u of another checkpoint's residual on the same tokens.

    `source` holds uᵀh′ for every token; `share` 1 is the whole of it, 0 nothing.
    """

    source: Float[torch.Tensor, "row token"]
    share: int | float = 1.0

    def apply(self, residual: Residual, at: Where) -> Residual:
        """The edited residual."""
        return _set_projection(residual, at.to(self.source) * self.share, self.direction, self.source)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Conditional:
    """Another intervention, only at tokens whose projection on `direction` lies above (or below) a threshold.

    The threshold is in the residual stream's units; the projection is that of the residual before the edit, at the
    edit's own site.
    """

    inner: Intervention
    direction: Direction
    threshold: int | float
    above: bool = True

    @property
    def site(self) -> str:
        """The inner intervention's site."""
        return self.inner.site

    def apply(self, residual: Residual, at: Where) -> Residual:
        """The edited residual."""
        projection = residual.float() @ _vector(self.direction, residual)
        beyond = projection > self.threshold if self.above else projection < self.threshold
        return self.inner.apply(residual, at * beyond.to(at))


def hooks(interventions: Sequence[Intervention], at: Where) -> dict[str, Hook]:
    """One hook a site, for `OpenModel.hooked`; at a site the interventions act in the order given."""
    by_site: dict[str, list[Intervention]] = {}
    for each in interventions:
        by_site.setdefault(each.site, []).append(each)
    return {site: _hook(edits, at) for site, edits in by_site.items()}


def apply_all(interventions: Sequence[Intervention], residual: Residual, at: Where) -> Residual:
    """The interventions of one site, one after the other."""
    for each in interventions:
        residual = each.apply(residual, at)
    return residual


def _hook(edits: list[Intervention], at: Where) -> Hook:
    return lambda _site, value: apply_all(edits, value, at)


def _set_projection(
    residual: Residual, at: Where, direction: Direction, wanted: int | float | Float[torch.Tensor, "row token"]
) -> Residual:
    vector = _vector(direction, residual)
    # In float32 whatever the model's dtype: what is left must be the last rounding's, not the product's.
    change = at.float() * (wanted - residual.float() @ vector)
    return (residual.float() + change[..., None] * vector).to(residual)


def _vector(direction: Direction, residual: Residual) -> Float[torch.Tensor, "d_model"]:
    return torch.tensor(direction.vector, dtype=torch.float32, device=residual.device)
