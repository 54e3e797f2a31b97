"""An edit of one site's residual alone: what is read there is the value computed exactly from the edit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DOMAINS, base, pair, study_of, write_lines
from test_steering import direction

from activations.capture import run_block
from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, study_texts
from activations.tokens import tokenize
from analysis.drift import retention
from analysis.edge import site_gauges
from probes.interventions import Affine
from probes.sides import Sides

SITE = "blocks.2.hook_resid_post"
PLAN = RowPlan(row_budget=200, rows_per_batch=2)


@pytest.fixture
def setting(texts_folder: Path, tiny: Path):
    write_lines(texts_folder / "pairs.jsonl", [pair(n + 20 * i, d) for i, d in enumerate(DOMAINS) for n in range(12)])
    study = study_of(texts_folder, [base(tiny)])
    model = open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])
    texts = [t for t in study_texts(study, PlainTemplate())[1] if t.kind == "response"]
    return model, texts, tokenize(model.tokenizer, texts, 4096, "test")


def read(model: OpenModel, texts, tokens) -> Sides:
    found = run_block(model, texts, tokens, PLAN, lambda _n: None)["response"].residual[:, 0, model.sites.index(SITE)]
    rows = {side: [i for i, t in enumerate(texts) if t.side == side] for side in ("positive", "negative")}
    return Sides(**{side: found[i].astype(np.float64) for side, i in rows.items()})


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_retention_at_the_edited_site_is_what_the_edit_leaves(setting, share):
    model, texts, tokens = setting
    before = read(model, texts, tokens)
    delta = before.difference
    u = direction(delta.mean(axis=0), SITE)  # along the difference, where the edit takes most

    # h ← h − share·u uᵀh, at every token.
    def everywhere(_site: str, value: torch.Tensor) -> torch.Tensor:
        return Affine(direction=u, centre=0.0, alpha=0.0).apply(value, torch.full(value.shape[:2], share))

    with model.hooked({SITE: everywhere}):
        after = read(model, texts, tokens)
    # Exactly: δ′ = (I − share·u uᵀ)δ, and the unbiased square of the mean of each.
    left = delta - share * np.outer(delta @ u.vector, u.vector)
    n = len(delta)

    def square(rows: np.ndarray) -> float:
        total = rows.sum(axis=0)
        return float(total @ total - np.square(rows).sum()) / (n * (n - 1))

    assert square(delta) > 0
    gauges, _ = site_gauges(before, after, np.arange(n) % 4, (1.0, 1.0))
    found = retention([gauges["tau"]])(0.95)
    exact = np.sqrt(max(square(left), 0.0) / square(delta))
    assert found.value == pytest.approx(exact, abs=2e-4)
    assert exact < 1 - share / 4  # the edit took something
