"""G: on-policy answers, one reader, paired over prompts."""

import numpy as np
import pandas as pd
import pytest

from activations.study import SmallestEffect
from analysis.generated import generated_rows

DOMAINS = [*[f"d{i}" for i in range(4)], "pooled"]


def answers(change: float, noise: float, n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for domain in DOMAINS[:-1]:
        for number in range(n):
            before = rng.normal()
            for name, score in (("a", before), ("b", before + change + noise * rng.normal())):
                about = {"checkpoint": name, "domain": domain, "scenario_id": f"{domain}-{number}"}
                rows.append(about | {"alpha": 0.0, "reader_score": score})
                rows.append(about | {"alpha": 0.1, "reader_score": 99.0})  # steered: no part of G
    return pd.DataFrame(rows)


def states(table: pd.DataFrame) -> dict[str, str]:
    found = pd.DataFrame(generated_rows(table, "a", "b", DOMAINS, SmallestEffect()))
    assert set(found.quantity) == {"G"}
    return dict(zip(found.domain, found.state, strict=True))


@pytest.mark.parametrize(
    ("change", "noise", "expected"),
    [(0.0, 0.05, "flat"), (-0.8, 0.3, "down"), (0.8, 0.3, "up"), (-0.3, 3.0, "unclear")],
)
def test_the_state_is_what_was_planted(change, noise, expected):
    assert set(states(answers(change, noise)).values()) == {expected}


def test_the_estimate_is_in_sds_of_the_parent_and_its_prompts_are_counted():
    found = pd.DataFrame(generated_rows(answers(-0.8, 0.3), "a", "b", DOMAINS, SmallestEffect())).set_index("domain")
    assert found.value["pooled"] == pytest.approx(-0.8, abs=0.15)
    assert found.n_scenarios["pooled"] == 160
    assert found.low["pooled"] < -0.8 < found.high["pooled"]


def test_without_answers_or_with_too_few_nothing_is_said():
    table = answers(0.0, 0.1)
    assert not list(generated_rows(table[table.checkpoint == "a"], "a", "b", DOMAINS, SmallestEffect()))
    few = table[table.scenario_id.isin(["d0-0", "d0-1"])]
    rows = {r["domain"]: r for r in generated_rows(few, "a", "b", DOMAINS, SmallestEffect())}
    assert rows["d0"]["state"] == "unclear"
    assert np.isnan(rows["d0"]["value"])


def test_an_answer_that_could_not_be_read_takes_its_prompt_out_of_the_pair():
    table = answers(-0.8, 0.3)
    table.loc[(table.checkpoint == "b") & (table.scenario_id == "d0-0"), "reader_score"] = np.nan
    found = pd.DataFrame(generated_rows(table, "a", "b", DOMAINS, SmallestEffect())).set_index("domain")
    assert found.n_scenarios["d0"] == 39
