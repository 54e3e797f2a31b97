"""run: capture → train-probes → steer → analyze → report, each stage picking up what is already there."""

from scripts.analyze import analyze
from scripts.capture import capture
from scripts.report import report
from scripts.runfolder import Run
from scripts.steer import steer
from scripts.train_probes import train_probes


def run_all(run: Run) -> None:
    """The whole job."""
    for stage in (capture, train_probes, steer, analyze, report):
        stage(run)


if __name__ == "__main__":
    from scripts.cli import main

    main("run")
