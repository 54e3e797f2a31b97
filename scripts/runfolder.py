"""A run folder and what every verb needs of it: the study, its texts and tokens, paths, the lock file, progress."""

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from activations import model as models
from activations.artifact import stream_hash, write_json
from activations.errors import InputError
from activations.lineage import Checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan, TokenText
from activations.pairs import PairSet, Template, Text, study_texts
from activations.plan import default_plan, packing_record
from activations.store import ActivationStore
from activations.study import Study
from activations.tokens import first_difference, tokenize
from probes.sides import Layout, layout

PACKAGES = (
    "transformer-lens",
    "torch",
    "transformers",
    "einops",
    "scikit-learn",
    "h5py",
    "matplotlib",
    "peft",
    "numpy",
)


@dataclass(frozen=True, eq=False)
class Run:
    """One study in one run folder."""

    study: Study
    folder: Path
    device: torch.device
    console: Console
    template: Template | None = None  # another study's, where this one serves it

    def activations(self, name: str) -> Path:
        """A checkpoint's store."""
        return self.folder / "activations" / f"{name}.h5"

    def directions(self, name: str) -> Path:
        """A checkpoint's directions."""
        return self.folder / "directions" / f"{name}.safetensors"

    def steering(self, name: str) -> Path:
        """A checkpoint's steered margins and gradients, scenario by scenario."""
        return self.folder / "steering" / name

    def generations(self, name: str) -> Path:
        """A checkpoint's sampled answers."""
        return self.folder / "generations" / f"{name}.json"

    @property
    def contrast(self) -> str:
        """The contrast that is studied; every other one in the pairs is there to be held against it."""
        return self.study.settings.contrast

    @property
    def tables(self) -> Path:
        """The folder of tables."""
        return self.folder / "tables"

    @property
    def figures(self) -> Path:
        """The folder of figures."""
        return self.folder / "figures"

    @cached_property
    def _rendered(self) -> tuple[PairSet, tuple[Text, ...]]:
        return study_texts(self.study, self.template or models.study_template(self.study))

    @property
    def pairs(self) -> PairSet:
        """The pairs the study selects."""
        return self._rendered[0]

    @property
    def texts(self) -> tuple[Text, ...]:
        """Every text of the study, rendered."""
        return self._rendered[1]

    @cached_property
    def tokens(self) -> list[TokenText]:
        """The texts as the root's tokenizer splits them."""
        return self._tokenize(self.study.lineage.root.name)

    def _tokenize(self, name: str) -> list[TokenText]:
        where = f"{self.study.where}, checkpoint {name!r}"
        # A model's context is checked again when it is open; here only the tokenizer is at hand.
        return tokenize(models.study_tokenizer(self.study, name), self.texts, 1 << 30, where)

    def check_tokens(self) -> None:
        """Refuse a lineage whose checkpoints split the study's texts differently (gate G1)."""
        for checkpoint in self.study.lineage.checkpoints:
            if checkpoint.source is None:
                continue  # adapters and edits keep their source's tokenizer
            odd = first_difference(self.texts, self.tokens, self._tokenize(checkpoint.name))
            if odd:
                raise InputError(
                    f"its tokenizer splits text {odd} otherwise than that of {self.study.lineage.root.name!r}",
                    where=f"{self.study.where}, checkpoint {checkpoint.name!r}, source",
                    mend="compare checkpoints of one tokenizer; numbers over different tokens do not compare",
                )

    def determinants(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Everything besides the token ids that determines a checkpoint's activations."""
        settings = self.study.settings
        return {
            "weights": models.weights_identity(self.study, checkpoint.name),
            "dtype": settings.dtype,
            "texts": stream_hash([t.kind, t.text_id, t.text, t.read_from] for t in self.texts),
            "rows": stream_hash([t.domain, t.contrast, t.design, t.side, t.wording] for t in self.texts),
        }

    def plan(self, checkpoint: Checkpoint) -> RowPlan:
        """The study's row plan; an identity control gets another one, so that it is a second measurement."""
        plan = self.recorded_plan() or default_plan(self.device)
        if checkpoint.edit is not None and checkpoint.edit.kind == "identity":
            return RowPlan(row_budget=max(plan.row_budget * 3 // 4, 1), rows_per_batch=plan.rows_per_batch + 1)
        return plan

    def recorded_plan(self) -> RowPlan | None:
        """The row plan that study.lock.json holds, so that every capture of this run lays out its rows alike."""
        found = self._lock().get("row_plan")
        try:
            return RowPlan(row_budget=found["row_budget"], rows_per_batch=found["rows_per_batch"]) if found else None
        except (KeyError, TypeError) as error:
            where = f"{self.folder / 'study.lock.json'}, row_plan"
            raise InputError("is no row plan", where=where, mend="delete the lock file and run again") from error

    def write_lock(self, plan: RowPlan, rates: dict[str, float]) -> None:
        """study.lock.json: the study and where its files lie, its hashes, the row plan and packing, versions.

        Args:
            plan: the row plan; kept as it is from the first capture of a run on.
            rates: tokens per second of the plans that were tried, kept with it ({} keeps what is there).
        """
        before = self._lock()
        lock = {
            "study": self.study.settings.model_dump(mode="json", by_alias=True),
            "checkpoints": {
                c.name: {"parent": c.parent, "stage": c.stage, "weights": models.weights_identity(self.study, c.name)}
                for c in self.study.lineage.checkpoints
            },
            "lineage": [c.table() for c in self.study.lineage.checkpoints],
            "folder": str(self.study.folder.resolve()),
            "pairs_hash": self.pairs.hash,
            "row_plan": {"row_budget": plan.row_budget, "rows_per_batch": plan.rows_per_batch},
            "row_plan_rates": rates or before.get("row_plan_rates", {}),
            "packing": packing_record(self.texts, self.tokens, plan),
            "versions": versions(),
        }
        write_json(self.folder / "study.lock.json", lock)

    def open_store(self, name: str) -> ActivationStore:
        """A checkpoint's finished activations.

        Raises:
            InputError: they are missing, damaged, or belong to other pairs, weights or settings.
        """
        return ActivationStore(self.activations(name))

    @cached_property
    def neutral(self) -> list[TokenText]:
        """The neutral texts, tokenized."""
        return [t for x, t in zip(self.texts, self.tokens, strict=True) if x.kind == "neutral"]

    def open_model(self, name: str) -> OpenModel:
        """A checkpoint, loaded and verified; its edits are centred on the study's neutral texts."""
        neutral = [t.ids for t in self.neutral]
        return models.open_checkpoint(self.study, name, device=self.device, neutral_ids=neutral)

    def layout(self, store: ActivationStore) -> Layout:
        """The scenarios of the study's contrast in a store."""
        return layout(store.rows("response"), self.contrast, str(store.path))

    def about(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The columns every table with a checkpoint carries."""
        return {"stage": checkpoint.stage, "data_domain": checkpoint.data_domain, "seed": checkpoint.seed}

    @contextmanager
    def progress(self, what: str, total: float) -> Iterator[Callable[[float], None]]:
        """A bar with time left, and a line when done; silent where the console is."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        started = time.monotonic()
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda amount: bar.advance(task, amount)
        self.console.print(f"{what}: {time.monotonic() - started:.0f} s")

    def _lock(self) -> dict[str, Any]:
        path = self.folder / "study.lock.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read ({error})", where=str(path), mend="delete it and run again") from error
        return found


def versions(*more: str) -> dict[str, str]:
    """Versions of this project, Python, the packages that make its numbers, and those named."""
    found = {"python": platform.python_version()}
    for package in ("compassion-probes", *PACKAGES, *more):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
