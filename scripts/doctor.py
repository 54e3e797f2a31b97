"""doctor: what is installed, which device is used, whether the embedded model loads and its hooks are faithful."""

import platform
import time

import torch
from rich.console import Console

from activations.embedded import cache_folder
from activations.model import default_device, open_checkpoint
from activations.study import build_study
from scripts.runfolder import versions


def doctor(console: Console) -> None:
    """Print the findings; a fault raises InputError, as it would in a run."""
    from pathlib import Path

    for name, version in versions().items():
        console.print(f"{name:18} {version}", highlight=False)
    device = default_device()
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    console.print(f"{'device':18} {device} ({named}), {torch.get_num_threads()} threads", highlight=False)
    console.print(f"{'cache':18} {cache_folder()}", highlight=False, soft_wrap=True)
    study = build_study(
        {
            "study": {"name": "doctor"},
            "checkpoint": [{"name": "embedded", "stage": "base", "source": {"embedded": "smollm2-135m-instruct"}}],
        },
        where="doctor",
        folder=Path.cwd(),
    )
    started = time.monotonic()
    model = open_checkpoint(study, "embedded", device=device, neutral_ids=[])
    receipt = model.receipt
    console.print(
        f"{'embedded model':18} loads in {time.monotonic() - started:.1f} s: {receipt['n_layers']} blocks, d_model "
        f"{receipt['d_model']}",
        highlight=False,
    )
    console.print(
        f"{'hooks':18} deviate by {receipt['hook_deviation']:.1e} from plain forward hooks, packed rows by "
        f"{receipt['packing_deviation']:.1e}",
        highlight=False,
        soft_wrap=True,
    )
    console.print("all is well", highlight=False)


if __name__ == "__main__":
    from scripts.cli import main

    main("doctor")
