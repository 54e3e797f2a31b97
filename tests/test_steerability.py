"""S: the ratio of two checkpoints' slopes on the same scenarios."""

import numpy as np
import pandas as pd
import pytest

from activations.study import SmallestEffect
from analysis.steerability import steerability_rows

DOMAINS = [*[f"d{i}" for i in range(3)], "pooled"]


def slopes(ratio: float, noise: float, n: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for domain in DOMAINS[:-1]:
        for number in range(n):
            before = 2 + 0.3 * rng.normal()
            about = {"domain": domain, "scenario_id": f"{domain}-{number}"}
            rows.append(about | {"checkpoint": "a", "slope": before})
            rows.append(about | {"checkpoint": "b", "slope": ratio * before + noise * rng.normal()})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ratio", "noise", "expected"), [(1.0, 0.1, "flat"), (0.5, 0.2, "down"), (1.6, 0.2, "up"), (0.8, 2.0, "unclear")]
)
def test_the_state_is_what_was_planted(ratio, noise, expected):
    found = pd.DataFrame(steerability_rows(slopes(ratio, noise), "a", "b", DOMAINS, SmallestEffect()))
    assert set(found.state[found.domain != "pooled"]) == {expected}
    assert found.value[found.domain == "pooled"].iloc[0] == pytest.approx(ratio, abs=0.3 * noise)
    assert found.n_scenarios.tolist() == [20, 20, 20, 60]


def test_a_step_with_an_unsteered_end_has_no_rows():
    table = slopes(1.0, 0.1)
    assert not list(steerability_rows(table[table.checkpoint == "a"], "a", "b", DOMAINS, SmallestEffect()))
    few = table[table.scenario_id.isin(["d0-0", "d0-1"])]
    assert next(iter(steerability_rows(few, "a", "b", ["d0"], SmallestEffect())))["state"] == "unclear"
