"""export: one direction of a run as a file of its own, for `edit`, other tools, a forward hook, or llama.cpp."""

from pathlib import Path

from rich.console import Console

from activations.model import model_type
from probes.gguf_export import save_gguf
from scripts.reopen import pick, reopened


def export(
    folder: Path,
    checkpoint: str,
    layer: int | None,
    domain: str,
    out: Path,
    study: Path | None,
    console: Console,
) -> None:
    """Write the mass-mean direction of a checkpoint, layer and domain: as safetensors, or where OUT ends in .gguf as
    llama.cpp's control vector.

    Raises:
        InputError: no run, checkpoint, layer or domain of that name, or a layer that llama.cpp cannot steer.
    """
    name, direction = pick(folder, checkpoint, layer, domain)
    if out.suffix == ".gguf":
        save_gguf(direction, out, model_type(reopened(folder, study, name).study, name))
    else:
        direction.save(out)
    said = f"{out}: {direction.method} at {direction.site}, size {direction.size:.3g}, τ {direction.tau:.3g}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
