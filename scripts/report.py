"""report: tables to report.html, report.md, results.json and figures; two runs beside each other."""

from pathlib import Path

from rich.console import Console

from activations.artifact import sole_writer
from activations.errors import InputError
from analysis.report import write_report
from analysis.side_by_side import write_comparison
from scripts.runfolder import Run


def report(run: Run) -> None:
    """Write the report and say where it is."""
    _write(run.folder, run.console)


def report_run(folder: Path, console: Console) -> None:
    """The same for a finished run's folder, whose study file is not needed."""
    with sole_writer(folder):
        _write(folder, console)


def compare_runs(folder: Path, other: Path, console: Console) -> None:
    """Write compare.html into `folder` and say where it is.

    Raises:
        InputError: the other folder is this one, or no run.
    """
    if folder.resolve() == other.resolve():
        raise InputError("is the run itself", where=f"--compare {other}", mend="give another run's folder")
    with sole_writer(folder):
        path = write_comparison(folder, other)
    console.print(f"comparison: {path}", soft_wrap=True, highlight=False)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, and not a study's."""
    return (path / "study.lock.json").is_file()


def _write(folder: Path, console: Console) -> None:
    path = write_report(folder)
    console.print(f"report: {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    from scripts.cli import main

    main("report")
