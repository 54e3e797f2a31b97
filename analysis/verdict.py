"""Verdicts: a pure function of edges.csv and gates.csv (and mediation.csv, branches.csv where there are). METHOD §5.

Every rule reads states, never numbers; every reason prints the numbers that made the states.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.attribution import attributable
from analysis.states import DOWN, FLAT, LOST, UNCLEAR, UP

NO_VERDICT = "NO VERDICT"
MIXED = "MIXED"
ERODED = "ERODED"
WEAKER = "REPRESENTATION WEAKER"
ROTATED = "ROTATED, NOT ERODED"
DISPOSITION = "DISPOSITION SHIFT"
DECLINE = "BEHAVIOURAL DECLINE"
PRESERVED = "PRESERVED"
STRENGTHENED = "STRENGTHENED"
STRONGER = "REPRESENTATION STRONGER"
BEHAVIOUR_UP = "BEHAVIOUR STRENGTHENED"
INCONCLUSIVE = "INCONCLUSIVE"

# From the mildest to the worst; what stands in UNSETTLED is no place on this scale.
SEVERITY = (STRENGTHENED, BEHAVIOUR_UP, STRONGER, PRESERVED, ROTATED, WEAKER, DISPOSITION, DECLINE, ERODED)
UNSETTLED = (MIXED, INCONCLUSIVE, NO_VERDICT)
LEVELS = ("E0", "E1", "E2", "E3", "E4", "E5")
LOSS = (DOWN, LOST)
ENOUGH_CONTROLS = 99

_EXPLAINED = {
    MIXED: "what was measured points in opposite directions; nothing is averaged",
    ERODED: "the direction shrank and the model's preference fell with it",
    WEAKER: "the direction shrank",
    ROTATED: "the direction kept its size and turned: the parent's own reader and the child's miss part of each other",
    DISPOSITION: "the direction kept its size; the prompt's position on it and the model's preference fell",
    DECLINE: "the model's preference fell while the direction kept its size: the direction is not implicated",
    PRESERVED: "size, direction and behaviour stayed within the smallest effects that matter",
    STRENGTHENED: "the direction grew and the model's preference rose",
    STRONGER: "the direction grew",
    BEHAVIOUR_UP: "the model's preference rose while the direction kept its size",
    INCONCLUSIVE: "no verdict fits what was found",
}
_NAMES = {
    "R_tau": "retention (τ)",
    "R_sd": "retention (σ)",
    "F": "frozen retention",
    "F_reverse": "reverse transfer",
    "F_aligned": "aligned transfer",
    "P": "shift at the prompt (SD)",
    "B": "margin change (SD)",
    "B_pmi": "PMI margin change (SD)",
    "G": "generated answers (SD)",
    "S": "steerability",
    "sigma": "within-side spread",
}
_DECIDING = ("R_tau", "F", "F_reverse", "B", "P")


def head(verdict: str) -> str:
    """A verdict without what is appended to it."""
    return next(v for v in (*SEVERITY, *UNSETTLED) if verdict == v or verdict.startswith(f"{v}; "))


def decide(states: Mapping[str, str], failed: Iterable[str] = ()) -> str:
    """The verdict: the first rule that fits.

    Args:
        states: by quantity (R_tau, R_sd, F, F_reverse, P, B …) its state; a missing one is unclear.
        failed: gates that did not pass.
    """
    r, sd, b = (states.get(name, UNCLEAR) for name in ("R_tau", "R_sd", "B"))
    f, back, p = (states.get(name, UNCLEAR) for name in ("F", "F_reverse", "P"))
    lost, kept, grown = r in LOSS, r == FLAT, r == UP
    rules = (
        (next(iter(failed), None) is not None, NO_VERDICT),
        (_sign(r) * _sign(sd) < 0 or _sign(r) * _sign(b) < 0, MIXED),
        (lost and b == DOWN, ERODED),
        (lost, f"{WEAKER}; behaviour {'preserved' if b == FLAT else 'undetermined'}"),
        (kept and f == DOWN and back == DOWN, f"{ROTATED}; behaviour {b}"),
        (kept and p == DOWN and b == DOWN, DISPOSITION),
        (kept and b == DOWN, DECLINE),
        (kept and f == FLAT and b == FLAT and p != DOWN, PRESERVED),
        (grown and b == UP, STRENGTHENED),
        (grown, f"{STRONGER}; behaviour {'unchanged' if b == FLAT else 'undetermined'}"),
        (kept and b == UP, BEHAVIOUR_UP),
        (True, INCONCLUSIVE),
    )
    return next(verdict for holds, verdict in rules if holds)


def evidence(
    states: Mapping[str, str],
    values: Mapping[str, float],
    highs: Mapping[str, float],
    *,
    mediated: bool = False,
    attributed: bool = False,
) -> str:
    """How far the evidence of a loss reaches: the highest level whose own terms are met.

    E1 the parent's reader reads less; E2 both gauges lost size and the transfers agree: the reader turned onto the
    child by neutral text reads less too, and the child's reader finds more in the parent than the parent's in the
    child; E3 the margin fell and its PMI form or the generated answers agree; E4 both, and mediation; E5 E4 and
    attributable to the kind of training.

    Args:
        states, values: by quantity.
        highs: upper 95 % limits by quantity.
        mediated: a mediation table puts this step beyond its controls.
        attributed: seeds, a sibling, a control branch and a domain interaction lay it to the kind of training.
    """
    weaker = all(states.get(name) in LOSS for name in ("R_tau", "R_sd"))
    agree = states.get("F_aligned") == DOWN and values.get("F_reverse", 0.0) > values.get("F", 1.0)
    representational = weaker and agree
    behavioural = states.get("B") == DOWN and (highs.get("B_pmi", 1.0) < 0 or states.get("G") == DOWN)
    if representational and behavioural and mediated:
        return "E5" if attributed else "E4"
    if behavioural:
        return "E3"
    if representational:
        return "E2"
    return "E1" if states.get("F") == DOWN else "E0"


def judge(
    edges: pd.DataFrame,
    gates: pd.DataFrame,
    mediation: pd.DataFrame | None = None,
    branches: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """verdicts.csv from edges.csv and gates.csv: one row a step and domain, in the order of the edges.

    Without mediation.csv evidence stops at E3, without branches.csv at E4.
    """
    keys = ["parent", "child", "domain"]
    by_gate = dict(list(gates.groupby(keys, sort=False)))
    rows: list[dict[str, Any]] = []
    for key, part in edges.groupby(keys, sort=False):
        by = part.set_index("quantity")
        stood = by_gate[key]
        failed = list(stood[stood.passed == "no"].gate)
        states = {name: said for name, said in by.state.items() if said}
        verdict = decide(states, failed)
        level = "E0"
        if verdict != NO_VERDICT:
            mediated = mediation is not None and _mediated(mediation, *key)
            attributed = mediated and branches is not None and attributable(branches, edges, *key)
            level = evidence(states, by.value.to_dict(), by.high.to_dict(), mediated=mediated, attributed=attributed)
        first = part.iloc[0]
        rows.append(
            {name: first[name] for name in ("parent", "child", "stage", "data_domain", "seed", "domain")}
            | {
                "verdict": verdict,
                "evidence": level,
                "retention": by.value["R_tau"],
                "retention_low": by.low_adjusted["R_tau"],
                "retention_high": by.high_adjusted["R_tau"],
                "delta_margin": by.value["B"],
                "delta_margin_low": by.low_adjusted["B"],
                "delta_margin_high": by.high_adjusted["B"],
                "mde": by.value["R_mde"],
                "mde_margin": by.value["B_mde"],
                "n_scenarios": int(first.n_scenarios),
                "gates_failed": " ".join(failed),
                "reasons": _reasons(verdict, by, stood, states),
            }
        )
    return pd.DataFrame(rows)


def _sign(state: str) -> int:
    return {UP: 1, DOWN: -1, LOST: -1}.get(state, 0)


def _mediated(mediation: pd.DataFrame, parent: str, child: str, domain: str) -> bool:
    """Whether the direction's patch gives back more than that of every one of at least 99 control directions.

    Compared at the KL that its own patch costs; and its share, run in full, is above 0 for certain.
    """
    rows = mediation[(mediation.parent == parent) & (mediation.child == child) & (mediation.domain == domain)]
    rows = rows[rows.patched == "into child"]
    own, controls = rows[rows.control == "none"], rows[rows.control != "none"]
    if own.empty or len(controls) < ENOUGH_CONTROLS:
        return False
    return bool(own.low.iloc[0] > 0 and own.at_kl.iloc[0] > controls.at_kl.max())


def _reasons(verdict: str, by: pd.DataFrame, gates: pd.DataFrame, states: Mapping[str, str]) -> str:
    wrong = gates[gates.passed == "no"]
    if len(wrong):
        return "; ".join(f"{r.gate}: {r.says}" for r in wrong.itertuples())
    parts = [_EXPLAINED[head(verdict)]]
    if verdict == INCONCLUSIVE:
        odd = [f"{_NAMES[q]} is {states.get(q, UNCLEAR)}" for q in _DECIDING if states.get(q, UNCLEAR) != FLAT]
        parts = [f"{_EXPLAINED[verdict]}: {', '.join(odd)}"]
    for name, words in _NAMES.items():
        if name in by.index:
            parts.append(f"{words} {_said(by.loc[name], states.get(name, ''))}")
    if verdict == INCONCLUSIVE:
        parts.append(
            f"smallest detectable: loss of retention {by.value['R_mde']:.2f}, margin {by.value['B_mde']:.2f} SD"
        )
    parts += [f"{r.gate} {r.says}" for r in gates[gates.passed == ""].itertuples()]
    return "; ".join(parts)


def _said(row: pd.Series, state: str) -> str:
    if pd.isna(row.value):
        return "not estimable"
    limits = "" if pd.isna(row.low_adjusted) else f" [{row.low_adjusted:z.2f}, {row.high_adjusted:z.2f}]"
    null = f", beyond {row.null_percentile:.1%} of random directions" if pd.notna(row.null_percentile) else ""
    return f"{row.value:z.2f}{limits} {state}{null}".replace("-", "−")
