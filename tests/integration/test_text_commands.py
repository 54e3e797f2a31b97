"""read, generate and export on a finished run of a tiny study: opened again from its lock file, refused by name."""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import save_llama, write_study
from rich.console import Console
from safetensors.numpy import save_file

from activations.lineage import Lineage
from activations.store import ActivationStore
from activations.study import build_study, read_study
from analysis.reading_page import shade
from probes.fit import load_direction
from scripts import cli

STUDY = """
[study]
name = "tiny"
pairs = "pairs.jsonl"
neutral = "neutral.jsonl"
pmi = false

[[checkpoint]]
name = "base"
stage = "base"
source = {{ path = "{model}" }}

[[checkpoint]]
name = "tuned"
stage = "sft"
parent = "base"
adapter = "tuned"
scale = 0.5
data_domain = "boats"
seed = 3

[[checkpoint]]
name = "less"
stage = "control"
parent = "tuned"
edit = {{ attenuate = 0.5, direction = "u.safetensors" }}
"""


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compassion", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def home(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with its model, and its run in `run/`."""
    folder = tmp_path_factory.mktemp("home")
    write_study(folder)
    save_llama(folder / "model")
    shutil.copytree(adapter, folder / "tuned")
    save_file({"vector": np.random.default_rng(0).normal(size=32)}, folder / "u.safetensors")
    (folder / "study.toml").write_text(STUDY.format(model=folder / "model"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for verb in ("capture", "train-probes"):
            assert command(patch, verb, str(folder), "--out", str(folder / "run"), "-q", "--device", "cpu") == 0
    return folder


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def refused(monkeypatch, capsys, *words: str) -> str:
    assert command(monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    return said.err


def test_the_lock_file_alone_gives_the_study_back_from_any_folder(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lock = json.loads((home / "run" / "study.lock.json").read_text())
    again = build_study(
        {"study": lock["study"], "checkpoint": lock["lineage"]}, where="lock", folder=Path(lock["folder"])
    )
    first = read_study(home)
    assert again.settings == first.settings
    assert again.lineage.checkpoints == first.lineage.checkpoints


def test_every_kind_of_checkpoint_survives_its_table(home, tmp_path):
    data = {
        "study": {"name": "x"},
        "checkpoint": [
            {"name": "base", "stage": "base", "source": {"hub": "a/b", "revision": "c", "subfolder": "d"}},
            {"name": "e", "stage": "sft", "parent": "base", "source": {"embedded": "smollm2-135m-instruct"}, "seed": 0},
            {"name": "same", "stage": "control", "parent": "base", "edit": {"identity": True}},
            {"name": "round", "stage": "control", "parent": "base", "edit": {"round": "int8"}},
            {"name": "turned", "stage": "control", "parent": "base", "edit": {"rotate": 30.0}},
        ],
    }
    study = build_study(data, where="test", folder=home)
    tables = json.loads(json.dumps([c.table() for c in study.lineage.checkpoints]))
    again = build_study({"study": {"name": "x"}, "checkpoint": tables}, where="test", folder=tmp_path)
    assert isinstance(again.lineage, Lineage)
    assert again.lineage.checkpoints == study.lineage.checkpoints


def test_read_lists_every_token_with_its_projection(home, monkeypatch, capsys, tmp_path):
    run = home / "run"
    page = tmp_path / "page.html"
    words = "The rope [red]is[/red] kept\x1b[2J."
    options = ("--checkpoint", "less", "--layer", "2", "--domain", "orchard", "--html", str(page), "--device", "cpu")
    assert command(monkeypatch, "read", str(run), words, *options) == 0
    said = lines(capsys)
    n = len(words)  # the tiny tokenizer's tokens are bytes
    assert said[0].split() == ["not", "read", "T"]
    assert "".join(line[33:] for line in said[:n]) == words.replace(" ", "␣").replace("\x1b", "␛")
    assert "less, mass-mean of orchard at layer 2" in said[n + 1]
    assert said[n + 2] == "not read: the first token is an attention sink"
    values = [float(line[:8].replace("−", "-")) for line in said[1:n]]
    mean = float(said[n + 1].split("tokens ")[1].removesuffix(" τ").replace("−", "-"))
    assert mean == pytest.approx(np.mean(values), abs=1.1e-3)  # all are printed with three decimals
    assert "<td>" + said[1][:8].strip() + "</td>" in page.read_text()

    # The number is the one that the direction gives on the residuals of a capture.
    neutral = json.loads((home / "neutral.jsonl").read_text().splitlines()[0])["text"]
    assert command(monkeypatch, "read", str(run), neutral, "--layer", "2", "--device", "cpu") == 0
    said = lines(capsys)
    u = load_direction(
        run / "directions" / "base.safetensors", "compassion", "pooled", "mass-mean", "blocks.2.hook_resid_post"
    )
    with ActivationStore(run / "activations" / "base.h5") as store:
        captured = store.residual("neutral", "text_mean", "blocks.2.hook_resid_post")
    values = [float(line[:8].replace("−", "-")) for line in said[1 : len(neutral)]]
    assert np.mean(values) == pytest.approx(u.project(captured[:1])[0] / u.tau, abs=2e-3)


def test_read_as_an_answer_leaves_the_prompt_unread(home, monkeypatch, capsys):
    assert command(monkeypatch, "read", str(home / "run"), "Yes, now.", "--prompt", "Is it?", "--device", "cpu") == 0
    said = lines(capsys)
    unread = [line for line in said if line.startswith("not read ")]
    assert "".join(line[33:] for line in unread) == "User:␣Is␣it?␊Assistant:"
    assert "".join(line[33:] for line in said[len(unread) : len(unread) + 10]) == "␣Yes,␣now."
    assert said[-1] == "not read: the prompt comes before"


def test_read_takes_a_file_and_the_standard_input(home, monkeypatch, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("Tide, é.", encoding="utf-8")
    assert command(monkeypatch, "read", str(home / "run"), "--file", str(tmp_path / "a.txt"), "--device", "cpu") == 0
    from_file = lines(capsys)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Tide, é.".encode())))
    assert command(monkeypatch, "read", str(home / "run"), "-", "--device", "cpu") == 0
    assert lines(capsys) == from_file


def test_read_colours_a_terminal(home, monkeypatch):
    from scripts.read import read

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system="truecolor", no_color=False, width=80)
    about = {"prompt": None, "checkpoint": "", "layer": 1, "domain": "", "study": None, "html": None}
    read(home / "run", "Gently [b]now", **about, device=torch.device("cpu"), console=console)
    shown = screen.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown).startswith("Gently [b]now\n")  # the text, its brackets no markup
    for place in (-1.0, 1.0):  # the scale's ends
        red, green, blue = (int(shade(place)[i : i + 2], 16) for i in (1, 3, 5))
        assert f"48;2;{red};{green};{blue}m" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["read", "RUN"], "TEXT: give a text or a --file"),
        (["read", "RUN", "a", "--file", "b"], "TEXT: give a text or a --file"),
        (["read", "RUN", "--file", "gone.txt"], "gone.txt: cannot be read"),
        (["read", "RUN", " \n "], "TEXT: holds no word"),
        (["read", "RUN", "x"], "has no token to read"),
        (["read", "RUN", "x" * 3000], "more than the model's context"),
        (["read", "RUN", "two words", "--domain", "sea"], "domains: harbour, orchard, pooled"),
        (["read", "RUN", "two words", "--checkpoint", "x"], "checkpoints: base, less, tuned"),
        (["read", "RUN", "two words", "--device", "warp"], "--device warp: cannot be used"),
        (["read", "RUN/activations", "two words"], "no run here"),
        (["generate", "RUN", "--prompt", " "], "--prompt: holds no word"),
        (["generate", "RUN", "--prompt", "a", "--layer", "9"], "no layer 9"),
        (["generate", "RUN", "--prompt", "a", "--temperature", "0", "--samples", "2"], "--temperature: is 0"),
        (["generate", "RUN", "--prompt", "a", "--max-new-tokens", "5000"], "more than the context of 2048"),
        (["generate", "RUN", "--prompt", "a", "--alpha", "nan"], "not finite"),
        (["export", "RUN", "u.gguf", "--layer", "0"], "no control vectors at block 0"),
        (["export", "RUN", "u.gguf", "--layer", "-1"], "no control vectors at the embedding"),
    ],
)
def test_bad_input_exits_2_with_one_message(home, monkeypatch, capsys, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(monkeypatch, capsys, *(w.replace("RUN", str(home / "run")) for w in words))
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_text_are_refused(home, monkeypatch, capsys, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refused(
        monkeypatch, capsys, "read", str(home / "run"), "--file", str(tmp_path / "a.txt")
    )
    assert "is not UTF-8 text" in refused(monkeypatch, capsys, "read", str(home / "run"), "a\udcff b")


def test_generate_prints_an_answer_at_zero_and_at_each_dose_and_repeats_itself(home, monkeypatch, capsys):
    words = ["generate", str(home / "run"), "--prompt", "What about tide?", "--alpha", "-0.8", "--alpha", "0.8"]
    words += ["--max-new-tokens", "12", "--samples", "2", "--checkpoint", "tuned", "--layer", "1", "--device", "cpu"]
    assert command(monkeypatch, *words) == 0
    first = capsys.readouterr().out
    heads = [line for line in first.splitlines() if line.startswith("α ")]
    assert [h.split(",")[0] for h in heads] == ["α +0 τ"] * 2 + ["α -0.8 τ"] * 2 + ["α +0.8 τ"] * 2
    assert [h.split(",")[1] for h in heads] == [" sample 1", " sample 2"] * 3
    assert "tuned, with mass-mean of pooled at layer 1" in first
    assert not any(ord(c) < 32 and c != "\n" for c in first)  # a random model writes control characters
    assert command(monkeypatch, *words) == 0
    assert capsys.readouterr().out == first
    parts = first.split("\nα ")[1:]
    texts = [part.split("\n", 1)[1] for part in parts]
    assert len(set(texts)) == 6  # doses and samples differ
    assert command(monkeypatch, *words, "--seed", "1") == 0
    assert capsys.readouterr().out != first


def test_export_writes_what_its_suffix_says(home, monkeypatch, capsys, tmp_path):
    out = tmp_path / "u.gguf"
    assert command(monkeypatch, "export", str(home / "run"), str(out), "--checkpoint", "tuned", "--layer", "3") == 0
    assert "blocks.3.hook_resid_post" in capsys.readouterr().out
    u = load_direction(
        home / "run" / "directions" / "tuned.safetensors",
        "compassion",
        "pooled",
        "mass-mean",
        "blocks.3.hook_resid_post",
    )
    reader = gguf.GGUFReader(out)
    (tensor,) = reader.tensors
    assert tensor.name == "direction.3"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    np.testing.assert_allclose(tensor.data, u.tau * u.vector, rtol=1e-5)


def test_a_run_whose_files_have_moved_or_changed_is_refused_until_the_study_is_given(
    home, adapter, monkeypatch, capsys, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(home / "run", run)
    words = ["read", str(run), "two words", "--device", "cpu"]
    lock = json.loads((run / "study.lock.json").read_text())
    (run / "study.lock.json").write_text(json.dumps({k: v for k, v in lock.items() if k != "lineage"}))
    assert "holds no lineage: an earlier version wrote it" in refused(monkeypatch, capsys, *words)
    assert command(monkeypatch, *words, "--study", str(home)) == 0

    moved = json.loads(json.dumps(lock).replace(str(home / "model"), str(tmp_path / "gone")))
    (run / "study.lock.json").write_text(json.dumps(moved))
    message = refused(monkeypatch, capsys, *words)
    assert "no model at" in message
    assert "study.lock.json, checkpoint 'base', source.path" in message
    assert command(monkeypatch, *words, "--study", str(home)) == 0

    other = tmp_path / "other"
    other.mkdir()
    write_study(other)
    save_llama(other / "model", seed=5)
    (other / "study.toml").write_text(STUDY.format(model=other / "model").split('[[checkpoint]]\nname = "tuned"')[0])
    message = refused(monkeypatch, capsys, *words, "--study", str(other))
    assert "checkpoint 'base': its weights are not those that the run captured" in message
    message = refused(monkeypatch, capsys, *words, "--study", str(other), "--checkpoint", "tuned")
    assert "holds no checkpoint 'tuned', but the run does" in message
