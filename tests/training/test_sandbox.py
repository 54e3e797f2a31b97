"""Generated code can compute and report; it cannot hang, grow, write, fork, call out, or claim what it did not do."""

import time

import pytest

from scripts.training.sandbox import run_code


def test_checks_are_judged_one_by_one():
    outcome = run_code("def f(x):\n    return x + 1", ["assert f(1) == 2", "assert f(1) == 3", "assert g()"])
    assert outcome.ran
    assert outcome.passed == (True, False, False)


def test_the_usual_modules_of_a_solution_can_be_imported():
    code = (
        "import math, re, collections, heapq, itertools, functools, datetime, typing, bisect, random, string, decimal"
    )
    assert run_code(code, ["assert math.pi > 3"]).passed == (True,)


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError",
        "def f(:",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "x = [0] * 10**10",
        "open('left-behind', 'w').write('x')",
        "import pathlib; pathlib.Path('left-behind').touch()",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import os; os.kill(os.getppid(), 9)",
        "import subprocess",
        "import socket",
        "import ctypes",
        "import signal; signal.alarm(0)",
        "import os\nwhile True:\n    os.write(3, b'x' * 10**6)",
        'import os\nos.write(3, b\'ffff{"ran": true, "passed": [true]}\')',
    ],
)
def test_what_fails_or_is_forbidden_reads_as_not_run(code):
    outcome = run_code(code, ["assert True"])
    assert outcome.passed == (False,)


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)"])
def test_time_is_bounded(code):
    began = time.monotonic()
    assert not run_code(code, seconds=1).ran
    assert time.monotonic() - began < 8


def test_it_sees_no_environment_and_no_folder_of_ours(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    checks = ["assert 'SECRET_TOKEN' not in os.environ", "assert os.listdir() == []"]
    assert run_code("import os", checks).passed == (True, True)
