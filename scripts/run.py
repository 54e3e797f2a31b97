"""run: all stages from capture to report, each picking up what is already there."""

from scripts.analyze import analyze
from scripts.capture import capture
from scripts.mediate import mediate
from scripts.report import report
from scripts.runfolder import Run
from scripts.sample import sample
from scripts.steer import steer
from scripts.train_probes import train_probes


def run_all(run: Run) -> None:
    """The whole job."""
    for stage in (capture, train_probes, steer, sample, analyze, mediate, report):
        stage(run)


if __name__ == "__main__":
    from scripts.cli import main

    main("run")
