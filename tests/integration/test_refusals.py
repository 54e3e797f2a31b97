"""Studies that must get no verdict, end to end on the embedded model: each names the gate that refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from activations.embedded import embedded_model
from activations.errors import InputError
from activations.lineage import Lineage
from activations.pairs import load_pairs
from activations.study import build_study
from analysis.tables import read_table
from scripts import cli
from scripts.analyze import analyze, summary
from scripts.capture import capture, capture_lineage
from scripts.runfolder import Run
from scripts.train_probes import train_probes

ROOT = Path(__file__).parents[2]
BASE = {"name": "base", "stage": "base", "source": {"embedded": "smollm2-135m-instruct"}}
SAME = {"name": "same", "stage": "control", "parent": "base", "edit": {"identity": True}}
BROKEN = {"name": "broken", "stage": "sft", "parent": "base", "adapter": "adapters/curt", "scale": 12.0}


def made(folder: Path, *checkpoints: dict[str, object], **settings: object) -> Run:
    chosen = {"name": "refused", "domains": ["grief"], "max_scenarios": 12, "max_neutral": 16, "pmi": False}
    chosen |= {"wordings": 1}
    study = build_study(
        {"study": chosen | settings, "checkpoint": list(checkpoints)}, where="test", folder=ROOT / "studies" / "lineage"
    )
    return Run(study=study, folder=folder, device=torch.device("cpu"), console=Console(quiet=True))


def judged(run: Run) -> pd.DataFrame:
    """Verdicts; probes are fitted on the root alone, whose gates are the only ones asked for."""
    root = run.study.model_copy(update={"lineage": Lineage((run.study.lineage.root,))})
    train_probes(dataclasses.replace(run, study=root), jobs=1)
    analyze(run)
    return read_table(run.tables, "verdicts").set_index("child")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twelve scenarios, an untouched copy and a broken child."""
    cli._settle_libraries()
    run = made(tmp_path_factory.mktemp("few"), BASE, SAME, BROKEN)
    capture(run)
    return run


@pytest.fixture(scope="module")
def verdicts(few: Run) -> pd.DataFrame:
    return judged(few)


def test_twelve_scenarios_are_too_few(few, verdicts):
    row = verdicts.loc["same"]
    assert row.verdict == "NO VERDICT"
    assert "G2" in row.gates_failed.split()
    assert "G2: 12 scenarios, fewer than 30" in row.reasons
    console = Console(width=110)
    with console.capture() as said:
        for table in summary(few):
            console.print(table)
    assert "NO VERDICT (G2" in said.get()


def test_a_broken_child_is_general_damage(verdicts):
    row = verdicts.loc["broken"]
    assert row.verdict == "NO VERDICT"
    assert "G7" in row.gates_failed.split()
    assert "general damage" in row.reasons
    assert "G7" not in verdicts.loc["same"].gates_failed.split()


def test_the_instruments_controls_come_with_every_study(few, verdicts):
    held = read_table(few.tables, "instrument").set_index(["control", "quantity"])
    assert set(held.index.get_level_values(0)) == {"recaptured", "rounded", "damaged", "unrelated"}
    assert (held.loc["recaptured"].value - pd.Series({"R_tau": 1.0, "F": 1.0, "B": 0.0})).abs().max() < 1e-3
    assert held.loc[("damaged", "R_tau")].value < 1
    assert held.n_scenarios.min() == 6


def swapped(few: Run, other: Run, tmp_path: Path) -> pd.DataFrame:
    """The child's store replaced by one that another run captured under the same names."""
    folder = tmp_path / "swapped"
    shutil.copytree(few.folder, folder)
    shutil.copy(other.activations("base"), folder / "activations" / "same.h5")
    run = Run(study=few.study, folder=folder, device=few.device, console=few.console)
    analyze(run)
    return read_table(run.tables, "verdicts").set_index("child")


def test_templates_that_differ_are_refused(few, verdicts, tmp_path):
    other = made(tmp_path / "chat", BASE, template={"from": "base"})
    capture_lineage(other)
    found = swapped(few, other, tmp_path).loc["same"]
    assert found.verdict == "NO VERDICT"
    assert "G1: parent and child differ in texts or template" in found.reasons
    assert "G1" not in verdicts.loc["same"].gates_failed.split()


def retokenized(tmp_path: Path) -> Path:
    """The embedded model with a tokenizer that has one common word in two pieces."""
    folder = tmp_path / "other"
    shutil.copytree(embedded_model("smollm2-135m-instruct"), folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    model = tokenizer["model"]
    word = "Ġthe"
    assert word in model["vocab"]
    model["merges"] = [m for m in model["merges"] if "".join(m if isinstance(m, list) else m.split(" ")) != word]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


def test_token_ids_that_differ_are_refused_at_capture_and_at_the_gate(few, verdicts, tmp_path):
    folder = retokenized(tmp_path)
    child = {"name": "other", "stage": "sft", "parent": "base", "source": {"path": str(folder)}}
    with pytest.raises(InputError, match="splits text"):
        capture(made(tmp_path / "refused", BASE, child))
    alone = made(tmp_path / "alone", BASE | {"source": {"path": str(folder)}})
    capture_lineage(alone)
    found = swapped(few, alone, tmp_path).loc["same"]
    assert found.verdict == "NO VERDICT"
    assert "token ids" in found.reasons


def test_an_ancestor_without_signal_is_refused(tmp_path):
    """Labels drawn at random: whatever the child does, there is nothing it could have lost."""
    rng = np.random.default_rng(0)
    chosen = load_pairs("builtin:compassion").select(["grief"], 1, 12).pairs
    lines = []
    for pair in chosen:
        row = pair.model_dump()
        if rng.random() < 0.5:
            row["positive"], row["negative"] = row["negative"], row["positive"]
        lines.append(json.dumps(row))
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = made(tmp_path / "run", BASE, SAME, pairs=str(file))
    capture_lineage(run)
    found = judged(run).loc["same"]
    assert found.verdict == "NO VERDICT"
    assert "G4" in found.gates_failed.split()
