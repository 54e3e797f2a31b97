"""The gates G1–G8 (METHOD §5): what must hold before a verdict is given. Numbers in, passed or not and why out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.drift import PERPLEXITY_LIMIT
from analysis.states import UNCLEAR
from probes.evaluate import auroc_interval
from probes.sides import POOLED

FLOOR = 30  # scenarios a domain
FEW = 60  # scenarios below which a domain leans on the pooled comparison with the text
NULL_LEVEL = 0.05
SURVIVES = 0.50
READER = "logistic"  # the reader that is held against the readers of the text; declared, not chosen by result


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One gate for one step and domain. `passed` is None where it could not be measured, which `says` then states."""

    gate: str
    passed: bool | None
    value: float
    limit: float
    says: str

    def about(self) -> dict[str, Any]:
        """A row of gates.csv without the step's own columns."""
        passed = "" if self.passed is None else "yes" if self.passed else "no"
        return {"gate": self.gate, "passed": passed, "value": self.value, "limit": self.limit, "says": self.says}


def same_texts(parent: Mapping[str, Any], child: Mapping[str, Any]) -> Gate:
    """G1: the same rendered texts, token ids and dtype, from the headers of two stores."""
    odd = [
        name
        for name, key in (("texts or template", "texts"), ("rows", "rows"), ("dtype", "dtype"))
        if parent["determinants"].get(key) != child["determinants"].get(key)
    ]
    if parent.get("tokens") != child.get("tokens"):
        odd.append("token ids")
    says = f"parent and child differ in {' and '.join(odd)}" if odd else "same texts, template, token ids and dtype"
    return Gate(gate="G1", passed=not odd, value=float(len(odd)), limit=0.0, says=says)


def enough_scenarios(n: int, detectable: float, smallest: float, state: str = UNCLEAR) -> Gate:
    """G2: 30 scenarios, and a loss of the smallest effect would be found in 80 of 100 studies.

    A retention whose state is decided (flat by two one-sided tests, or a change that was found) needs no power to be
    found: both err in at most 5 of 100 whatever the power. By the smallest detectable loss alone, half of the true
    losses of 30 % that the test had found were refused with 30 scenarios.
    """
    if n < FLOOR:
        says = f"{n} scenarios, fewer than {FLOOR}"
        return Gate(gate="G2", passed=False, value=float(n), limit=float(FLOOR), says=says)
    says = f"smallest detectable loss of retention {detectable:.2f} with {n} scenarios, allowed {smallest:.2f}"
    if state != UNCLEAR:
        says += f" or a retention that is decided ({state})"
    return Gate(
        gate="G2", passed=bool(state != UNCLEAR or detectable <= smallest), value=detectable, limit=smallest, says=says
    )


def declared_first(n_folds: int) -> Gate:
    """G3: what the program always does; written down so that a reader finds it with the others."""
    says = "folds grouped by scenario, parent's direction cross-fitted, band and position declared in the study"
    return Gate(gate="G3", passed=True, value=float(n_folds), limit=2.0, says=says)


def parent_signal(low: float, p_matched: float) -> Gate:
    """G4: the parent holds the contrast: D² above 0, and |d′| beyond random directions of the texts' covariance.

    Args:
        low: lower 95 % limit of the parent's squared size over the band.
        p_matched: p of its |d′| at the middle of the band among those directions.
    """
    if not low > 0:
        says = "the parent's direction has no size that its noise could not explain (95 % limit of D² not above 0)"
        return Gate(gate="G4", passed=False, value=low, limit=0.0, says=says)
    says = f"p = {p_matched:.3f} of the parent's |d′| among random directions of the same covariance"
    return Gate(gate="G4", passed=bool(p_matched <= NULL_LEVEL), value=p_matched, limit=NULL_LEVEL, says=says)


def beyond_text(own: pd.DataFrame, pooled: pd.DataFrame, matched: float) -> Gate:
    """G5: held-out probe against the strongest reader of the text alone, or vocabulary-matched pairs.

    Args:
        own, pooled: the parent's rows of layers.csv at the middle of the band, of this domain and pooled.
        matched: lower 95 % limit of the pooled reader's AUROC on vocabulary-matched pairs; NaN without any.
    """
    ahead = _ahead(own)
    if ahead > 0:
        says = f"{READER} probe ahead of the best reader of the text alone by at least {ahead:.2f} AUROC"
        return Gate(gate="G5", passed=True, value=ahead, limit=0.0, says=says)
    if matched > 0.5:
        says = f"vocabulary-matched pairs told apart, AUROC at least {matched:.2f} (domains together)"
        return Gate(gate="G5", passed=True, value=matched - 0.5, limit=0.0, says=says)
    together = _ahead(pooled)
    if len(own) and own.n_scenarios.iloc[0] < FEW and together > 0:
        says = f"too few scenarios by itself; domains together ahead of the text by at least {together:.2f} AUROC"
        return Gate(gate="G5", passed=True, value=together, limit=0.0, says=says)
    says = f"not identifiable from these pairs: {READER} probe not ahead of {_rival(own)} (lower limit {ahead:.2f})"
    return Gate(gate="G5", passed=False, value=ahead, limit=0.0, says=says)


