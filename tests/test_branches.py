"""Steps against each other, from changes whose truth is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from activations.lineage import Adapter, Checkpoint, Edit
from analysis.branches import branch_rows, difference, dose_rows, interaction
from analysis.edge import mean_product
from probes.geometry import Product

DOMAINS = ("grief", "money", "pooled")


def child(name, **more):
    return Checkpoint(name=name, stage="sft", parent="m", adapter=Adapter(path=Path(f"/x/{name}")), **more)


def changes(rng, shift, n=40, noise=0.1):
    """log_R, F and B of two domains and their pool, as `measure_edge` hands them on."""
    found = {}
    for quantity in ("log_R", "F", "B"):
        parts = [shift.get(d, 0.0) + noise * rng.normal(size=n) for d in DOMAINS[:2]]
        for domain, values in zip(DOMAINS, [*parts, np.concatenate(parts)], strict=True):
            found[quantity, domain] = mean_product(values)
    return found


def frame(rows):
    return pd.DataFrame(rows).set_index(["child_a", "child_b", "domain", "quantity", "unit"])


def test_siblings_differ_as_a_paired_t_test_says():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(size=30) + 0.5
    gap = difference(mean_product(a), mean_product(b))
    assert gap.value == pytest.approx((a - b).mean())
    found = frame(
        branch_rows(
            "m",
            [child("h"), child("c")],
            {
                name: {(q, d): mean_product(x) for q in ("log_R", "F", "B") for d in DOMAINS}
                for name, x in (("h", a), ("c", b))
            },
            DOMAINS,
        )
    )
    test = stats.ttest_rel(a, b)
    row = found.loc[("h", "c", "pooled", "B", "scenario")]
    assert row.p_adjusted == pytest.approx(test.pvalue)
    assert (row.low, row.high) == pytest.approx(tuple(test.confidence_interval()))
    assert found.loc[("h", "c", "grief", "B", "scenario")].p_adjusted == pytest.approx(min(2 * test.pvalue, 1))


def test_what_is_below_numerical_tolerance_is_no_difference():
    values = np.random.default_rng(1).normal(size=20)
    gap = difference(mean_product(values), mean_product(values + 1e-7))
    assert gap.value == 0
    rows = frame(
        branch_rows(
            "m",
            [child("a"), child("b")],
            {
                "a": {(q, d): mean_product(values) for q in ("log_R", "F", "B") for d in DOMAINS},
                "b": {(q, d): mean_product(values + 1e-7) for q in ("log_R", "F", "B") for d in DOMAINS},
            },
            DOMAINS,
        )
    )
    assert rows.loc[("a", "b", "grief", "B", "scenario")].p_adjusted == 1


def test_one_domain_alone_shows_as_an_interaction_and_both_alike_do_not():
    rng = np.random.default_rng(2)
    one = frame(branch_rows("m", [child("x")], {"x": changes(rng, {"grief": -0.3})}, DOMAINS))
    both = frame(branch_rows("m", [child("x")], {"x": changes(rng, {"grief": -0.3, "money": -0.3})}, DOMAINS))
    key = ("x", "", "grief", "B interaction", "scenario")
    assert one.loc[key].high < 0
    assert one.loc[key].p_adjusted < 0.01
    assert both.loc[key].p_adjusted > 0.05


def test_an_interaction_agrees_with_welch():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=25), 2 * rng.normal(size=40) + 1
    found = interaction({"grief": mean_product(a), "money": mean_product(b)}, "grief")
    test = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))


def test_seeds_are_the_unit_only_where_there_are_three():
    rng = np.random.default_rng(4)
    children = [child(f"h{i}", data_domain="help", seed=i) for i in range(3)]
    children += [child(f"c{i}", data_domain="code", seed=i) for i in range(2)]
    found = {c.name: changes(rng, {"grief": -0.2}) for c in children}
    rows = pd.DataFrame(branch_rows("m", children, found, DOMAINS))
    by_seed = rows[rows.unit == "seed"]
    assert set(by_seed.child_a) == {"help"}
    children.append(child("c2", data_domain="code", seed=2))
    found["c2"] = changes(rng, {})
    rows = frame(branch_rows("m", children, found, DOMAINS))
    row = rows.loc[("help", "code", "grief", "B", "seed")]
    values = [[found[f"{k}{i}"]["B", "grief"].value for i in range(3)] for k in "hc"]
    assert row.difference == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    test = stats.ttest_ind(*values, equal_var=False)
    assert (row.low, row.high) == pytest.approx(tuple(test.confidence_interval()))


def test_doses_of_one_adapter_and_one_edit_form_series():
    rng = np.random.default_rng(5)
    path = Path("/x/curt")
    children = [
        Checkpoint(name=f"s{scale}", stage="control", parent="m", adapter=Adapter(path=path, scale=scale))
        for scale in (0.25, 0.5, 1.0)
    ]
    children.append(Checkpoint(name="a1", stage="control", parent="m", edit=Edit(kind="attenuate", amount=0.1)))
    found = {c.name: changes(rng, {"grief": -(c.adapter.scale if c.adapter else 0.1)}, noise=0.01) for c in children}
    rows = pd.DataFrame(dose_rows("m", children, found, DOMAINS))
    assert set(rows.series) == {"adapter curt"}  # one attenuation is no series
    grief = rows[(rows.domain == "grief") & (rows.quantity == "B")]
    assert list(grief.dose) == [0.25, 0.5, 1.0]
    assert (grief.monotone == -1).all()


def test_what_is_not_estimable_stays_so():
    gone = Product(value=float("nan"), without=np.full(40, np.nan))
    rng = np.random.default_rng(6)
    found = {"x": changes(rng, {}), "y": changes(rng, {}) | {("log_R", "grief"): gone}}
    rows = frame(branch_rows("m", [child("x"), child("y")], found, DOMAINS))
    assert np.isnan(rows.loc[("x", "y", "grief", "log_R", "scenario")].difference)
    assert np.isnan(rows.loc[("y", "", "money", "log_R interaction", "scenario")].difference)
    assert np.isfinite(rows.loc[("x", "y", "money", "log_R", "scenario")].difference)
