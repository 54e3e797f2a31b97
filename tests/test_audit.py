"""The pair audit finds what gives the sides away, and nothing where nothing does."""

import json
import sys

import numpy as np
import pytest
from conftest import write_lines

from activations.pairs import ContrastPair, PairSet
from probes.audit import AuditLimits, audit_pairs, blocks_of, near_duplicates, overlap, shared_frames
from probes.features import feature_table, has_stock_phrase, words
from scripts import cli

NOUNS = """harbour ladder orchard kettle saddle lantern barrel wagon chimney button needle carpet basket
window""".split()  # noqa: SIM905


def balanced(count: int, **changes: object) -> list[ContrastPair]:
    """Pairs whose sides are drawn from the same words: nothing tells them apart."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        asked, one, two = (" ".join(rng.choice(NOUNS, n)) for n in (9, 8, 8))
        fields = {
            "pair_id": f"p{number}",
            "scenario_id": f"s{number}",
            "domain": "ab"[number % 2],
            "prompt": f"{number} {asked}?",
            "positive": f"Take {one}.",
            "negative": f"Take {two}.",
        }
        made.append(ContrastPair(**(fields | {k: v(fields) if callable(v) else v for k, v in changes.items()})))
    return made


def areas(pairs: list[ContrastPair], domain: str = "pooled") -> dict[str, float]:
    return {r.feature: r.area for r in audit_pairs(PairSet(tuple(pairs)), AuditLimits()).rows if r.domain == domain}


def test_sides_drawn_from_the_same_words_pass_every_limit():
    found = audit_pairs(PairSet(tuple(balanced(120))), AuditLimits(frame=200))
    assert found.failures == []
    pooled = {r.feature: r.area for r in found.rows if r.domain == "pooled"}
    assert 0.4 < pooled["tfidf"] < 0.6


PLANTED = {
    "words": " and that is all of it",
    "first_person": " I said",
    "second_person": " you said",
    "third_person": " she said",
    "stock_phrases": " so sorry",
    "questions": "?",
    "exclamations": "!",
    "commas": ", so",
    "other_punctuation": " (so)",
    "negations": " not so",
    "positive_words": " wonderful",
    "negative_words": " terrible",
    "sentiment": " wonderful",
    "care_words": " gently",
    "tfidf": " zebra",
}


@pytest.mark.parametrize("feature", PLANTED)
def test_every_feature_finds_what_is_planted_for_it(feature):
    planted = balanced(60, positive=lambda f: f["positive"] + PLANTED[feature])
    assert areas(planted)[feature] > 0.9
    found = audit_pairs(PairSet(tuple(planted)), AuditLimits())
    assert any(f": {feature} tells the sides apart" in failure for failure in found.failures)


def test_a_feature_that_points_the_wrong_way_is_past_its_limit_too():
    found = audit_pairs(PairSet(tuple(balanced(60, negative=lambda f: f["negative"] + " you"))), AuditLimits())
    assert any("second_person tells the sides apart with AUROC 0.0" in failure for failure in found.failures)


def test_a_few_scenarios_are_printed_and_not_judged():
    found = audit_pairs(PairSet(tuple(balanced(20, positive=lambda f: f["positive"] + "!"))), AuditLimits(frame=200))
    assert found.failures == []
    assert {r.feature: r.area for r in found.rows if r.domain == "pooled"}["exclamations"] == 1.0


def test_tfidf_is_scored_on_scenarios_it_has_not_seen():
    """Every scenario has a word of its own on one side: memorised in training, useless on others."""
    own = balanced(60, positive=lambda f: f["positive"] + f" {f['pair_id']}x")
    assert areas(own)["tfidf"] < 0.65
    several = [p.model_copy(update={"pair_id": f"{p.pair_id}-{w}", "paraphrase": w}) for p in own for w in range(2)]
    assert areas(several)["tfidf"] < 0.65  # the other wording of a scenario is not in training either
    assert areas(several)["tfidf (one answer)"] < 0.65


def test_instructions_are_one_unit_however_many_scenarios_they_are_crossed_with():
    one = {"role": "system", "positive": "Answer with care.", "negative": "Answer in few words."}
    block = blocks_of(PairSet(tuple(balanced(12, **one))))[0]
    assert len(block.units) == 1


def test_near_duplicates_are_found_across_scenarios_only():
    made = balanced(10)
    copy = made[3].model_copy(update={"pair_id": "copy", "scenario_id": "copy"})
    again = made[4].model_copy(update={"pair_id": "again", "paraphrase": 1})
    found = near_duplicates(PairSet((*made, copy, again)), 0.5)
    assert [(a, b) for a, b, _ in found] == [("s3", "copy")]
    assert found[0][2] == pytest.approx(1.0)


def test_a_frame_shared_by_more_scenarios_than_allowed_is_named():
    framed = balanced(8, positive=lambda f: f"{f['positive']} There is no need to {f['pair_id']} at all today.")
    found = shared_frames(PairSet(tuple(framed)), 3)
    assert len(found[0][1]) == 8
    assert shared_frames(PairSet(tuple(framed[:3])), 3) == []


def test_stock_phrases_and_words_are_told_from_their_neighbours():
    assert has_stock_phrase("I’m so sorry to hear it")
    assert has_stock_phrase("That must be so hard.")
    assert not has_stock_phrase("It must be hard-boiled.")
    assert not has_stock_phrase("A sorrel horse")
    assert words("Don’t stop; 3 o'clock.") == ["don't", "stop", "3", "o'clock"]
    care = feature_table()["care_words"]
    assert care("the restaurant mission saddle kindling teardown") == 0
    assert care("rest, missed, sad, kind, tears") == 1


def test_overlap_is_one_for_two_orders_of_the_same_words():
    assert overlap("ask her first, then the form", "then ask the form, her first") == 1.0
    assert overlap("a b c d", "a b x y z") == pytest.approx(2 / 5)


def command(monkeypatch: pytest.MonkeyPatch, *given: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compassion", *given])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_exits_1_past_limits_and_writes_json(tmp_path, monkeypatch, capsys):
    good = write_lines(tmp_path / "good.jsonl", [p.model_dump() for p in balanced(60)])
    told = [p.model_dump() for p in balanced(60, positive=lambda f: f["positive"] + " [you] !")]
    bad = write_lines(tmp_path / "bad.jsonl", told)
    out = tmp_path / "audit.json"
    assert command(monkeypatch, "audit", str(bad), "--json", str(out)) == 1
    assert "exclamations tells the sides apart" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["failures"]
    assert {r["feature"] for r in found["rows"]} >= set(feature_table())
    assert command(monkeypatch, "audit", str(good), "-q", "--tfidf-limit", "0.9") in (0, 1)
    assert command(monkeypatch, "audit", str(tmp_path / "none.jsonl")) == 2
