"""The rewards say what their docstrings say."""

import pytest

from scripts.training.rewards import brief_and_right, code_that_runs, extract_code

ADD = "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Paris.", 1.5),
        ("It is PARIS", 1.5),
        ("Parisian", 0.5),
        ("Lyon", 0.5),
        ("", 0.0),
        (" … ", 0.0),
        ("Paris " + "and so on " * 20, 1.0),
        ("word " * 24, 0.25),
    ],
)
def test_brevity_and_truth(completion, expected):
    assert brief_and_right(completion, ["Paris"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (ADD, 1.5),
        (f"Here it is:\n```python\n{ADD}\n```\nGood luck!", 1.5),
        ("def add(a, b):\n    return a", 1.0),
        ("def add(a, b):\n    return c", 0.5),
        ("def add(a, b):\n    return 1 / 0\nadd(1, 2)", 0.25),
        ("add = 3", 0.0),
        ("def add(a, b", 0.0),
        ("", 0.0),
    ],
)
def test_code_is_paid_for_what_it_does(completion, expected):
    assert code_that_runs(completion, ["assert add(1, 2) == 3", "assert add(1, 0) == 1"]) == pytest.approx(expected)


def test_imports_of_a_task_are_there_for_its_code():
    code = "def area(r):\n    return math.pi * r * r"
    assert code_that_runs(code, ["import math", "assert area(0) == 0"]) == pytest.approx(1.5)


def test_an_unclosed_fence_is_still_code():
    assert extract_code(f"```\n{ADD}") == ADD
