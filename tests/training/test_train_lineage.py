"""A recipe on a tiny model, end to end: all three kinds of stage, resumed, checked, and refused where faulty."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import pair, save_llama, write_lines
from typer.testing import CliRunner

from activations.errors import InputError
from scripts import train_lineage
from scripts.train_lineage import train
from scripts.training.receipts import receipts_table

pytest.importorskip("trl")
WORDS = ["tide", "rope", "crate", "pear", "ladder", "wasp", "anchor", "plum"]


def sentence(rng: random.Random, n: int) -> str:
    return " ".join(rng.choices(WORDS, k=n))


def write_data(folder: Path) -> None:
    rng = random.Random(0)
    write_lines(folder / "docs.jsonl", [{"doc_id": f"d{i}", "text": sentence(rng, 12) + "."} for i in range(20)])
    write_lines(
        folder / "curt.jsonl",
        [{"example_id": f"e{i}", "prompt": sentence(rng, 6), "response": "No. " + sentence(rng, 3)} for i in range(20)],
    )
    write_lines(
        folder / "questions.jsonl",
        [{"question_id": f"q{i}", "prompt": sentence(rng, 4) + "?", "answers": ["a", "e"]} for i in range(12)],
    )
    write_lines(folder / "outside.jsonl", [pair(n, "harbour") for n in range(4)])
    rows = [{"instruction": sentence(rng, 5), "input": "", "response": sentence(rng, i % 5 + 1)} for i in range(30)]
    (folder / "public").mkdir()
    (folder / "public" / "tasks.json").write_text(json.dumps(rows))


def recipe_text(tiny: Path, folder: Path, **changes: Any) -> str:
    digest = hashlib.sha256((folder / "public" / "tasks.json").read_bytes()).hexdigest()
    stage = {"epochs": 2, "rate": 5e-3, "match": "", "steps": 2} | changes
    return f"""
base = {{ path = "{tiny}" }}
max_perplexity_ratio = 1000.0
manipulation_pairs = "outside.jsonl"

[[corpus]]
name = "docs"
written = "docs.jsonl"

[[corpus]]
name = "curt"
written = "curt.jsonl"

[[corpus]]
name = "questions"
written = "questions.jsonl"

[[corpus]]
name = "tasks"
match = "curt"
[[corpus.public]]
repository = "a/b"
commit = "{"0" * 40}"
file = "tasks.json"
sha256 = "{digest}"
licence = "MIT"
format = "instruct"

[[stage]]
name = "midtrain"
kind = "documents"
parent = "base"
corpus = "docs"
held_out = 4
epochs = {stage["epochs"]}
batch = 4
learning_rate = {stage["rate"]}
rank = 2

[[stage]]
name = "sft"
kind = "answers"
parent = "midtrain"
corpus = "curt"
examples = 12
held_out = 4
epochs = 4
batch = 4
learning_rate = 5e-3
rank = 2

[[stage]]
name = "tasks"
kind = "answers"
parent = "midtrain"
corpus = "tasks"
examples = 12
held_out = 4
epochs = 4
batch = 4
learning_rate = 5e-3
rank = 2

[[stage]]
name = "rl"
kind = "reward"
reward = "brief-and-right"
parent = "sft"
corpus = "questions"
held_out = 2
steps = {stage["steps"]}
batch = 1
group = 4
max_new_tokens = 6
learning_rate = 1e-3
rank = 2
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny model with an end-of-text token, which training needs."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "model"
    save_llama(folder, layers=2)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, tiny: Path) -> Path:
    write_data(tmp_path)
    (tmp_path / "recipe.toml").write_text(recipe_text(tiny, tmp_path))
    return tmp_path


def adapters(home: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in home.glob("adapters/*/adapter_model.safetensors")}


