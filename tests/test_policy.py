"""compassion check: what a policy stops, and what a policy may not say."""

import sys

import pandas as pd
import pytest

from activations.errors import InputError
from analysis.policy import read_policy, violations
from analysis.tables import TABLES, write_table

ROWS = [
    ("m", "h", "grief", "ERODED", "E3"),
    ("m", "h", "money", "ERODED", "E2"),
    ("m", "c", "grief", "ROTATED, NOT ERODED; behaviour flat", "E1"),
    ("m", "c", "money", "NO VERDICT", "E0"),
]


@pytest.fixture
def verdicts():
    rows = [
        dict.fromkeys(TABLES["verdicts"], "")
        | dict(zip(("parent", "child", "domain", "verdict", "evidence"), r, strict=True))
        for r in ROWS
    ]
    numbers = ("seed", "retention", "delta_margin", "mde", "n_scenarios")
    return pd.DataFrame(rows).assign(**dict.fromkeys(numbers, 1.0))


def written(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ('no_verdict = "pass"\n[[fail]]\nat_least = "ERODED"\nevidence = "E3"\n', [0]),
        ('no_verdict = "pass"\n[[fail]]\nat_least = "ERODED"\n', [0, 1]),
        ('no_verdict = "fail"\n[[fail]]\nat_least = "ERODED"\ndomains = ["money"]\n', [1, 3]),
        ('no_verdict = "pass"\n[[fail]]\nat_least = "ROTATED, NOT ERODED"\nchildren = ["c"]\n', [2]),
        ('no_verdict = "pass"\n[[fail]]\nverdicts = ["NO VERDICT"]\n', [3]),
        ('no_verdict = "pass"\n[[fail]]\nverdicts = ["MIXED"]\n', []),
    ],
)
def test_what_a_policy_stops(tmp_path, verdicts, text, stopped):
    assert list(violations(read_policy(written(tmp_path, text)), verdicts).index) == stopped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[fail]]\nat_least = "ERODED"\n', "no_verdict"),
        ('no_verdict = "pass"\n', "fail"),
        ('no_verdict = "pass"\n[[fail]]\nevidence = "E3"\n', "names no verdict"),
        ('no_verdict = "pass"\n[[fail]]\nat_least = "MIXED"\n', "fail.0.at_least"),
        ('no_verdict = "pass"\n[[fail]]\nat_least = "ERODED"\ndomain = ["grief"]\n', "fail.0.domain"),
        ("no_verdict = \n", "TOML"),
    ],
)
def test_what_a_policy_may_not_say(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_policy(written(tmp_path, text))


def test_a_rule_that_could_never_fail_is_refused(tmp_path, verdicts):
    policy = read_policy(written(tmp_path, 'no_verdict = "pass"\n[[fail]]\nat_least = "ERODED"\ndomains = ["greif"]\n'))
    with pytest.raises(InputError, match="known here: grief, money"):
        violations(policy, verdicts)


def test_the_exit_status_is_the_pipelines(tmp_path, verdicts, monkeypatch, capsys):
    from scripts import cli

    write_table(tmp_path / "run" / "tables", "verdicts", verdicts)
    for text, code in (
        ('no_verdict = "pass"\n[[fail]]\nat_least = "ERODED"\nevidence = "E3"\ndomains = ["grief"]\n', 1),
        ('no_verdict = "pass"\n[[fail]]\nverdicts = ["MIXED"]\n', 0),
        ("broken", 2),
    ):
        policy = written(tmp_path, text)
        monkeypatch.setattr(sys, "argv", ["compassion", "check", str(tmp_path / "run"), "--policy", str(policy)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
        out = capsys.readouterr()
        assert ("m → h, grief: ERODED" in out.out) == (code == 1)
