"""Patience, the second contrast that ships, is what docs/another-contrast.md says: matched, and audited."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from activations.pairs import PairSet, load_pairs
from activations.study import read_study
from probes.audit import Audit, AuditLimits, audit_pairs, folded
from probes.features import feature_table, words

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "patience"
# What a model says when it has learned how patience, or the lack of it, sounds.
SET_PHRASES = (
    r"\btake your time\b",
    r"\b(?:no|there's no|no need to) (?:rush|hurry)\b",
    r"\bas (?:i|we) (?:already )?(?:said|explained|mentioned)\b",
    r"\bstep by step\b",
    r"\b(?:once|one) (?:again|more time)\b",
    r"\bhurry\b",
    r"\bpatien(?:t|ce|tly)\b",
)


@pytest.fixture(scope="module")
def pairs() -> PairSet:
    return load_pairs(STUDY / "pairs.jsonl")


@pytest.fixture(scope="module")
def audited(pairs: PairSet) -> Audit:
    return audit_pairs(pairs, AuditLimits())


def test_two_domains_of_thirty_scenarios_in_one_wording(pairs):
    assert Counter(p.domain for p in pairs.pairs) == {"tutoring": 30, "help_desk": 30}
    assert len({p.scenario_id for p in pairs.pairs}) == len({p.prompt for p in pairs.pairs}) == 60
    assert {(p.contrast, p.role, p.design, p.language, p.paraphrase) for p in pairs.pairs} == {
        ("patience", "response", "contrast", "en", 0)
    }
    assert {p.license for p in pairs.pairs} == {"Apache-2.0"}


def test_the_study_measures_them_and_steers_against_a_prompt_of_its_own():
    settings = read_study(STUDY).settings
    assert (settings.contrast, settings.pairs) == ("patience", "pairs.jsonl")
    assert "compassion" not in settings.system_prompt


def test_no_single_feature_tells_the_sides_apart_in_either_domain_or_over_all(audited):
    assert audited.failures == []
    single = [r for r in audited.rows if r.feature in feature_table()]
    assert len(single) == 3 * 18
    assert all(r.n_scenarios >= audited.limits.judged_from for r in single)  # every one of them was judged
    assert max(folded(r.area) for r in single if r.domain == "pooled") <= 0.60
    assert max(folded(r.area) for r in single if r.domain != "pooled") <= 0.65


def test_the_figures_in_the_documentation_are_the_audits(audited):
    pooled = {r.feature: r for r in audited.rows if r.domain == "pooled"}
    furthest = max((r for r in pooled.values() if r.feature in feature_table()), key=lambda r: folded(r.area))
    cells = (
        f"{furthest.n_scenarios}",
        *(f"{pooled[name].area:.2f}" for name in ("tfidf", "tfidf (letters)", "naive Bayes")),
        f"{furthest.feature} {furthest.area:.2f}",
    )
    page = (ROOT / "docs" / "another-contrast.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(cells)} |" in page


def test_the_sides_are_equally_long(pairs):
    ratio = np.asarray([len(words(p.positive)) / len(words(p.negative)) for p in pairs.pairs])
    odd = [p.pair_id for p, r in zip(pairs.pairs, ratio, strict=True) if not 1 / 1.12 <= r <= 1.12]
    assert odd == []
    assert abs(np.log(ratio).mean()) < 0.015


def test_patience_is_shown_without_its_set_phrases(pairs):
    for phrase in SET_PHRASES:
        using = [p.pair_id for p in pairs.pairs if re.search(phrase, f"{p.positive}\n{p.negative}".lower())]
        assert len(using) <= 2, (phrase, using)


def test_no_prompt_shares_five_words_in_a_row_with_a_built_in_one(pairs):
    def grams(text: str) -> set[tuple[str, ...]]:
        found = re.findall(r"\w+", text.lower())
        return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}

    built_in = {gram for p in load_pairs("builtin:compassion").pairs for gram in grams(p.prompt)}
    assert [p.pair_id for p in pairs.pairs if grams(p.prompt) & built_in] == []