def beyond_tone(retained: float) -> Gate:
    """G6: half of d′ survives projecting out politeness, sentiment, formality, length, first person and refusal."""
    if not np.isfinite(retained):
        says = "not measured: no confound pairs in the study (add builtin:confounds), so tone is not ruled out"
        return Gate(gate="G6", passed=None, value=float("nan"), limit=SURVIVES, says=says)
    says = f"{retained:.0%} of d′ left without the confounds' directions"
    if retained < SURVIVES:
        says += ": a tone direction"
    return Gate(gate="G6", passed=bool(retained >= SURVIVES), value=retained, limit=SURVIVES, says=says)


def capability(ratio: float) -> Gate:
    """G7: neutral text has not become much less likely."""
    says = f"neutral perplexity ×{ratio:.2f}"
    if not ratio <= PERPLEXITY_LIMIT:
        says += ": general damage"
    return Gate(gate="G7", passed=bool(ratio <= PERPLEXITY_LIMIT), value=ratio, limit=PERPLEXITY_LIMIT, says=says)


def instrument(controls: pd.DataFrame) -> Gate:
    """G8: on this model the known damage is found and the negative controls read flat, from instrument.csv."""
    if controls.empty:
        says = "the instrument's controls were not run"
        return Gate(gate="G8", passed=False, value=float("nan"), limit=0.0, says=says)
    wrong = controls[controls.passed != "yes"]
    said = [f"{r.control}: {r.quantity} {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in wrong.itertuples()]
    says = "; ".join(said) if said else "known damage found, negative controls flat"
    return Gate(gate="G8", passed=not said, value=float(len(said)), limit=0.0, says=says)


def checkpoint_gates(
    layers: pd.DataFrame, transfer: pd.DataFrame, confounds: pd.DataFrame, checkpoint: str, layer: int
) -> dict[str, tuple[Gate, Gate, float]]:
    """By domain what a parent's own tables say: G5, G6, and the p of G4.

    Args:
        layers, transfer, confounds: the tables.
        checkpoint: the parent.
        layer: the middle of the declared band.
    """
    at = layers[(layers.checkpoint == checkpoint) & (layers.layer == layer)]
    scored = transfer[
        (transfer.checkpoint == checkpoint)
        & (transfer.train_checkpoint == checkpoint)
        & (transfer.train_domain == POOLED)
        & (transfer.test_domain == "matched")
        & (transfer.method == READER)
    ]
    matched = float("nan")
    if len(scored) and np.isfinite(scored.auroc.iloc[0]):
        matched = auroc_interval(float(scored.auroc.iloc[0]), int(scored.n_scenarios.iloc[0]))[0]
    left = confounds[
        (confounds.checkpoint == checkpoint)
        & (confounds.layer == layer)
        & (confounds.confound == "all")
        & (confounds.quantity == "retained")
    ].set_index("domain")
    found = {}
    for domain, own in at.groupby("domain", sort=False):
        pooled = at[at.domain == POOLED]
        retained = float(left.value.get(domain, np.nan)) if len(left) else float("nan")
        p = own[own.method == "mass-mean"].p_matched
        found[str(domain)] = (
            beyond_text(own[own.method == READER], pooled[pooled.method == READER], matched),
            beyond_tone(retained),
            float(p.iloc[0]) if len(p) else float("nan"),
        )
    return found


def failed(gates: pd.DataFrame) -> Iterator[str]:
    """The names of the gates that did not pass; one that could not be measured does not refuse a verdict."""
    return iter(gates[gates.passed == "no"].gate)


def _ahead(rows: pd.DataFrame) -> float:
    """Lower 95 % limit of probe minus best text reader, from the limits of both (Newcombe's square-and-add)."""
    if rows.empty or not np.isfinite(rows.auroc.iloc[0]):
        return float("nan")
    row = rows.iloc[0]
    best = float(row.best_baseline_auroc)
    best_high = auroc_interval(best, int(row.n_scenarios))[1]
    return float(row.auroc - best - np.hypot(row.auroc - row.auroc_low, best_high - best))


def _rival(rows: pd.DataFrame) -> str:
    return f"{rows.best_baseline.iloc[0]}" if len(rows) else "the text"
