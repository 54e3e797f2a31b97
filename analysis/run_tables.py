"""What the report reads of a run folder: its lock file, its tables, its pair audit."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from activations.errors import InputError
from analysis.tables import ELSEWHERE, TABLES, read_table
from probes.audit import AuditRow, AuditSummary, summarise


def read_lock(folder: Path) -> dict[str, Any]:
    """A run folder's study.lock.json.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = folder / "study.lock.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("no run here", where=str(path), mend="give a folder that `compassion run` made") from error
    return found


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Every table of a run; the calibration only where this run has its own.

    Raises:
        InputError: one is missing.
    """
    there = [n for n in TABLES if n not in ELSEWHERE or (folder / "tables" / f"{n}.csv").is_file()]
    return {name: read_table(folder / "tables", name) for name in there}


def read_audit(path: Path) -> list[AuditSummary]:
    """The pair audit, a line per block and surface feature; empty without one.

    Raises:
        InputError: the file is no audit.
    """
    try:
        return summarise(AuditRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("cannot be read as an audit", where=str(path), mend="run `compassion train-probes`") from error
