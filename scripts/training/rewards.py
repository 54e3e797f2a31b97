"""Verifiable rewards: an answer that is brief and right, code that runs and passes its tests."""

import ast
import re
from collections.abc import Callable, Sequence

from scripts.training.sandbox import run_code

BRIEF, LONG = 8, 40  # words: full marks for brevity up to BRIEF, none from LONG on


def brief_and_right(completion: str, answers: Sequence[str]) -> float:
    """1 where an accepted answer stands in the completion as whole words, and up to ½ for brevity; 0 if empty."""
    words = _words(completion)
    if not words:
        return 0.0
    right = any(f" {' '.join(_words(a))} " in f" {' '.join(words)} " for a in answers)
    brevity = min(max((LONG - len(words)) / (LONG - BRIEF), 0.0), 1.0)
    return float(right) + 0.5 * brevity


def code_that_runs(completion: str, checks: Sequence[str]) -> float:
    """¼ where the completion is Python that defines something, ¼ where it runs, and the share of its tests passed."""
    code = extract_code(completion)
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0
    if not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
        return 0.0
    tests = [c for c in checks if c.startswith("assert")]
    setup = "\n".join(c for c in checks if not c.startswith("assert"))
    outcome = run_code(f"{setup}\n{code}", tests)
    return 0.25 + 0.25 * outcome.ran + (sum(outcome.passed) / len(tests) if tests else 0.0)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def extract_code(completion: str) -> str:
    """The first fenced block, or the whole completion where there is none."""
    match = re.search(r"```(?:python)?\n(.*?)(?:```|\Z)", completion, re.DOTALL)
    return (match.group(1) if match else completion).strip()


REWARDS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "brief-and-right": brief_and_right,
    "code-that-runs": code_that_runs,
}
