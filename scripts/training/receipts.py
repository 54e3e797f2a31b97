"""Receipts as Markdown tables: what each stage learned, what rewards did, which stages moved the margin otherwise."""

from typing import Any

import numpy as np

from probes.inference import mean_interval
from scripts.training.recipe import Recipe


def receipts_table(receipts: list[dict[str, Any]]) -> str:
    """The receipts as a Markdown table: what each stage learned, and whether it is what it claims to be.

    Δ margin is the mean change, over the manipulation pairs, of the log-prob a token of the positive answer over the
    negative one, with its standard error.
    """
    columns = "checkpoint", "parent", "dose", "steps", "own loss or reward", "neutral perplexity", "Δ margin", "holds"
    rows = [list(columns), ["---"] * len(columns)]
    for receipt in receipts:
        stage, before, after = receipt["stage"], receipt["before"], receipt["after"]
        if stage["kind"] == "reward":
            own, dose = "reward", f"{stage['steps'] * stage['batch'] * stage['group']:,} samples"
        else:
            own, dose = "held_out_loss", f"{sum(receipt['tokens'].values()):,} tokens × {stage['epochs']}"
        moved = np.subtract(after.get("margins", []), before.get("margins", []))
        margin = f"{moved.mean():+.3f} ± {moved.std(ddof=1) / len(moved) ** 0.5:.3f}" if len(moved) > 1 else ""
        failed = [name for name, holds in receipt["checks"].items() if not holds]
        rows.append(
            [
                stage["name"],
                stage["parent"],
                dose,
                str(receipt["steps"]),
                f"{before[own]:.3f} → {after[own]:.3f}",
                f"{before['neutral_perplexity']:.1f} → {after['neutral_perplexity']:.1f}",
                margin.replace("-", "−"),
                f"no: {', '.join(failed)}" if failed else "yes",
            ]
        )
    return _markdown(rows)


def rewards_table(receipts: list[dict[str, Any]]) -> str:
    """Markdown: the training reward of reward stages by quarter of their steps, and the share of groups that taught
    nothing because all their completions earned the same.
    """
    columns = "checkpoint", "reward, by quarter of the steps", "groups without spread"
    rows = [list(columns), ["---"] * len(columns)]
    for receipt in receipts:
        if receipt["stage"]["kind"] == "reward":
            quarters = [f"{part.mean():.3f}" for part in np.array_split(np.asarray(receipt["reward_curve"]), 4)]
            rows.append([receipt["stage"]["name"], ", ".join(quarters), f"{receipt['groups_without_spread']:.0%}"])
    return _markdown(rows)


def contrasts_table(recipe: Recipe, receipts: list[dict[str, Any]]) -> str:
    """Markdown: the recipe's contrasts, each a signed sum of stages' margin changes, pair by pair; 95 % t limits.

    A contrast whose stages are not all trained is left out.
    """
    moved = {
        r["stage"]["name"]: np.subtract(r["after"]["margins"], r["before"]["margins"])
        for r in receipts
        if r["after"].get("margins")
    }
    rows = [["contrast", "Δ margin (nats a token)", "p"], ["---"] * 3]
    for one in recipe.contrast:
        if not {*one.plus, *one.minus} <= moved.keys():
            continue
        values = sum((moved[name] for name in one.plus), np.zeros(1)) - sum((moved[n] for n in one.minus), np.zeros(1))
        found = mean_interval(np.asarray(values, dtype=np.float64))
        said = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-", "−")
        rows.append([one.says, said, f"{found.p:.1e}" if found.p < 0.001 else f"{found.p:.3f}"])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
