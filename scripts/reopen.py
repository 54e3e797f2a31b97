"""A finished run opened again: one of its checkpoints, that checkpoint's direction, and the study behind the run."""

from pathlib import Path

import torch
from rich.console import Console

from activations import model as models
from activations.errors import InputError
from activations.openmodel import OpenModel, site_layer
from activations.packing import TokenText
from activations.store import ActivationStore
from activations.study import Study, build_study, read_study
from activations.tokens import tokenize
from analysis.edge import band_layers
from analysis.run_tables import read_lock
from probes.direction import Direction
from probes.fit import load_direction
from probes.sides import POOLED
from scripts.runfolder import Run


def pick(folder: Path, checkpoint: str, layer: int | None, domain: str) -> tuple[str, Direction]:
    """A checkpoint of a run and its mass-mean direction.

    Args:
        folder: the run folder.
        checkpoint: "" takes the lineage's root.
        layer: 0-based block, −1 for the embedding; None takes the middle of the declared band.
        domain: "" takes the direction pooled over domains.

    Raises:
        InputError: no run, checkpoint, layer or domain of that name.
    """
    lock = read_lock(folder)
    known = list(lock["checkpoints"])
    name = checkpoint or next(n for n in known if lock["checkpoints"][n]["parent"] is None)
    if name not in known:
        raise InputError(f"no checkpoint {name!r}", where=str(folder), mend=f"checkpoints: {', '.join(known)}")
    with ActivationStore(folder / "activations" / f"{name}.h5") as store:
        sites = store.sites
    if layer is None:
        band = band_layers(len(sites) - 1, tuple(lock["study"]["layer_band"]))
        layer = band[len(band) // 2]
    if not -1 <= layer < len(sites) - 1:
        raise InputError(f"no layer {layer}", where=str(folder), mend=f"layers: -1 (embedding) to {len(sites) - 2}")
    path = folder / "directions" / f"{name}.safetensors"
    return name, load_direction(
        path, lock["study"].get("contrast", "compassion"), domain or POOLED, "mass-mean", sites[layer + 1]
    )


def reopened(
    folder: Path, study: Path | None, name: str, *, device: torch.device | None = None, console: Console | None = None
) -> Run:
    """The run of a folder, with its study as study.lock.json holds it, or from a study file.

    Args:
        folder: the run folder.
        study: a study.toml to take instead, where the run's own files have moved.
        name: the checkpoint that is wanted.

    Raises:
        InputError: no run, a lock file that holds no lineage, files of the study that are gone, or a checkpoint that
            is no longer what the run captured.
    """
    lock = read_lock(folder)
    where = folder / "study.lock.json"
    again = read_study(study) if study is not None else _locked_study(lock, where)
    mend = "give the study file it was captured from with --study, or capture the study again"
    if name not in again.lineage.by_name:
        raise InputError(f"holds no checkpoint {name!r}, but the run does", where=again.where, mend=mend)
    if models.weights_identity(again, name) != lock["checkpoints"][name]["weights"]:
        raise InputError(
            "its weights are not those that the run captured", where=f"{again.where}, checkpoint {name!r}", mend=mend
        )
    return Run(
        study=again,
        folder=folder,
        device=device if device is not None else models.default_device(),
        console=console if console is not None else Console(quiet=True),
    )


def open_model(run: Run, name: str) -> tuple[OpenModel, list[TokenText]]:
    """A checkpoint of a reopened run, verified as for a capture, and the study's neutral texts as it splits them."""
    where = f"{run.study.where}, checkpoint {name!r}"
    neutral = [text for text in run.texts if text.kind == "neutral"]
    tokens = tokenize(models.study_tokenizer(run.study, name), neutral, 1 << 30, where)
    model = models.open_checkpoint(run.study, name, device=run.device, neutral_ids=[t.ids for t in tokens])
    return model, tokens


def described(direction: Direction) -> str:
    """A direction in a few words: method, domain, layer, and τ in the residual stream's units."""
    layer = site_layer(direction.site)
    where = "the embedding" if layer < 0 else f"layer {layer}"
    return f"{direction.method} of {direction.domain} at {where} (τ {direction.tau:.3g})"


def _locked_study(lock: dict[str, object], where: Path) -> Study:
    if "lineage" not in lock or "folder" not in lock:
        raise InputError(
            "holds no lineage: an earlier version wrote it",
            where=str(where),
            mend="give the study file with --study, or run `compassion capture` on it, which keeps what is captured",
        )
    data = {"study": lock["study"], "checkpoint": lock["lineage"]}
    return build_study(data, where=str(where), folder=Path(str(lock["folder"])))
