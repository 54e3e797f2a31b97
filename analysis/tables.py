"""The tidy tables: how they are written and read. Their columns stand in `analysis.columns`."""

from pathlib import Path

import pandas as pd

from activations.artifact import writing
from activations.errors import InputError
from analysis.columns import TABLES

__all__ = ("ELSEWHERE", "TABLES", "TEXT", "read_table", "write_table")

ELSEWHERE = ("calibration", "judged")  # each made by a command of its own
TEXT = (
    *("checkpoint", "parent", "child", "child_a", "child_b", "stage", "data_domain", "domain", "contrast"),
    *("kind", "patched", "scenario_id", "prompt", "text", "judge"),
    *("state", "passed", "says", "verdict", "evidence", "gates_failed", "reasons", "series", "unit", "control"),
    *("world", "truth", "measure"),
)


def write_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all, with exactly its declared columns.

    Raises:
        ValueError: columns are missing or undeclared (a fault of the program, not of its user).
    """
    declared = list(TABLES[name])
    if set(table.columns) != set(declared):
        odd = sorted(set(table.columns) ^ set(declared))
        raise ValueError(f"{name}.csv: columns differ from the declared ones: {odd}")
    with writing(folder / f"{name}.csv") as temporary:
        table[declared].to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read a table that `write_table` wrote; text columns stay text (a domain named "nan" too).

    Raises:
        InputError: the table is missing or not this version's.
    """
    path = folder / f"{name}.csv"
    text = dict.fromkeys((*TEXT, "layer"), str)
    numeric_layer = name != "drift"  # whose band has a row of its own
    try:
        table = pd.read_csv(
            path,
            dtype={c: t for c, t in text.items() if c in TABLES[name] and not (c == "layer" and numeric_layer)},
            keep_default_na=False,
            na_values={c: [""] for c in TABLES[name] if c not in text},
        )
    except OSError as error:
        raise InputError(
            "no such table", where=str(path), mend="run `compassion run` or the stage that makes it"
        ) from error
    missing = [c for c in TABLES[name] if c not in table.columns]
    if missing:
        raise InputError(f"lacks the column {missing[0]!r}", where=str(path), mend="make it again with this version")
    return table
