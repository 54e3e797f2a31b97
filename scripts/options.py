"""What the verbs of the command line share: arguments and options with one text each, and the device."""

from pathlib import Path
from typing import Annotated, Any

import typer

from activations.errors import InputError

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="A study.toml, or the folder that holds it.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder. Default: runs/<study name>.", show_default=False)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary; errors only.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N. Default: a GPU where there is one.", show_default=False),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
OfCheckpoint = Annotated[str, typer.Option("--checkpoint", help="Default: the lineage's root.", show_default=False)]
AtLayer = Annotated[
    int | None,
    typer.Option(
        "--layer", help="0-based block, -1 for the embedding. Default: middle of the band.", show_default=False
    ),
]
OfDomain = Annotated[str, typer.Option("--domain", help="Default: pooled over domains.", show_default=False)]
OtherStudy = Annotated[
    Path | None,
    typer.Option("--study", help="The study file, where the run's checkpoints have moved.", show_default=False),
]


def chosen_device(device: str | None) -> Any:
    """The torch device of `--device`, or the default one.

    Raises:
        InputError: it cannot be used here.
    """
    import torch
    import transformers

    from activations.model import default_device

    transformers.logging.disable_progress_bar()
    try:
        chosen = torch.device(device) if device else default_device()
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot be used: {reason}", where=f"--device {device}", mend="try --device cpu") from error
    return chosen
