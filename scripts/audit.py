"""audit: what tells the sides of a pair set apart without understanding them, printed and as JSON."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from activations.artifact import write_json
from activations.pairs import load_pairs
from probes.audit import Audit, AuditLimits, audit_pairs, summarise
from probes.sides import POOLED


def audit(references: Sequence[str], limits: AuditLimits, json_file: Path | None, console: Console) -> bool:
    """Audit pairs, print what was found, write it as JSON if asked; whether every limit holds."""
    pairs = load_pairs(*references)
    found = audit_pairs(pairs, limits)
    if json_file is not None:
        write_json(json_file, found.about())
    for block in dict.fromkeys(row.block for row in found.rows):
        console.print(_table(found, block))
        terms = ", ".join(f"{term} {weight:+.2f}" for term, weight in found.terms.get(block, []))
        if terms:
            console.print(f"[bold]TF-IDF leans on[/] (+: positive side) {escape(terms)}")
            console.print(f"[bold]told apart most easily[/] {escape(', '.join(p for p, _ in found.worst[block]))}\n")
    if found.failures:
        console.print(f"[bold]{len(found.failures)} past a limit:[/]")
        for failure in found.failures:
            console.print(f"  {escape(failure)}")
    else:
        console.print("every limit holds")
    return not found.failures


def _table(found: Audit, block: str) -> Table:
    rows = [row for row in found.rows if row.block == block]
    count = next(row.n_scenarios for row in rows if row.domain == POOLED)
    title = f"{block}: {count} scenarios. AUROC, positive over negative side"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("feature", "pooled", "furthest domain", ""):
        table.add_column(name, justify="left" if name in ("feature", "") else "right", no_wrap=True)
    for line in summarise(rows):
        areas = ("" if area is None else f"{area:.2f}" for area in (line.pooled, line.furthest))
        table.add_row(line.feature, *areas, line.domain)
    return table


if __name__ == "__main__":
    from scripts.cli import main

    main("audit")
