"""The `compassion` command: one thin verb a function; a user's mistake prints one message and exits with 2."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from activations.artifact import sole_writer
from activations.embedded import is_fetched
from activations.errors import InputError
from activations.study import Study, read_study

app = typer.Typer(
    name="compassion",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Did a training step weaken, rotate or preserve a model's compassion direction? "
    "Give a study file (`run`) or two checkpoints (`compare`).",
)

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


def _device(device: str | None) -> Any:
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


def _stage(verb: Callable[[Any], None], study: Study, out: Path | None, quiet: bool, device: str | None) -> None:
    from scripts.runfolder import Run

    chosen = _device(device)
    folder = out if out is not None else Path("runs") / study.name
    with sole_writer(folder):
        console = Console(quiet=quiet)
        if not console.is_terminal:
            console = Console(quiet=quiet, width=110)  # a log has no width of its own; tables must not be folded
        for checkpoint in study.lineage.checkpoints:
            name = checkpoint.source.embedded if checkpoint.source is not None else None
            if name is not None and not is_fetched(name):
                console.print(f"fetching the embedded model {name} (once)")
        verb(Run(study=study, folder=folder, device=chosen, console=console))


@app.command()
def run(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """The whole job: capture, train-probes, steer, sample, analyze, mediate, report. Resumes where it was stopped."""
    read = read_study(study)
    from scripts.run import run_all

    _stage(run_all, read, out, quiet, device)


@app.command()
def capture(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Cache every checkpoint's residual-stream activations and log-probs."""
    read = read_study(study)
    from scripts.capture import capture as verb

    _stage(verb, read, out, quiet, device)


@app.command("train-probes")
def train_probes(
    study: StudyPath,
    out: Out = None,
    quiet: Quiet = False,
    device: Device = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; results do not depend on it.")] = None,
) -> None:
    """Cross-fit probes and directions at every layer and domain."""
    read = read_study(study)
    from scripts.train_probes import train_probes as verb

    _stage(lambda run: verb(run, jobs), read, out, quiet, device)