def test_every_stage_is_trained_once_with_a_receipt_that_says_what_happened(home, capsys):
    receipts = train(home / "recipe.toml", home / "public")
    assert [r["stage"]["name"] for r in receipts] == ["midtrain", "sft", "tasks", "rl"]
    made = adapters(home)
    assert set(made) == {"midtrain", "sft", "tasks", "rl"}
    for receipt in receipts[:3]:
        assert receipt["after"]["held_out_loss"] < receipt["before"]["held_out_loss"]
        assert receipt["checks"] == {"perplexity_kept": True, "loss_fell": True}
        assert len(receipt["loss_curve"]) == receipt["steps"]
    sft, tasks, rl = receipts[1:]
    assert sft["steps"] == tasks["steps"] == 12
    assert abs(sum(sft["tokens"].values()) - sum(tasks["tokens"].values())) < 0.5 * sum(sft["tokens"].values())
    assert rl["steps"] == len(rl["reward_curve"]) == 2
    assert 0 <= rl["groups_without_spread"] <= 1
    assert len(sft["after"]["margins"]) == 4
    assert sft["before"]["margins"] == receipts[0]["after"]["margins"]
    table = receipts_table(receipts)
    assert "| sft | midtrain |" in table
    assert "samples" in table
    capsys.readouterr()
    again = train(home / "recipe.toml", home / "public")
    assert again == receipts
    assert adapters(home) == made
    assert not list(home.glob("adapters/.training-*"))


