"""A lineage of checkpoints: each is whole weights, or its parent plus one thing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from activations.errors import InputError

Stage = Literal["base", "midtrain", "sft", "dpo", "rl", "control"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Whole weights: exactly one of an embedded model's name, a hub id, or a local folder."""

    embedded: str | None = None
    hub: str | None = None
    revision: str | None = None
    subfolder: str = ""
    path: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A peft LoRA folder, merged on the parent with its update multiplied by `scale`."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """A known change of the parent's weights, made here (see activations/edits.py).

    `kind` is "identity" (nothing; the checkpoint is captured anew under another row budget), "round" (weights through
    the number format `to` and back), "attenuate" (remove the share `amount` of everything written along the direction
    in `direction`) or "rotate" (turn every residual by `amount` degrees and keep the model's function).
    """

    kind: Literal["identity", "round", "attenuate", "rotate"]
    amount: float = 0.0
    direction: Path | None = None
    to: Literal["", "bfloat16", "int8"] = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One model of the lineage. Exactly one of `source`, `adapter` and `edit` is set."""

    name: str
    stage: Stage
    parent: str | None = None
    source: Source | None = None
    adapter: Adapter | None = None
    edit: Edit | None = None
    data_domain: str = ""
    seed: int | None = None

    def table(self) -> dict[str, Any]:
        """The [[checkpoint]] table of a study file that says this, every path absolute; `build_study` reads it."""
        said: dict[str, Any] = {"name": self.name, "stage": self.stage, "data_domain": self.data_domain}
        said |= {key: value for key, value in (("parent", self.parent), ("seed", self.seed)) if value is not None}
        if self.source is not None:
            said["source"] = {k: v for k, v in asdict(self.source).items() if v} | _absolute(path=self.source.path)
        if self.adapter is not None:
            said |= _absolute(adapter=self.adapter.path) | {"scale": self.adapter.scale}
        if self.edit is not None:
            amounts: dict[str, dict[str, Any]] = {
                "identity": {"identity": True},
                "round": {"round": self.edit.to},
                "attenuate": {"attenuate": self.edit.amount} | _absolute(direction=self.edit.direction),
                "rotate": {"rotate": self.edit.amount},
            }
            said["edit"] = amounts[self.edit.kind]
        return said


@dataclass(frozen=True, slots=True)
class Lineage:
    """Checkpoints joined by parent edges: one root, no cycles, parents before children.

    Raises:
        InputError: duplicate names, no or several roots, an unknown parent, a cycle, or a root without weights;
            the message names the checkpoint and the key.
    """

    checkpoints: tuple[Checkpoint, ...]
    where: str = "study"
    by_name: Mapping[str, Checkpoint] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        names: dict[str, Checkpoint] = {}
        for checkpoint in self.checkpoints:
            if checkpoint.name in names:
                raise self._error(checkpoint, "name", "this name is taken by an earlier checkpoint", "rename one")
            names[checkpoint.name] = checkpoint
        for checkpoint in self.checkpoints:
            self._check_one(checkpoint, names)
        roots = [c.name for c in self.checkpoints if c.parent is None]
        if len(roots) != 1:
            found = f"{len(roots)} checkpoints have no parent ({', '.join(roots)})" if roots else "no root"
            raise InputError(
                f"a lineage has one root, but {found}",
                where=f"{self.where}, [[checkpoint]]",
                mend="give every checkpoint but the first ancestor a `parent`",
            )
        object.__setattr__(self, "checkpoints", tuple(self._ordered(names)))
        object.__setattr__(self, "by_name", MappingProxyType({c.name: c for c in self.checkpoints}))

    @property
    def root(self) -> Checkpoint:
        """The common ancestor."""
        return self.checkpoints[0]

    @property
    def edges(self) -> list[tuple[Checkpoint, Checkpoint]]:
        """(parent, child) for every training step, parents first."""
        return [(self.by_name[c.parent], c) for c in self.checkpoints if c.parent is not None]

    def chain(self, name: str) -> list[Checkpoint]:
        """From the nearest checkpoint with whole weights down to `name`: what has to be loaded and applied."""
        chain = [self.by_name[name]]
        while chain[0].source is None:
            parent = chain[0].parent
            assert parent is not None  # __post_init__ refuses a root without weights
            chain.insert(0, self.by_name[parent])
        return chain

    def _check_one(self, checkpoint: Checkpoint, names: Mapping[str, Checkpoint]) -> None:
        given = [k for k in ("source", "adapter", "edit") if getattr(checkpoint, k) is not None]
        if len(given) != 1:
            said = " and ".join(given) if given else "none of them"
            raise self._error(
                checkpoint, "source", f"needs exactly one of source, adapter, edit; found {said}", "keep just one"
            )
        if checkpoint.parent is None and checkpoint.source is None:
            raise self._error(
                checkpoint, given[0], "has no parent to apply this to", "add `parent`, or give it a `source`"
            )
        if checkpoint.parent is not None and checkpoint.parent not in names:
            raise self._error(
                checkpoint,
                "parent",
                f"unknown checkpoint {checkpoint.parent!r}",
                f"known checkpoints: {', '.join(names)}",
            )

    def _ordered(self, names: Mapping[str, Checkpoint]) -> list[Checkpoint]:
        ordered: list[Checkpoint] = []
        placed: set[str | None] = {None}
        waiting = list(names.values())
        while waiting:
            ready = [c for c in waiting if c.parent in placed]
            if not ready:
                loop = ", ".join(c.name for c in waiting)
                raise self._error(waiting[0], "parent", f"these checkpoints form a cycle: {loop}", "break the cycle")
            ordered += ready
            placed |= {c.name for c in ready}
            waiting = [c for c in waiting if c.name not in placed]
        return ordered

    def _error(self, checkpoint: Checkpoint, key: str, problem: str, mend: str) -> InputError:
        return InputError(problem, where=f"{self.where}, checkpoint {checkpoint.name!r}, {key}", mend=mend)


def _absolute(**paths: Path | None) -> dict[str, str]:
    return {key: str(path.resolve()) for key, path in paths.items() if path is not None}
