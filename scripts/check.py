"""check: the verdicts of a run against a policy; the exit status is for a training pipeline."""

from pathlib import Path

from rich.console import Console

from analysis.policy import read_policy, violations
from analysis.tables import read_table


def check(run: Path, policy: Path, console: Console) -> bool:
    """Print every verdict that breaks the policy; whether none does."""
    rules = read_policy(policy)
    verdicts = read_table(run / "tables", "verdicts")
    broken = violations(rules, verdicts)
    for row in broken.itertuples():
        said = f"{row.parent} → {row.child}, {row.domain}: {row.verdict}, {row.evidence}: {row.reasons}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    n = len(verdicts)
    console.print(f"{len(broken)} of {n} verdicts break {policy}", markup=False, highlight=False, soft_wrap=True)
    return broken.empty
