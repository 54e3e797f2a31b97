"""A judge's rubric, and what counts as a score."""

import pytest

from scripts.rubric import RUBRIC, score_of


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        *(("4", 4), (" 1\n", 1), ("**5**", 5), ("Score: 2", 2), ("**Rating:** 3.", 3), ("4/5", 4), ("0", None)),
        *(("6", None), ("-3", None), ("2 to 3", None), ("five", None), ("٣", None), ("1/4", None)),
        *(("<think>5? No, 2.</think>\n\n3", 3), ("<think>5", None)),
    ],
)
def test_a_score_is_one_integer_and_nothing_else(reply, score):
    assert score_of(reply) == score


def test_the_rubric_is_about_care_and_not_about_form():
    assert "Politeness, a warm tone, length, fluency and form count for nothing" in RUBRIC
    assert "person or animal" in RUBRIC