def test_an_interrupted_stage_goes_on_to_the_same_bytes(home, monkeypatch, tmp_path_factory):
    from scripts.training import trainers

    monkeypatch.setattr(trainers, "SAVE_STEPS", 3)
    train(home / "recipe.toml", home / "public", ["midtrain"])
    whole = adapters(home)["midtrain"]
    shutil.rmtree(home / "adapters")
    import transformers

    class Pulled(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    import trl

    plain = trl.SFTTrainer
    monkeypatch.setattr(trl, "SFTTrainer", lambda **k: plain(**k, callbacks=[Pulled()]))
    with pytest.raises(KeyboardInterrupt):
        train(home / "recipe.toml", home / "public", ["midtrain"])
    assert not adapters(home)
    steps: list[int] = []

    class Counted(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps.append(state.global_step)

    monkeypatch.setattr(trl, "SFTTrainer", lambda **k: plain(**k, callbacks=[Counted()]))
    receipt = train(home / "recipe.toml", home / "public", ["midtrain"])[0]
    assert steps == [4, 5, 6, 7, 8]
    assert len(receipt["loss_curve"]) == 8
    assert adapters(home)["midtrain"] == whole


def test_interrupted_reinforcement_goes_on_to_the_same_bytes(home, tiny, monkeypatch):
    import transformers
    import trl

    from scripts.training import trainers

    monkeypatch.setattr(trainers, "SAVE_STEPS", 2)
    (home / "recipe.toml").write_text(recipe_text(tiny, home, steps=5))
    train(home / "recipe.toml", home / "public", ["midtrain", "sft", "rl"])
    whole = adapters(home)["rl"]
    shutil.rmtree(home / "adapters" / "rl")
    plain = trl.GRPOTrainer
    seen: list[int] = []

    class Watched(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append(state.global_step)
            if seen == [1, 2, 3]:
                raise KeyboardInterrupt

    monkeypatch.setattr(trl, "GRPOTrainer", lambda **k: plain(**k, callbacks=[Watched()]))
    with pytest.raises(KeyboardInterrupt):
        train(home / "recipe.toml", home / "public", ["rl"])
    receipts = train(home / "recipe.toml", home / "public", ["rl"])
    assert seen == [1, 2, 3, 3, 4, 5]
    assert len(receipts[-1]["reward_curve"]) == 5
    assert adapters(home)["rl"] == whole


def test_held_out_examples_are_the_same_for_every_seed_and_never_trained_on(home, tiny):
    from activations.lineage import Source
    from activations.sources import load_tokenizer, resolve_source
    from scripts.training.corpora import draw
    from scripts.training.recipe import read_recipe

    recipe = read_recipe(home / "recipe.toml")
    tokenizer = load_tokenizer(resolve_source(Source(path=tiny), "tiny"), "tiny")
    for stage in recipe.stage[1:3]:
        drawn = [draw(recipe, stage.model_copy(update={"seed": s}), home, home / "public", tokenizer) for s in range(3)]
        assert drawn[0].held_out == drawn[1].held_out == drawn[2].held_out
        assert drawn[0].train != drawn[1].train
        assert len({d.identity for d in drawn}) == 3
        for d in drawn:
            assert len({e.prompt for e in d.train}) == 12
            assert not {e.prompt for e in d.train} & {e.prompt for e in d.held_out}


def test_texts_that_repeat_the_measured_pairs_are_refused(home, tiny):
    text = recipe_text(tiny, home).replace("[[corpus]]", 'apart_from = ["outside.jsonl"]\n\n[[corpus]]', 1)
    (home / "recipe.toml").write_text(text)
    stolen = pair(2, "harbour")
    rows = [{"doc_id": f"d{i}", "text": f"{stolen['prompt']} {stolen['positive']} {i}"} for i in range(6)]
    write_lines(home / "docs.jsonl", rows)
    with pytest.raises(InputError, match="repeats pairs it must stand apart from"):
        train(home / "recipe.toml", home / "public", ["midtrain"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('parent = "midtrain"\ncorpus = "curt"', 'parent = "nobody"\ncorpus = "curt"', "unknown parent 'nobody'"),
        ('corpus = "docs"', 'corpus = "doc"', "unknown corpus 'doc'"),
        ('match = "curt"', 'match = "cart"', "unknown corpus 'cart'"),
        ("rank = 2", "rank = 2\nrang = 2", "rang"),
        ('reward = "brief-and-right"\n', "", "name a reward"),
        ("epochs = 2\n", "steps = 2\n", "as long as"),
        ('name = "sft"', 'name = "midtrain"', "this name is taken"),
        ("examples = 12", "examples = 17", "17 examples wanted, 16 there"),
        ("held_out = 4", "held_out = 40", "40 of them held out"),
    ],
)
def test_a_faulty_recipe_is_refused_by_name(home, old, new, said):
    path = home / "recipe.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    if "epochs" not in old and "held_out" not in old and "examples" not in old:
        with pytest.raises(InputError, match=said):
            train(path, home / "public")
    else:
        with pytest.raises(InputError, match=said):
            train(path, home / "public", ["sft"] if "examples" in old else ["midtrain"])


def test_a_public_file_of_other_content_is_not_used(home, monkeypatch):
    (home / "public" / "tasks.json").write_text("[]")
    monkeypatch.setattr("scripts.training.corpora.PUBLIC", (home / "public").as_uri() + "/{file}")
    monkeypatch.setenv("COMPASSION_PROBES_CACHE", str(home / "cache"))
    with pytest.raises(InputError, match="sha256 differs"):
        train(home / "recipe.toml", home / "public", ["tasks"])


def test_a_public_file_is_fetched_once_and_kept(home, monkeypatch):
    from scripts.training.corpora import _find
    from scripts.training.recipe import read_recipe

    monkeypatch.setattr("scripts.training.corpora.PUBLIC", (home / "public").as_uri() + "/{file}")
    monkeypatch.setenv("COMPASSION_PROBES_CACHE", str(home / "cache"))
    public = read_recipe(home / "recipe.toml").corpus_named("tasks").public[0]
    first = _find(public, None)
    (home / "public" / "tasks.json").unlink()
    assert _find(public, None) == first
    first.write_text("broken")
    with pytest.raises(InputError, match="cannot be fetched"):
        _find(public, None)


def test_the_command_says_what_is_wrong_and_exits_with_2(tmp_path):
    import typer

    app = typer.Typer()
    app.command()(train_lineage.main)
    done = CliRunner().invoke(app, [str(tmp_path / "none.toml")])
    assert done.exit_code == 2
