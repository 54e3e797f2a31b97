"""E5: every one of its conditions is needed."""

import pandas as pd
import pytest

from analysis.attribution import attributable


def seeds(quantity: str, other: str, value: float, width: float = 0.1) -> dict:
    about = {"parent": "mid", "child_a": "helpfulness", "child_b": other, "domain": "grief", "unit": "seed"}
    limits = {"difference": value, "low": value - width, "high": value + width, "p_adjusted": 0.01}
    return about | {"quantity": quantity} | limits


def interaction(value: float, p: float) -> dict:
    about = {"parent": "mid", "child_a": "help-0", "child_b": "", "domain": "grief", "unit": "scenario"}
    return about | {"quantity": "B interaction", "difference": value, "low": 0.0, "high": 0.0, "p_adjusted": p}


def edge(parent: str, child: str, value: float, kind: str = "helpfulness", stage: str = "sft") -> dict:
    about = {"parent": parent, "child": child, "stage": stage, "data_domain": kind, "domain": "grief", "quantity": "B"}
    return about | {"low": value - 0.1, "high": value + 0.1}


BRANCHES = [seeds("B change", "", -0.5), seeds("B", "coding", -0.4), interaction(-0.3, 0.01)]
EDGES = [edge("mid", "help-0", -0.5), edge("control", "help-c", -0.1), edge("mid", "code-0", 0.0, "coding")]


def found(branches: list[dict], edges: list[dict]) -> bool:
    return attributable(pd.DataFrame(branches), pd.DataFrame(edges), "mid", "help-0", "grief")


def test_all_conditions_together_are_enough():
    assert found(BRANCHES, EDGES)
    swapped = seeds("B", "", 0.4) | {"child_a": "coding", "child_b": "helpfulness"}
    assert found([BRANCHES[0], swapped, BRANCHES[2]], EDGES)  # the sibling may stand first


@pytest.mark.parametrize(
    ("branches", "edges"),
    [
        ([seeds("B change", "", -0.05), *BRANCHES[1:]], EDGES),  # the seeds' mean may be none
        ([BRANCHES[0] | {"unit": "scenario"}, *BRANCHES[1:]], EDGES),  # these weights only
        ([BRANCHES[0], BRANCHES[2]], EDGES),  # no sibling
        ([BRANCHES[0], seeds("B", "coding", 0.4), BRANCHES[2]], EDGES),  # the sibling lost more
        ([*BRANCHES[:2], interaction(-0.3, 0.2)], EDGES),  # the domain does not stand out
        ([*BRANCHES[:2], interaction(0.3, 0.01)], EDGES),  # it stands out by losing less
        (BRANCHES, EDGES[:1]),  # no control branch
        (BRANCHES, [EDGES[0], edge("control", "help-c", -0.45)]),  # which took as much
        (BRANCHES, [EDGES[0], edge("base", "known", 0.5, stage="control")]),  # an edited copy is no control branch
    ],
)
def test_each_condition_is_needed(branches, edges):
    assert not found(branches, edges)
