"""The verdict: every rule reached, every gate refusing, evidence on its own terms, and nothing but tables read."""

import numpy as np
import pandas as pd
import pytest

from analysis.verdict import (
    BEHAVIOUR_UP,
    DECLINE,
    DISPOSITION,
    ERODED,
    INCONCLUSIVE,
    MIXED,
    NO_VERDICT,
    PRESERVED,
    ROTATED,
    SEVERITY,
    STRENGTHENED,
    STRONGER,
    UNSETTLED,
    WEAKER,
    decide,
    evidence,
    head,
    judge,
)

ALL_FLAT = dict.fromkeys(("R_tau", "R_sd", "F", "F_reverse", "F_aligned", "P", "B"), "flat")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, PRESERVED),
        ({"P": "up"}, PRESERVED),
        ({"P": "unclear"}, PRESERVED),
        ({"R_sd": "down"}, PRESERVED),  # the spread grew; the size in τ is kept
        ({"R_tau": "down", "B": "down"}, ERODED),
        ({"R_tau": "lost", "B": "down"}, ERODED),
        ({"R_tau": "down"}, f"{WEAKER}; behaviour preserved"),
        ({"R_tau": "lost", "B": "unclear"}, f"{WEAKER}; behaviour undetermined"),
        ({"F": "down", "F_reverse": "down"}, f"{ROTATED}; behaviour flat"),
        ({"F": "down", "F_reverse": "down", "B": "down"}, f"{ROTATED}; behaviour down"),
        ({"F": "down"}, INCONCLUSIVE),  # the reverse transfer does not agree
        ({"P": "down", "B": "down"}, DISPOSITION),
        ({"B": "down"}, DECLINE),
        ({"B": "down", "F": "unclear"}, DECLINE),
        ({"R_tau": "up", "B": "up"}, STRENGTHENED),
        ({"R_tau": "up"}, f"{STRONGER}; behaviour unchanged"),
        ({"R_tau": "up", "B": "unclear"}, f"{STRONGER}; behaviour undetermined"),
        ({"B": "up"}, BEHAVIOUR_UP),
        ({"R_tau": "down", "R_sd": "up"}, MIXED),
        ({"R_tau": "down", "B": "up"}, MIXED),
        ({"R_tau": "up", "B": "down"}, MIXED),
        ({"R_tau": "lost", "R_sd": "up", "B": "down"}, MIXED),  # before ERODED
        ({"R_tau": "unclear"}, INCONCLUSIVE),
        ({"R_tau": "unclear", "B": "down"}, INCONCLUSIVE),
        ({"B": "unclear"}, INCONCLUSIVE),
        ({"F": "unclear"}, INCONCLUSIVE),
        ({"P": "down"}, INCONCLUSIVE),
    ],
)
def test_the_first_rule_that_fits(changes, wanted):
    assert decide(ALL_FLAT | changes) == wanted
    assert decide(ALL_FLAT | changes, ["G5"]) == NO_VERDICT


def test_every_verdict_is_reached_above():
    marks = test_the_first_rule_that_fits.pytestmark[0].args[1]
    assert {head(wanted) for _, wanted in marks} | {NO_VERDICT} == {*SEVERITY, *UNSETTLED}


def test_nothing_known_is_inconclusive():
    assert decide({}) == INCONCLUSIVE


LOSS = ALL_FLAT | {"R_tau": "down", "R_sd": "down", "F_aligned": "down", "F": "down"}
READ = {"F": 0.6, "F_reverse": 1.5}


@pytest.mark.parametrize(
    ("states", "values", "highs", "more", "wanted"),
    [
        (ALL_FLAT, {}, {}, {}, "E0"),
        (ALL_FLAT | {"F": "down"}, {}, {}, {}, "E1"),
        (LOSS, READ, {}, {}, "E2"),
        (LOSS | {"R_sd": "flat"}, READ, {}, {}, "E1"),
        (LOSS | {"F_aligned": "unclear"}, READ, {}, {}, "E1"),
        (LOSS, {"F": 0.6, "F_reverse": 0.6}, {}, {}, "E1"),  # as a rotation would read
        (LOSS | {"B": "down"}, READ, {}, {}, "E2"),  # no PMI, no generations: behaviour not confirmed
        (LOSS | {"B": "down"}, READ, {"B_pmi": -0.1}, {}, "E3"),
        (LOSS | {"B": "down"}, READ, {"B_pmi": 0.1}, {}, "E2"),
        (LOSS | {"B": "down", "G": "down"}, READ, {}, {}, "E3"),
        (LOSS | {"B": "down"}, READ, {"B_pmi": -0.1}, {"mediated": True}, "E4"),
        (LOSS | {"B": "down"}, READ, {"B_pmi": -0.1}, {"mediated": True, "attributed": True}, "E5"),
        (ALL_FLAT | {"B": "down"}, {}, {"B_pmi": -0.1}, {"mediated": True}, "E3"),
    ],
)
def test_evidence_on_its_own_terms(states, values, highs, more, wanted):
    assert evidence(states, values, highs, **more) == wanted


