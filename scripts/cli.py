"""The `compassion` command: every verb in the order of its help; a user's mistake is one message and exit status 2."""

import logging
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from activations.errors import InputError
from scripts import run_verbs, stage_verbs

VERBS = (
    *(stage_verbs.run, stage_verbs.capture, stage_verbs.train_probes, stage_verbs.steer, stage_verbs.sample),
    *(stage_verbs.mediate, stage_verbs.analyze, stage_verbs.report, stage_verbs.compare),
    *(run_verbs.export, run_verbs.read, run_verbs.generate, run_verbs.judge, run_verbs.audit),
    *(run_verbs.check, run_verbs.calibrate, run_verbs.doctor),
)

app = typer.Typer(
    name="compassion",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Did a training step weaken, rotate or preserve a model's compassion direction? "
    "Give a study file (`run`) or two checkpoints (`compare`).",
)
for verb in VERBS:
    app.command(verb.__name__.replace("_", "-"))(verb)


def main(*prepend: str) -> NoReturn:
    """Entry point: `compassion …`, or one verb of it (`python -m scripts.capture …`)."""
    _settle_libraries()
    try:
        code = app([*prepend, *sys.argv[1:]], standalone_mode=False)
    except InputError as error:
        Console(stderr=True).print(f"error: {error}", style="", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error of the command line itself
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)


def _settle_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("root").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"transformer_lens|transformers|peft|torch")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"compassion-probes {version('compassion-probes')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
