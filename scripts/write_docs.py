"""write-docs: the generated pages of docs/ (tables, commands). A test compares them with what this would write.

python -m scripts.write_docs
"""

import re
from pathlib import Path

from typer.testing import CliRunner

from analysis.tables import TABLES

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


PAGES = {"tables.md": tables_page, "commands.md": commands_page}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
