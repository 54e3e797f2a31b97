"""The gates, each on both sides of its limit."""

import numpy as np
import pandas as pd
import pytest

from analysis import gates

HEADER = {"determinants": {"texts": "t", "rows": "r", "dtype": "float32"}, "tokens": "x"}


def test_g1_wants_the_same_texts_tokens_and_dtype():
    assert gates.same_texts(HEADER, HEADER).passed
    other = HEADER | {"determinants": HEADER["determinants"] | {"texts": "u"}}
    assert "texts or template" in gates.same_texts(HEADER, other).says
    assert not gates.same_texts(HEADER, HEADER | {"tokens": "y"}).passed
    half = HEADER | {"determinants": HEADER["determinants"] | {"dtype": "bfloat16"}}
    assert "dtype" in gates.same_texts(HEADER, half).says


@pytest.mark.parametrize(
    ("n", "detectable", "passed"), [(30, 0.2, True), (29, 0.01, False), (60, 0.21, False), (60, np.nan, False)]
)
def test_g2_wants_scenarios_and_power(n, detectable, passed):
    assert gates.enough_scenarios(n, detectable, 0.2).passed is passed
    for state in ("flat", "down", "lost", "up"):  # decided: the power to decide is no longer asked for
        assert gates.enough_scenarios(n, detectable, 0.2, state).passed is (n >= 30)


@pytest.mark.parametrize(
    ("low", "p", "passed"), [(0.1, 0.001, True), (-0.1, 0.001, False), (0.1, 0.2, False), (np.nan, 0.001, False)]
)
def test_g4_wants_a_signal_beyond_matched_directions(low, p, passed):
    assert gates.parent_signal(low, p).passed is passed


def rows(auroc, low, baseline, n=60):
    values = {"auroc": auroc, "auroc_low": low, "n_scenarios": n}
    return pd.DataFrame([values | {"best_baseline": "tfidf", "best_baseline_auroc": baseline}])


def test_g5_is_won_by_the_domain_by_matched_pairs_or_together_where_scenarios_are_few():
    behind, ahead = rows(0.75, 0.65, 0.7), rows(0.9, 0.85, 0.7)
    assert gates.beyond_text(ahead, behind, np.nan).passed
    assert gates.beyond_text(behind, behind, 0.6).passed
    assert not gates.beyond_text(behind, behind, 0.4).passed
    assert not gates.beyond_text(behind, ahead, np.nan).passed  # sixty scenarios stand by themselves
    few = rows(0.75, 0.60, 0.7, n=30)
    assert gates.beyond_text(few, ahead, np.nan).passed
    assert not gates.beyond_text(few, behind, np.nan).passed


def test_g5_counts_the_baselines_error_too():
    """A probe whose own limit just clears the baseline's point does not clear the baseline."""
    assert not gates.beyond_text(rows(0.8, 0.705, 0.7), rows(0.8, 0.705, 0.7), np.nan).passed


def test_g6_names_a_tone_direction_and_says_when_it_was_not_measured():
    assert gates.beyond_tone(0.5).passed
    assert "tone direction" in gates.beyond_tone(0.49).says
    unknown = gates.beyond_tone(float("nan"))
    assert unknown.passed is None
    assert unknown.about()["passed"] == ""


def test_g7_allows_less_surprise_and_refuses_general_damage():
    assert gates.capability(0.7).passed
    assert gates.capability(1.25).passed
    assert "general damage" in gates.capability(1.26).says
    assert not gates.capability(float("nan")).passed


def test_g8_wants_every_control_right():
    right = {"control": "damaged", "quantity": "R_tau", "value": 0.8, "low": 0.7, "high": 0.9, "passed": "yes"}
    wrong = right | {"control": "rounded", "passed": "no"}
    assert gates.instrument(pd.DataFrame([right])).passed
    refused = gates.instrument(pd.DataFrame([right, wrong]))
    assert not refused.passed
    assert refused.says == "rounded: R_tau 0.80 [0.70, 0.90]"
    assert not gates.instrument(pd.DataFrame()).passed


def test_the_parents_tables_are_read_at_the_middle_of_the_band():
    base = {"checkpoint": "a", "layer": 2, "p_matched": 0.01, "n_scenarios": 60, "best_baseline": "tfidf"}
    base |= {"best_baseline_auroc": 0.6, "auroc_high": 0.95}
    layers = pd.DataFrame(
        [
            base | {"domain": domain, "method": method, "auroc": auroc, "auroc_low": auroc - 0.05, "layer": layer}
            for domain in ("grief", "pooled")
            for method, auroc in (("mass-mean", 0.7), ("logistic", 0.9))
            for layer in (1, 2)
        ]
    )
    layers.loc[layers.layer == 1, "auroc"] = 0.1
    transfer = pd.DataFrame(
        [
            {"checkpoint": "a", "train_checkpoint": "a", "train_domain": "pooled", "test_domain": "matched"}
            | {"method": "logistic", "auroc": 0.9, "n_scenarios": 100}
        ]
    )
    confounds = pd.DataFrame(
        [{"checkpoint": "a", "layer": 2, "confound": "all", "quantity": "retained", "domain": "grief", "value": 0.4}]
    )
    found = gates.checkpoint_gates(layers, transfer, confounds, "a", 2)
    text, tone, p = found["grief"]
    assert text.passed
    assert tone.passed is False
    assert p == 0.01
    assert found["pooled"][1].passed is None