@app.command()
def steer(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Add the direction at several doses, beside controls, and measure margin and damage on held-out scenarios."""
    read = read_study(study)
    from scripts.steer import steer as verb

    _stage(verb, read, out, quiet, device)


@app.command()
def sample(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Sample every checkpoint's own answers and read them with the root's probe."""
    read = read_study(study)
    from scripts.sample import sample as verb

    _stage(verb, read, out, quiet, device)


@app.command()
def mediate(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Where a step lost behaviour, put the parent's component along the direction back and see what returns."""
    read = read_study(study)
    from scripts.mediate import mediate as verb

    _stage(verb, read, out, quiet, device)


@app.command()
def analyze(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Measure what each training step did: size, direction, behaviour."""
    read = read_study(study)
    from scripts.analyze import analyze as verb

    _stage(verb, read, out, quiet, device)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or the study it was made from.")],
    compare: Annotated[
        Path | None,
        typer.Option("--compare", help="Another run's folder: write compare.html too.", show_default=False),
    ] = None,
    out: Out = None,
    quiet: Quiet = False,
    device: Device = None,
) -> None:
    """Write report.html, report.md, results.json and the figures from the tables; with --compare, two runs abreast."""
    from scripts.report import compare_runs, is_run, report_run
    from scripts.report import report as verb

    if is_run(run) and out is None:
        folder = run
        report_run(folder, Console(quiet=quiet))
    else:
        read = read_study(run)
        folder = out if out is not None else Path("runs") / read.name
        _stage(verb, read, out, quiet, device)
    if compare is not None:
        compare_runs(folder, compare, Console(quiet=quiet))


@app.command()
def compare(
    parent: Annotated[str, typer.Argument(help="Hub id[@revision], folder, or embedded:NAME.")],
    child: Annotated[str, typer.Argument(help="The same, or a LoRA adapter folder trained on PARENT.")],
    out: Out = None,
    quiet: Quiet = False,
    device: Device = None,
    pairs: Annotated[str, typer.Option(help="Pair file, or builtin:compassion.")] = "builtin:compassion",
    domains: Annotated[str, typer.Option(help="Comma-separated domains; empty takes all.")] = "",
    max_scenarios: Annotated[int | None, typer.Option(help="Scenarios a domain.", show_default=False)] = None,
) -> None:
    """Compare two checkpoints on the built-in pairs, without a study file."""
    from scripts.compare import compare_study
    from scripts.run import run_all

    chosen = pairs if pairs.startswith("builtin:") else str(Path(pairs).resolve())
    settings: dict[str, Any] = {"pairs": chosen, "domains": [d.strip() for d in domains.split(",") if d.strip()]}
    if max_scenarios is not None:
        settings["max_scenarios"] = max_scenarios
    _stage(run_all, compare_study(parent, child, settings), out, quiet, device)


@app.command()
def export(
    run: RunPath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .gguf for llama.cpp, else safetensors.")
    ],
    checkpoint: OfCheckpoint = "",
    layer: AtLayer = None,
    domain: OfDomain = "",
    study: OtherStudy = None,
) -> None:
    """Write one direction of a run as a safetensors file, or as a llama.cpp control vector of length τ (.gguf)."""
    from scripts.export import export as verb

    verb(run, checkpoint, layer, domain, out, study, Console())


@app.command()
def read(
    run: RunPath,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; `-` reads the standard input.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Read the text of a file.", show_default=False)] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Read TEXT as the answer to this, in the study's template.", show_default=False),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page of it here too.", show_default=False)] = None,
    checkpoint: OfCheckpoint = "",
    layer: AtLayer = None,
    domain: OfDomain = "",
    study: OtherStudy = None,
    device: Device = None,
) -> None:
    """Colour every token of a text by its projection on a run's direction, on the scale of neutral text."""
    from scripts.read import given_text
    from scripts.read import read as verb

    verb(
        run,
        given_text(text, file),
        prompt=prompt,
        html=html,
        checkpoint=checkpoint,
        layer=layer,
        domain=domain,
        study=study,
        device=_device(device),
        console=Console(),
    )


@app.command()
def generate(
    run: RunPath,
    prompt: Annotated[str, typer.Option(help="What the model is asked, in the study's template.")],
    alpha: Annotated[
        list[float] | None, typer.Option(help="Dose in units of τ; once for each. 0 comes first anyway.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers a dose.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where an answer that does not end is cut.")] = 80,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option(min=0, help="The same for every dose.")] = 0,
    checkpoint: OfCheckpoint = "",
    layer: AtLayer = None,
    domain: OfDomain = "",
    study: OtherStudy = None,
    device: Device = None,
) -> None:
    """Let a checkpoint answer a prompt, without steering and with its direction added at each dose."""
    from scripts.generate import generate as verb

    verb(
        run,
        prompt,
        alpha or [],
        checkpoint=checkpoint,
        layer=layer,
        domain=domain,
        study=study,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        device=_device(device),
        console=Console(),
    )


@app.command()
def audit(
    pairs: Annotated[list[str], typer.Argument(metavar="PAIRS...", help="Pair files, folders, or builtin:NAME.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything the audit found here.", show_default=False)
    ] = None,
    feature_limit: Annotated[float, typer.Option(help="AUROC of a single feature, over all domains.")] = 0.60,
    domain_limit: Annotated[float, typer.Option(help="AUROC of a single feature in one domain.")] = 0.65,
    tfidf_limit: Annotated[float, typer.Option(help="AUROC of TF-IDF or naive Bayes on held-out scenarios.")] = 0.75,
    quiet: Quiet = False,
) -> None:
    """Say how well surface features tell the sides of pairs apart. Exits with 1 where a limit is passed."""
    from probes.audit import AuditLimits
    from scripts.audit import audit as verb

    limits = AuditLimits(feature=feature_limit, feature_domain=domain_limit, tfidf=tfidf_limit)
    passed = verb(pairs, limits, json_file, Console(quiet=quiet))
    raise typer.Exit(0 if passed else 1)


@app.command()
def check(
    run: RunPath,
    policy: Annotated[Path, typer.Option(help="policy.toml; docs/verdicts.md says what it holds.")],
    quiet: Quiet = False,
) -> None:
    """Hold a run's verdicts against a policy. Exits with 1 where one breaks it."""
    from scripts.check import check as verb

    raise typer.Exit(0 if verb(run, policy, Console(quiet=quiet, width=110)) else 1)


@app.command()
def calibrate(
    run: Annotated[
        Path | None,
        typer.Option(help="Plant effects in the residuals of this run's first step too.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for calibration.csv. Default: RUN/tables.", show_default=False)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every truth, a thousand verdicts a cell; an hour.")] = False,
    quiet: Quiet = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; results do not depend on it.")] = None,
) -> None:
    """Measure the instrument's own error rates on steps whose truth is known. Exits with 1 where one is too high."""
    from scripts.calibrate import calibrate as verb

    held = verb(
        run, out, full=full, jobs=jobs, console=Console(quiet=quiet, width=None if sys.stdout.isatty() else 180)
    )
    raise typer.Exit(0 if held else 1)


@app.command()
def doctor() -> None:
    """Say what is installed, which device is used, and whether the embedded model loads."""
    from scripts.doctor import doctor as verb

    verb(Console())


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
