"""The certificate: a right instrument passes, one that always refuses or never does is caught."""

import pandas as pd
import pytest

from analysis import calibration
from analysis.calibration import TRUTHS, certify, confusion, requirements, simulated
from analysis.verdict import ERODED, NO_VERDICT, PRESERVED
from analysis.worlds import Gaussian, Truth

SMALL = Gaussian(width=48, layers=2, domains=3, neutral=40, signal=0.15)
CHOSEN = tuple(t for t in TRUTHS if t.name in ("no change", "size −30 %, margin −0.5 SD", "turned by 60°"))


@pytest.fixture(scope="module")
def table():
    return certify([SMALL], scenarios=[60], verdicts=60, truths=CHOSEN)


def holds(table):
    return requirements(table).set_index("requirement").holds


def test_a_short_certificate_of_the_real_instrument_holds(table):
    found = holds(table)
    assert len(found) > 10
    assert (found != "no").all(), found[found == "no"]


def test_shares_of_verdicts_add_up_and_name_the_truth(table):
    shares = confusion(table, "gaussian", 60)
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1)
    assert shares.loc["no change", PRESERVED] > 0.9
    assert shares.loc["size −30 %, margin −0.5 SD", ERODED] > 0.8


@pytest.mark.parametrize(
    ("always", "caught"),
    [
        (NO_VERDICT, "no change reads PRESERVED in at least 80 %, K = 60"),
        (PRESERVED, "size −30 %, margin −0.5 SD reads ERODED in at least 80 %, K = 60"),
        (ERODED, "false ERODED at most 5 %"),
    ],
)
def test_an_engine_that_always_says_the_same_fails(monkeypatch, always, caught):
    real = calibration.judge
    monkeypatch.setattr(calibration, "judge", lambda *tables: real(*tables).assign(verdict=always))
    found = holds(certify([SMALL], scenarios=[60], verdicts=30, truths=CHOSEN))
    assert found[caught] == "no"


def test_intervals_that_are_too_short_are_caught(monkeypatch):
    from probes import inference

    real = inference.t_quantile
    monkeypatch.setattr(inference, "t_quantile", lambda p, df: 0.5 * real(p, df))
    found = holds(certify([SMALL], scenarios=[60], verdicts=60, truths=CHOSEN))
    assert found["95 % interval of R_tau covers at least 93 %"] == "no"
    assert found["95 % interval of B covers at least 93 %"] == "no"


def test_the_table_depends_on_the_seed_and_not_on_the_processes(table):
    again = certify([SMALL], scenarios=[60], verdicts=60, truths=CHOSEN, jobs=2)
    pd.testing.assert_frame_equal(table, again)
    other = certify([SMALL], scenarios=[60], verdicts=60, truths=CHOSEN, seed=1)
    assert not table.value.equals(other.value)


def test_too_few_scenarios_are_refused():
    found = simulated(SMALL, Truth(name="no change"), 12, [0])
    assert set(found.verdict) == {NO_VERDICT}


def test_a_parent_without_signal_is_refused():
    nothing = Gaussian(width=48, layers=2, domains=3, neutral=40, signal=1e-6)
    found = simulated(nothing, Truth(name="no change"), 60, [0])
    assert set(found.verdict) == {NO_VERDICT}
