"""report: tables to report.html and figures."""

from analysis.report import write_report
from scripts.runfolder import Run


def report(run: Run) -> None:
    """Write the report and say where it is."""
    path = write_report(run.folder)
    run.console.print(f"report: {path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    from scripts.cli import main

    main("report")
