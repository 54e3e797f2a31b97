"""write-docs: the generated pages of docs/ and the schema of results.json; a test compares them with this.

python -m scripts.write_docs
"""

import re
from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from analysis.calibration import AT_DETECTABLE, TRUTHS, confusion, requirements
from analysis.results import SCHEMA, schema_text
from analysis.sections import CERTIFICATE
from analysis.tables import TABLES, read_table
from analysis.worlds import Captured, Gaussian

DOCS = Path(__file__).parents[1] / "docs"


def tables_page() -> str:
    """docs/tables.md: every table and column."""
    lines = [
        "# Tables",
        "",
        "CSV files in `runs/<study>/tables/`, one measurement a row, text columns as written in the study, numbers",
        "with ten significant digits, missing values empty. This page is written by `python -m scripts.write_docs`.",
        "",
    ]
    for name, columns in TABLES.items():
        lines += [f"## {name}.csv", "", "| column | meaning |", "|---|---|"]
        lines += [f"| `{column}` | {meaning} |" for column, meaning in columns.items()]
        lines.append("")
    return "\n".join(lines)


def commands_page() -> str:
    """docs/commands.md: the help of every command."""
    from scripts.cli import app

    def shown(*words: str) -> str:
        env = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "TERMINAL_WIDTH": "100"}
        text = CliRunner().invoke(app, [*words, "--help"], env=env, prog_name="compassion").output
        return "\n".join(re.sub(r"\s+$", "", line) for line in text.strip("\n").splitlines())

    names = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]
    parts = [
        "# Commands",
        "",
        "Bad input ends with exit status 2 and one message that names the file, line or key, and the mend; an",
        "interrupted command ends with 130 and goes on from there when it is given again. This page is written by",
        "`python -m scripts.write_docs`.",
        "",
    ]
    for words in ([], *([n] for n in names)):
        parts += [f"## {' '.join(['compassion', *words])}", "", "```text", shown(*words), "```", ""]
    return "\n".join(parts)


def calibration_page() -> str:
    """docs/calibration.md: the certificate that ships."""
    table = read_table(CERTIFICATE, "calibration")
    prose = (CERTIFICATE.parent / "templates" / "calibration.md").read_text(encoding="utf-8")
    lines = ["| requirement | found | of | where | holds |", "|---|---|---|---|---|"]
    for r in requirements(table).itertuples():
        where = f"{r.world}, {r.truth}, {r.n_scenarios} scenarios"
        lines.append(f"| {r.requirement} | {r.value:.3f} ± {r.mc_error:.3f} | {r.n} | {where} | {r.holds} |")
    short = [r for r in requirements(table).itertuples() if r.holds == "no"]
    lines += ["", *(f"**Does not hold:** {r.requirement} ({r.world}, {r.n_scenarios} scenarios)." for r in short)]
    matrices = []
    cells = table[["world", "n_scenarios"]].drop_duplicates().itertuples(index=False)
    for world, n in cells:
        shares = confusion(table, str(world), int(n))
        part = table[(table.world == world) & (table.n_scenarios == n) & (table.measure != "width")]
        matrices += [f"## {world}, {n} scenarios a domain", ""]
        matrices += [
            f"Per cent of at least {int(part[part.measure == 'verdict'].n.min())} verdicts a row. {_detectable(part)}",
            "",
        ]
        matrices.append("| truth | " + " | ".join(str(c).lower() for c in shares.columns) + " |")
        matrices.append("|---" * (len(shares.columns) + 1) + "|")
        for truth, row in shares.iterrows():
            matrices.append(f"| {truth} | " + " | ".join(f"{100 * v:.1f}" if v > 0 else "·" for v in row) + " |")
        matrices.append("")
    sizes = table.groupby("world", sort=False).n_scenarios.unique()
    cells_here = "; ".join(f"{world} at {', '.join(map(str, at))} scenarios a domain" for world, at in sizes.items())
    about = {"cells": cells_here, "gaussian": _second(Gaussian), "captured": _second(Captured)}
    return prose.format(needed="\n".join(lines), matrices="\n".join(matrices).rstrip(), **about)


def _detectable(part: pd.DataFrame) -> str:
    found = part[(part.measure == "mde") & (part.truth == TRUTHS[0].name)].set_index("name").value
    power = part[(part.measure == "detected") & (part.truth == AT_DETECTABLE)]
    rates = power.set_index("name").value
    return (
        f"Without a change, the smallest detectable loss of retention is {found['R_mde']:.2f} and change of margin "
        f"{found['B_mde']:.2f} SD on average; a domain's own are found in {100 * rates['R_tau']:.0f} and "
        f"{100 * rates['B']:.0f} of 100."
    )


def _second(world: type) -> str:
    """A world's docstring, its first line and what follows as one paragraph."""
    return " ".join((world.__doc__ or "").split())


PAGES = {"tables.md": tables_page, "commands.md": commands_page, "calibration.md": calibration_page}

if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
