"""Tables to what the report's template walks through: verdicts, gates, branches, doses, the certificate."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.calibration import confusion, requirements
from analysis.tables import read_table
from analysis.verdict import (
    BEHAVIOUR_UP,
    DECLINE,
    DISPOSITION,
    ERODED,
    NO_VERDICT,
    PRESERVED,
    ROTATED,
    STRENGTHENED,
    STRONGER,
    UNSETTLED,
    WEAKER,
)
from probes.sides import POOLED

CERTIFICATE = Path(__file__).parent / "certificate"  # what `compassion calibrate --full` found for this version
KINDS = {
    **dict.fromkeys((ERODED, DECLINE, DISPOSITION, WEAKER), "loss"),
    **dict.fromkeys((PRESERVED,), "kept"),
    **dict.fromkeys((ROTATED,), "turned"),
    **dict.fromkeys((STRENGTHENED, STRONGER, BEHAVIOUR_UP), "gain"),
    **dict.fromkeys(UNSETTLED, "open"),
    NO_VERDICT: "refused",
}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as the template reads them."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def failed_gates(gates: pd.DataFrame) -> list[dict[str, Any]]:
    """Gates that refused a verdict or could not be measured, alike ones of a step together."""
    odd = gates[gates.passed != "yes"]
    rows = []
    for (parent, child, gate, says), part in odd.groupby(["parent", "child", "gate", "says"], sort=False):
        passed = "refuses" if part.passed.iloc[0] == "no" else "not measured"
        about = {"parent": parent, "child": child, "gate": gate, "says": says, "passed": passed}
        rows.append(about | {"domains": ", ".join(part.domain)})
    return rows


def branch_lines(branches: pd.DataFrame) -> list[dict[str, Any]]:
    """Siblings and kinds of training against each other, pooled over domains."""
    rows = branches[(branches.domain == POOLED) & (branches.quantity != "F")]
    return records(rows)


def steering_lines(slopes: pd.DataFrame, layer: int) -> list[dict[str, Any]]:
    """A steered checkpoint's slope in every domain after a layer, and the share of random directions it exceeds."""
    at = slopes[slopes.layer == layer]
    keys = ["checkpoint", "domain"]
    own = at[at.control == "none"]
    matched = at[at.control == "matched"].set_index(keys)[["beaten", "beaten_at_kl", "n_directions"]]
    shuffled = at[at.control == "shuffled"].set_index(keys)[["beaten"]].rename(columns={"beaten": "beaten_shuffled"})
    confounds = at[at.control.str.startswith("confound")].groupby(keys).slope.agg(lambda s: s.abs().max())
    shown = own.drop(columns=["beaten", "beaten_at_kl", "n_directions"]).join(matched, on=keys).join(shuffled, on=keys)
    return records(shown.join(confounds.rename("largest_confound"), on=keys))


def beside_lines(steering: pd.DataFrame) -> list[dict[str, Any]]:
    """Pooled over domains: the largest doses, the direction taken away at every layer, a system prompt instead."""
    pooled = steering[steering.domain == POOLED] if (steering.domain == POOLED).any() else steering
    doses = pooled[(pooled.kind == "add") & (pooled.control == "none")]
    largest = doses[doses.alpha.abs() == doses.alpha.abs().max()]
    return records(pd.concat([largest, pooled[pooled.kind != "add"]]).sort_values("checkpoint", kind="stable"))


def mediation_lines(mediation: pd.DataFrame) -> list[dict[str, Any]]:
    """What putting the parent's component back (or the child's in) recovers, and how many random directions do more."""
    rows = []
    for _, part in mediation.groupby(["parent", "child", "domain", "patched"], sort=False):
        own, controls = part[part.control == "none"].iloc[0], part[part.control != "none"]
        more = {"n_controls": len(controls), "n_above": int((controls.at_kl >= own.at_kl).sum())}
        rows.append({str(k): v for k, v in own.to_dict().items()} | more)
    return rows


def answer_lines(generations: pd.DataFrame) -> list[dict[str, Any]]:
    """One prompt a domain with the answers of every checkpoint and dose."""
    rows = []
    for domain, part in generations.groupby("domain", sort=False):
        first = part[part.scenario_id == part.scenario_id.iloc[0]]
        rows.append({"domain": domain, "prompt": first.prompt.iloc[0], "answers": records(first)})
    return rows


def lone_domains(branches: pd.DataFrame) -> list[dict[str, Any]]:
    """Domains that changed otherwise than the rest: interactions with an adjusted p of at most .05."""
    rows = branches[branches.quantity.str.endswith("interaction") & (branches.p_adjusted <= 0.05)]
    return records(rows)


def dose_lines(doses: pd.DataFrame) -> list[dict[str, Any]]:
    """Pooled dose curves."""
    rows = doses[doses.domain == POOLED] if POOLED in set(doses.domain) else doses
    return records(rows)


def certificate(tables: Path) -> dict[str, Any] | None:
    """The run's own certificate, else the one that ships; None where there is neither."""
    for folder, own in ((tables, True), (CERTIFICATE, False)):
        if (folder / "calibration.csv").is_file():
            table = read_table(folder, "calibration")
            matrices = []
            for world, n in table[["world", "n_scenarios"]].drop_duplicates().itertuples(index=False):
                shares = confusion(table, str(world), int(n))
                rows = [{"truth": truth, "shares": list(row)} for truth, row in shares.iterrows()]
                matrices.append({"world": world, "n": n, "verdicts": list(shares.columns), "rows": rows})
            needed = records(requirements(table))
            return {
                "own": own,
                "matrices": matrices,
                "needed": needed,
                "n": int(table[table.measure == "verdict"].n.min()),
            }
    return None
