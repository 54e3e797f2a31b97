"""docs/verdicts.md says what the engine does: its scale, its limits, and its policy example is one."""

import re
from pathlib import Path

from activations.study import SmallestEffect
from analysis import gates
from analysis.drift import PERPLEXITY_LIMIT
from analysis.policy import read_policy
from analysis.verdict import SEVERITY, UNSETTLED
from scripts.instrument import DAMAGE, SCENARIOS

PAGE = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text(encoding="utf-8")


def test_the_scale_is_the_engines():
    assert ", ".join(SEVERITY) in PAGE.replace("\n", " ")
    for verdict in (*SEVERITY, *UNSETTLED):
        assert f"**{verdict}**" in PAGE


def test_the_limits_are_the_engines():
    assert (gates.FLOOR, gates.FEW, gates.SURVIVES, PERPLEXITY_LIMIT) == (30, 60, 0.5, 1.25)
    assert (SmallestEffect().retention, SmallestEffect().margin_sd, SmallestEffect().position_sd) == (0.2, 0.2, 0.2)
    assert (SCENARIOS, DAMAGE, gates.READER) == (30, 0.25, "logistic")


def test_the_policy_on_the_page_is_one(tmp_path):
    block = next(b for b in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
    path = tmp_path / "policy.toml"
    path.write_text(block, encoding="utf-8")
    assert read_policy(path).fail[0].at_least == "ERODED"
