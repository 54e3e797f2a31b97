"""The verbs that make a run folder: the stages, all of them in turn, and a comparison without a study file."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from activations.artifact import sole_writer
from activations.embedded import is_fetched
from activations.study import Study, read_study
from scripts.options import Device, Out, Quiet, StudyPath, chosen_device


def run(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """The whole job: capture, train-probes, steer, sample, analyze, mediate, report. Resumes where it was stopped."""
    read = read_study(study)
    from scripts.run import run_all

    in_run_folder(run_all, read, out, quiet, device)


def capture(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Cache every checkpoint's residual-stream activations and log-probs."""
    read = read_study(study)
    from scripts.capture import capture as verb

    in_run_folder(verb, read, out, quiet, device)


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

    in_run_folder(lambda run: verb(run, jobs), read, out, quiet, device)


def steer(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Add the direction at several doses, beside controls, and measure margin and damage on held-out scenarios."""
    read = read_study(study)
    from scripts.steer import steer as verb

    in_run_folder(verb, read, out, quiet, device)


def sample(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Sample every checkpoint's own answers and read them with the root's probe."""
    read = read_study(study)
    from scripts.sample import sample as verb

    in_run_folder(verb, read, out, quiet, device)


def mediate(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Where a step lost behaviour, put the parent's component along the direction back and see what returns."""
    read = read_study(study)
    from scripts.mediate import mediate as verb

    in_run_folder(verb, read, out, quiet, device)


def analyze(study: StudyPath, out: Out = None, quiet: Quiet = False, device: Device = None) -> None:
    """Measure what each training step did: size, direction, behaviour."""
    read = read_study(study)
    from scripts.analyze import analyze as verb

    in_run_folder(verb, read, out, quiet, device)


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
        in_run_folder(verb, read, out, quiet, device)
    if compare is not None:
        compare_runs(folder, compare, Console(quiet=quiet))


def compare(
    parent: Annotated[str, typer.Argument(help="Hub id[@revision], folder, or embedded:NAME.")],
    child: Annotated[str, typer.Argument(help="The same, or a LoRA adapter folder trained on PARENT.")],
    out: Out = None,
    quiet: Quiet = False,
    device: Device = None,
    pairs: Annotated[str, typer.Option(help="Pair file, or builtin:compassion.")] = "builtin:compassion",
    contrast: Annotated[str, typer.Option(help="The contrast of the pairs that is studied.")] = "compassion",
    domains: Annotated[str, typer.Option(help="Comma-separated domains; empty takes all.")] = "",
    max_scenarios: Annotated[int | None, typer.Option(help="Scenarios a domain.", show_default=False)] = None,
) -> None:
    """Compare two checkpoints on the built-in pairs, without a study file."""
    from scripts.compare import compare_study
    from scripts.run import run_all

    chosen = pairs if pairs.startswith("builtin:") else str(Path(pairs).resolve())
    kept = [d.strip() for d in domains.split(",") if d.strip()]
    settings: dict[str, Any] = {"pairs": chosen, "contrast": contrast, "domains": kept}
    if max_scenarios is not None:
        settings["max_scenarios"] = max_scenarios
    in_run_folder(run_all, compare_study(parent, child, settings), out, quiet, device)


def in_run_folder(verb: Callable[[Any], None], study: Study, out: Path | None, quiet: bool, device: str | None) -> None:
    """Call a stage on a study's run folder, of which this process is the only writer."""
    from scripts.runfolder import Run

    chosen = chosen_device(device)
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
