"""Templates to pages: one jinja2 environment that escapes everything, and how numbers are written."""

import math

import jinja2
import pandas as pd

MISSING = "–"


def environment() -> jinja2.Environment:
    """The templates of this package: text is escaped, an unknown name is an error."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number, "words": words, "line": one_line, "percent": percent}
    return found


def number(value: float | int | None, digits: int = 2) -> str:
    """A cell of a table as it is printed: a dash where it is empty, ∞ where it has no limit, a real minus."""
    if value is None or pd.isna(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:z.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A share as per cent."""
    return MISSING if value is None or pd.isna(value) else f"{number(100 * value, digits)} %"


def words(name: str) -> str:
    """A domain's name as words."""
    return name.replace("_", " ")


def one_line(text: str) -> str:
    """Text for a cell of a Markdown table: no line break, no bar that would end the cell."""
    return " ".join(str(text).split()).replace("|", "\\|")
