"""The real embedded model: its hooks are faithful, and the instrument's first known truths come out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from activations.capture import run_block
from activations.embedded import embedded_model
from activations.model import open_checkpoint
from activations.packing import RowPlan
from activations.pairs import PlainTemplate, study_texts
from activations.study import Study, build_study
from activations.tokens import tokenize
from analysis.tables import read_table
from scripts import cli
from scripts.stage_verbs import in_run_folder

ROOT = Path(__file__).parents[2]
DOMAINS = ["grief", "animal_welfare"]


def study(**settings: object) -> Study:
    chosen = {"name": "embedded", "domains": DOMAINS, "max_scenarios": 8, "max_neutral": 16, "pmi": False}
    return build_study(
        {
            "study": chosen
            | {"steer_scenarios": 2, "alphas": [-0.05, 0.05], "sample_prompts": 2, "sample_tokens": 12}
            | settings,
            "checkpoint": [
                {"name": "base", "stage": "base", "source": {"embedded": "smollm2-135m-instruct"}},
                {"name": "same", "stage": "control", "parent": "base", "edit": {"identity": True}},
                {
                    "name": "less",
                    "stage": "control",
                    "parent": "base",
                    "edit": {"attenuate": 0.25, "direction": "controls/u.safetensors"},
                },
                {"name": "turned", "stage": "control", "parent": "base", "edit": {"rotate": 60.0}},
            ],
        },
        where="test",
        folder=ROOT / "studies" / "demo",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scripts.run import run_all

    folder = tmp_path_factory.mktemp("run")
    cli._settle_libraries()
    in_run_folder(run_all, study(), folder, quiet=True, device="cpu")
    return folder


def test_captured_residuals_equal_plain_forward_hooks_on_the_real_model():
    made = study()
    model = open_checkpoint(made, "base", device=torch.device("cpu"), neutral_ids=[])
    plain = AutoModelForCausalLM.from_pretrained(
        embedded_model("smollm2-135m-instruct"), attn_implementation="eager", dtype=torch.float32
    ).eval()
    _, texts = study_texts(made, PlainTemplate())
    texts = [t for t in texts if t.kind == "response"][:4]
    tokens = tokenize(model.tokenizer, texts, model.context, "test")
    measured = run_block(model, texts, tokens, RowPlan(row_budget=300, rows_per_batch=2), lambda _n: None)["response"]
    for index, token in enumerate(tokens):
        kept: list[torch.Tensor] = []
        handles = [
            layer.register_forward_hook(
                lambda _m, _a, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
            )
            for layer in plain.model.layers
        ]
        with torch.no_grad():
            logits = plain(torch.as_tensor(token.ids)[None]).logits[0]
        for handle in handles:
            handle.remove()
        for site, value in enumerate(kept, start=1):
            expected = value[0, token.read_from :].mean(0).numpy()
            error = np.linalg.norm(measured.residual[index, 0, site] - expected)
            assert error <= 1e-4 * np.linalg.norm(expected), (index, site)
        logprob = torch.log_softmax(logits[:-1], -1).gather(-1, torch.as_tensor(token.ids[1:, None]))[:, 0]
        start = int(measured.n_tokens[:index].sum())
        got = measured.logprob[start : start + int(measured.n_tokens[index])]
        np.testing.assert_allclose(got, logprob[token.read_from - 1 :].numpy(), atol=1e-3)


def test_the_same_weights_measured_again_read_one(run):
    receipts = read_table(run / "tables", "receipts").set_index("checkpoint")
    assert receipts.loc["same", "row_budget"] != receipts.loc["base", "row_budget"]
    assert receipts.loc["same", "weight_hash"] == receipts.loc["base", "weight_hash"]
    drift = read_table(run / "tables", "drift").query("child == 'same'")
    assert (drift.retention - 1).abs().max() < 1e-4
    assert (drift.cosine.dropna() - 1).abs().max() < 1e-4
    assert (drift.retention != 1).any()  # a second measurement, not a copy


def test_attenuation_reads_below_one(run):
    drift = read_table(run / "tables", "drift").query("child == 'less' and layer == 'band' and gauge == 'tau'")
    by_domain = drift.set_index("domain")
    assert (by_domain.retention.dropna() < 1).all()  # eight scenarios can be too few for one domain alone
    assert by_domain.loc["pooled", "retention_high"] < 1


def test_attenuation_spares_the_attention_sink_and_so_the_model(run):
    """With the sink's share of the direction left in, perplexity rose by 19 %."""
    edges = read_table(run / "tables", "edges").query("child == 'less' and quantity == 'perplexity'")
    assert edges.value.max() < 1.03


def test_steering_moves_the_margin_with_the_dose(run):
    rows = read_table(run / "tables", "steering").query("domain == 'pooled' and kind == 'add'")
    margin = rows[rows.control == "none"].set_index("alpha").margin
    assert margin[-0.05] < margin[0.0] < margin[0.05]


def test_gradients_foretell_what_directions_do_at_finite_dose(run):
    """The direction and ten random ones, both ways: half the difference cancels even orders."""
    rows = read_table(run / "tables", "steering").query("domain == 'pooled' and kind == 'add' and alpha != 0")
    both = rows.pivot(index="control", columns="alpha", values=["shift", "first_order"])
    finite = (both["shift"][0.05] - both["shift"][-0.05]) / 2
    assert len(finite) == 11
    assert np.corrcoef(finite, both["first_order"][0.05])[0, 1] > 0.98
    np.testing.assert_allclose(both["first_order"][0.05], finite, atol=0.15 * finite.abs().max())


def test_copies_answer_as_the_base_does_and_are_read_alike(run):
    table = read_table(run / "tables", "generations").query("alpha == 0")
    scores = table.pivot(index="scenario_id", columns="checkpoint", values="reader_score")
    assert scores.notna().all(axis=None)
    same = table.pivot(index="scenario_id", columns="checkpoint", values="text")
    assert (same["same"] == same["base"]).mean() >= 0.75  # a tie of two tokens may break either way
    assert np.ptp(scores["base"]) > 0.1  # the reader tells answers apart


def test_a_rotation_that_keeps_the_function_reads_as_exactly_that(run):
    """Turned by 60°: as large as before, half as large along the old direction, behaving as before."""
    band = read_table(run / "tables", "drift").query("child == 'turned' and layer == 'band' and gauge == 'tau'")
    assert band.set_index("domain").loc["pooled", ["retention", "frozen"]].notna().all()
    np.testing.assert_allclose(band.retention.dropna(), 1.0, atol=1e-4)  # eight scenarios can be too few for a domain
    np.testing.assert_allclose(band.frozen.dropna(), 0.5, atol=1e-3)
    np.testing.assert_allclose(band.cosine.dropna(), 0.5, atol=1e-3)
    edges = read_table(run / "tables", "edges").query("child == 'turned'").set_index(["domain", "quantity"]).value
    assert abs(edges["pooled", "B"]) < 1e-3
    assert edges["pooled", "perplexity"] == pytest.approx(1.0, abs=1e-4)