def tables(states, failed=(), unmeasured=()):
    quantities = {"R_tau": 0.7, "R_sd": 0.7, "F": 0.7, "F_reverse": 1.4, "F_aligned": 0.7, "B": -0.5, "B_pmi": -0.4}
    rows = []
    for quantity, value in (quantities | {"P": -1.0, "R_mde": 0.1, "B_mde": 0.15}).items():
        limits = {f"{side}{kind}": value + by for side, by in (("low", -0.1), ("high", 0.1)) for kind in LIMITS}
        rows.append(
            {"parent": "a", "child": "b", "stage": "sft", "data_domain": "x", "seed": 1, "domain": "grief"}
            | {"n_scenarios": 40, "quantity": quantity, "value": value, "state": states.get(quantity, "")}
            | limits
            | {"null_percentile": 0.01 if quantity == "P" else np.nan}
        )
    gates = [
        {"parent": "a", "child": "b", "domain": "grief", "gate": f"G{i}", "value": 0.0, "limit": 0.0}
        | {"passed": "no" if f"G{i}" in failed else "" if f"G{i}" in unmeasured else "yes", "says": f"about {i}"}
        for i in range(1, 9)
    ]
    return pd.DataFrame(rows), pd.DataFrame(gates)


LIMITS = ("", "_90", "_adjusted")


@pytest.mark.parametrize("gate", [f"G{i}" for i in range(1, 9)])
def test_any_gate_refuses_and_says_why(gate):
    row = judge(*tables(ALL_FLAT, failed=[gate])).iloc[0]
    assert row.verdict == NO_VERDICT
    assert row.evidence == "E0"
    assert row.gates_failed == gate
    assert row.reasons == f"{gate}: about {gate[1]}"


def test_a_verdict_prints_the_numbers_that_decided():
    row = judge(*tables(LOSS | {"B": "down", "P": "down"}, unmeasured=["G6"])).iloc[0]
    assert (row.verdict, row.evidence) == (ERODED, "E3")
    assert "retention (τ) 0.70 [0.60, 0.80] down" in row.reasons
    assert "margin change (SD) −0.50 [−0.60, −0.40] down" in row.reasons
    assert "G6 about 6" in row.reasons
    assert (row.n_scenarios, row.mde, row.seed) == (40, 0.1, 1)


def test_an_inconclusive_verdict_names_what_stood_in_the_way():
    row = judge(*tables(ALL_FLAT | {"B": "unclear"})).iloc[0]
    assert row.verdict == INCONCLUSIVE
    assert "margin change (SD) is unclear" in row.reasons
    assert "loss of retention 0.10, margin 0.15 SD" in row.reasons
    moved = judge(*tables(ALL_FLAT | {"P": "down"})).iloc[0]
    assert "shift at the prompt (SD) is down" in moved.reasons


def test_mediation_lifts_the_evidence_only_beyond_its_controls():
    edges, gates = tables(LOSS | {"B": "down"})
    key = {"parent": "a", "child": "b", "domain": "grief", "layer": 1, "patched": "into child"}
    own = {"control": "none", "recovered": 0.5, "low": 0.3, "high": 0.7, "at_kl": 0.5}
    controls = [{"control": "matched", "recovered": 0.9, "low": 0.0, "high": 0.2, "at_kl": 0.1}] * 99
    table = pd.DataFrame([key | r for r in (own, *controls)])
    assert judge(edges, gates, table).evidence.iloc[0] == "E4"
    assert judge(edges, gates, table.iloc[:50]).evidence.iloc[0] == "E3"
    weaker = table.assign(at_kl=[0.5, *([0.6] * 99)])
    assert judge(edges, gates, weaker).evidence.iloc[0] == "E3"
