"""docs/steering-elsewhere.md: its code, run as it stands, gives this project's numbers."""

import re
from pathlib import Path

import pytest
import torch
from conftest import base, study_of
from test_steering import direction
from transformers import AutoModelForCausalLM, AutoTokenizer

from activations.model import open_checkpoint
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, study_texts
from activations.tokens import tokenize
from probes.steering import steered_logprobs

PAGE = Path(__file__).parents[1] / "docs" / "steering-elsewhere.md"


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_pages_hook_on_a_plain_model_gives_the_sweeps_log_probs(texts_folder, tiny, tmp_path, monkeypatch, layer):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    model = open_checkpoint(study_of(texts_folder, [base(tiny)]), "base", device=torch.device("cpu"), neutral_ids=[])
    _, texts = study_texts(study_of(texts_folder, [base(tiny)]), PlainTemplate())
    texts = [t for t in texts if t.kind == "response"][:4]
    u = direction(torch.arange(32).sin().double().numpy(), f"blocks.{layer}.hook_resid_post")
    tokens = tokenize(model.tokenizer, texts, 4096, "test")
    expected = steered_logprobs(
        model, tokens, u, [-0.3, 0.4], RowPlan(row_budget=300, rows_per_batch=2), lambda _: None
    )

    monkeypatch.chdir(tmp_path)
    u.save(Path("u.safetensors"))
    space = {"model": AutoModelForCausalLM.from_pretrained(tiny), "tokenizer": AutoTokenizer.from_pretrained(tiny)}
    for line, alpha in enumerate([0.0, -0.3, 0.4]):
        for number, text in enumerate(texts):
            given = {"prompt": text.text[: text.read_from], "answer": text.text[text.read_from :], "alpha": alpha}
            space |= given
            exec(compile(code, PAGE.name, "exec"), space)
            assert space["mean_logprob"] == pytest.approx(expected[line, number], abs=2e-4)
    assert abs(expected[1] - expected[0]).min() > 1e-3  # positive control: the doses did something
