"""export: one direction of a run as a safetensors file of its own, for `edit`, other tools, or a forward hook."""

from pathlib import Path

from rich.console import Console

from activations.errors import InputError
from activations.store import ActivationStore
from analysis.edge import band_layers
from analysis.report import read_lock
from probes.fit import load_direction
from probes.sides import POOLED

CONTRAST = "compassion"


def export(folder: Path, checkpoint: str, layer: int | None, domain: str, out: Path, console: Console) -> None:
    """Write the mass-mean direction of a checkpoint, layer and domain.

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
    direction = load_direction(
        folder / "directions" / f"{name}.safetensors", CONTRAST, domain or POOLED, "mass-mean", sites[layer + 1]
    )
    direction.save(out)
    console.print(f"{out}: {direction.method} at {direction.site}, size {direction.size:.3g}, τ {direction.tau:.3g}")
