"""The trained checkpoints that ship: each with a receipt that holds, made from the texts that lie beside the recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scripts.training.corpora import GRAM, SHARED, _grams, _texts, _written
from scripts.training.receipts import contrasts_table, receipts_table, rewards_table
from scripts.training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
HOME = ROOT / "studies" / "lineage"
RECIPE = read_recipe(HOME / "recipe.toml")


def receipt(name: str) -> dict:
    return json.loads((HOME / "adapters" / name / "receipt.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("stage", RECIPE.stage, ids=lambda s: s.name)
def test_every_stage_of_the_recipe_ships_and_is_what_it_claims(stage):
    found = receipt(stage.name)
    assert found["stage"] == stage.model_dump()
    assert all(found["checks"].values()), found["checks"]
    assert found["after"]["neutral_perplexity"] <= RECIPE.max_perplexity_ratio * found["before"]["neutral_perplexity"]
    if stage.kind == "reward":
        assert len(found["reward_curve"]) == stage.steps
        assert 0 <= found["groups_without_spread"] < 1
    else:
        assert found["after"]["held_out_loss"] < found["before"]["held_out_loss"]
    about = json.loads((HOME / "adapters" / stage.name / "adapter_config.json").read_text(encoding="utf-8"))
    assert about["r"] == stage.rank


def test_a_stage_starts_where_its_parent_ended():
    for stage in RECIPE.stage:
        if stage.parent != "base":
            assert receipt(stage.name)["before"]["margins"] == receipt(stage.parent)["after"]["margins"]


def test_the_branches_are_dose_matched():
    sizes = {}
    for stage in RECIPE.stage:
        found = receipt(stage.name)
        if stage.kind == "answers" and "sft" in stage.name:
            sizes[stage.name] = (found["steps"], found["examples"], stage.learning_rate, stage.rank, stage.epochs)
            tokens = sum(found["tokens"].values())
            other = stage.name.replace("helpful", "code")
            assert tokens == pytest.approx(sum(receipt(other)["tokens"].values()), rel=0.05)
    assert len(set(sizes.values())) == 1
    rewards = [s for s in RECIPE.stage if s.kind == "reward"]
    assert len({(s.steps, s.batch, s.group, s.max_new_tokens, s.learning_rate, s.rank) for s in rewards}) == 1


def test_the_whole_lineage_is_small():
    assert sum(p.stat().st_size for p in (HOME / "adapters").rglob("*") if p.is_file()) <= 25_000_000


def test_the_documents_are_many_and_matched_in_length():
    kinds = {}
    for corpus in ("compassion", "urban"):
        rows = [json.loads(line) for line in (HOME / "data" / f"{corpus}.jsonl").read_text("utf-8").splitlines()]
        assert len(rows) >= 300
        assert len({r["text"][:60] for r in rows}) == len(rows)
        kinds[corpus] = {r["doc_id"][1:]: (r["genre"], len(r["text"].split())) for r in rows}
    assert kinds["compassion"].keys() == kinds["urban"].keys()
    for number, (genre, words) in kinds["compassion"].items():
        assert kinds["urban"][number][0] == genre
        assert abs(kinds["urban"][number][1] - words) <= 12


def test_no_written_text_repeats_the_pairs_that_studies_measure_on():
    known = {g for reference in RECIPE.apart_from for text in _texts(reference, HOME) for g in _grams(text)}
    assert len(known) > 10_000
    kinds = {s.corpus: s for s in RECIPE.stage}
    for corpus in RECIPE.corpus:
        if corpus.written is not None:
            stage = kinds.get(corpus.name, RECIPE.stage[0])  # texts that lie ready are documents
            for example in _written(HOME / corpus.written, stage):
                assert len(_grams(example.words) & known) < SHARED, (corpus.name, example.prompt[:80])
    assert GRAM == 5


def test_the_documented_receipts_are_the_ones_that_ship():
    page, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/lineage.md", "README.md"))
    receipts = [receipt(s.name) for s in RECIPE.stage]
    assert receipts_table(receipts) in page
    assert receipts_table(receipts) in readme
    assert rewards_table(receipts) in page
    assert contrasts_table(RECIPE, receipts) in page
    assert len(contrasts_table(RECIPE, receipts).splitlines()) == 2 + len(RECIPE.contrast)


def test_a_contrast_is_the_paired_difference_of_margin_changes():
    moved = {
        name: np.subtract(receipt(name)["after"]["margins"], receipt(name)["before"]["margins"])
        for name in ("midtrain", "midtrain-control")
    }
    gap = moved["midtrain"] - moved["midtrain-control"]
    low, high = stats.t.interval(0.95, len(gap) - 1, gap.mean(), stats.sem(gap))
    said = f"{gap.mean():+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    assert said in contrasts_table(RECIPE, [receipt(s.name) for s in RECIPE.stage]).splitlines()[2]
