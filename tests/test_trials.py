"""A checkpoint's steering in pieces: each is kept, an interrupted trial goes on, a changed one starts anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DOMAINS, base, pair, study_of, write_lines
from test_steering import direction

from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, Text, study_texts
from activations.tokens import tokenize
from probes.trials import LINEAR_REACH, Answers, Trial

PLAN = RowPlan(row_budget=200, rows_per_batch=2)


def answers(model: OpenModel, texts: list[Text]) -> Answers:
    scenarios = list(dict.fromkeys(t.scenario_id for t in texts))
    weights = np.zeros((len(scenarios), len(texts)))
    for column, text in enumerate(texts):
        weights[scenarios.index(text.scenario_id), column] = 1.0 if text.side == "positive" else -1.0
    return Answers(tokens=tokenize(model.tokenizer, texts, 4096, "test"), weights=weights)


@pytest.fixture
def trial(texts_folder: Path, tiny: Path, tmp_path: Path) -> Trial:
    write_lines(texts_folder / "pairs.jsonl", [pair(n + 20 * i, d) for i, d in enumerate(DOMAINS) for n in range(6)])
    study = study_of(texts_folder, [base(tiny)])
    model = open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])
    texts = study_texts(study, PlainTemplate())[1]
    response, null, neutral = ([t for t in texts if t.kind == k] for k in ("response", "null_prompt", "neutral"))
    rng = np.random.default_rng(0)
    by_site = [direction(rng.normal(size=32), site) for site in model.sites]
    return Trial(
        open_model=lambda: model,
        folder=tmp_path / "steering",
        key="one",
        direction=by_site[2],
        by_site=by_site,
        checks=[replace(by_site[2], vector=rng.normal(size=32)) for _ in range(2)],
        alphas=[-0.1, -LINEAR_REACH, LINEAR_REACH],
        answers=answers(model, response),
        nulls=answers(model, null),
        prompted=answers(model, response),
        few=answers(model, response[:8]),
        neutral=tokenize(model.tokenizer, neutral, 4096, "test"),
        plan=PLAN,
        seed=0,
    )


def closed() -> OpenModel:
    raise AssertionError("everything is there: no model is needed")


def test_every_piece_is_measured_and_adds_up(trial):
    done = []
    trial = replace(trial, advance=done.append)
    assert len(list(trial.all())) == 8
    assert sum(done) == pytest.approx(trial.cost, rel=0.05)  # neutral texts are short: their first token is not run
    assert trial.margins.shape == (4, 12)
    assert trial.null_margins is not None
    np.testing.assert_allclose(trial.told, trial.margins[0], atol=1e-4)  # no system prompt stands in these
    np.testing.assert_allclose(trial.ablated["margins"][0], trial.margins[0], atol=1e-4)
    assert np.abs(trial.ablated["margins"][1] - trial.margins[0]).max() > 1e-3
    assert trial.damage["kl"].shape == (3,)
    assert (trial.damage["kl"] > 0).all()
    assert trial.checked["margins"].shape == (5, 4)
    np.testing.assert_allclose(trial.checked["margins"][0], trial.margins[0, :4], atol=1e-4)
    slope = trial.direction.tau * trial.gradient[2] @ trial.direction.vector
    np.testing.assert_allclose(
        slope, (trial.margins[3] - trial.margins[2]) / (2 * LINEAR_REACH), atol=0.1 * np.abs(slope).max()
    )
    assert trial.fisher.shape == (5, 4 * 8, 32)


def test_a_finished_trial_opens_no_model_and_reads_the_same(trial):
    first = [np.asarray(v) if not isinstance(v, dict) else v for v in trial.all()]
    again = replace(trial, open_model=closed)
    for a, b in zip(first, again.all(), strict=True):
        if isinstance(a, dict):
            assert all((a[k] == b[k]).all() for k in a)
        else:
            assert (a == np.asarray(b)).all()


def test_an_interrupted_trial_keeps_its_pieces(trial):
    def stop(_: int) -> None:
        if (trial.folder / "damage.safetensors").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(replace(trial, advance=stop).all())
    kept = {p.stem for p in trial.folder.glob("*")}
    assert kept == {"doses", "null", "damage"}
    fresh = replace(trial)
    pieces = list(fresh.all())
    assert len(pieces) == 8
    assert {p.stem for p in trial.folder.glob("*")} > kept


def test_another_key_or_a_damaged_file_is_measured_anew(trial):
    margins = trial.margins
    with pytest.raises(AssertionError, match="no model is needed"):
        _ = replace(trial, key="two", open_model=closed).margins
    (trial.folder / "doses.safetensors").write_bytes(b"half")
    np.testing.assert_array_equal(replace(trial).margins, margins)
