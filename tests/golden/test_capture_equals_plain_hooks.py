"""Captured residuals and log-probs against plain forward hooks on a plain transformers model, text by text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import base, save_llama, save_tokenizer, study_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from activations.capture import run_block
from activations.errors import InputError
from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan
from activations.pairs import Text, study_texts
from activations.store import POSITIONS, Measured
from activations.tokens import tokenize


@pytest.fixture(scope="module")
def opened(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    study = study_of(tmp_path_factory.mktemp("s"), [base(tiny)])
    return open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])


@pytest.fixture(scope="module")
def plain(tiny: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager").eval()


def reference(plain: torch.nn.Module, ids: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Embedding and block outputs [token, d_model] a site, and the log-prob of each token given those before."""
    kept: list[torch.Tensor] = []
    handles = [plain.model.embed_tokens.register_forward_hook(lambda _m, _a, out: kept.append(out))]
    handles += [
        layer.register_forward_hook(lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out))
        for layer in plain.model.layers
    ]
    with torch.no_grad():
        logits = plain(torch.as_tensor(ids)[None]).logits[0]
    for handle in handles:
        handle.remove()
    logprob = torch.log_softmax(logits[:-1], -1).gather(-1, torch.as_tensor(ids[1:, None]))[:, 0].numpy()
    return [k[0].numpy() for k in kept], logprob


def check(opened: OpenModel, plain: torch.nn.Module, texts: list[Text], plan: RowPlan) -> None:
    tokens = tokenize(opened.tokenizer, texts, opened.context, "test")
    found = run_block(opened, texts, tokens, plan, lambda _n: None)
    at = dict.fromkeys(found, 0)
    ragged = dict.fromkeys(found, 0)
    for text, token in zip(texts, tokens, strict=True):
        sites, logprob = reference(plain, token.ids)
        measured: Measured = found[text.kind]
        for number, position in enumerate(POSITIONS[text.kind]):
            for site, expected in enumerate(sites):
                want = expected[token.read_from :].mean(0) if position.endswith("_mean") else expected[-1]
                got = measured.residual[at[text.kind], number, site]
                assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want), (text.text_id, position, site)
        if text.kind != "prompt":
            count = int(measured.n_tokens[at[text.kind]])
            start = ragged[text.kind]
            np.testing.assert_allclose(
                measured.logprob[start : start + count], logprob[token.read_from - 1 :], atol=2e-4
            )
            ragged[text.kind] += count
            if text.kind == "neutral":
                for site, expected in enumerate(sites):
                    norms = np.linalg.norm(expected[token.read_from :], axis=1)
                    np.testing.assert_allclose(measured.token_norm[start : start + count, site], norms, rtol=1e-4)
        at[text.kind] += 1


@pytest.mark.parametrize("plan", [(1, 1), (40, 3), (256, 2), (4096, 1)])
def test_any_row_plan_gives_the_plain_models_residuals(opened, plain, texts_folder, tiny, plan):
    study = study_of(texts_folder, [base(tiny)])
    from activations.pairs import PlainTemplate

    _, texts = study_texts(study, PlainTemplate())
    check(opened, plain, list(texts), RowPlan(row_budget=plan[0], rows_per_batch=plan[1]))


WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=60)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=1, max_size=4),
    budget=st.integers(1, 400),
    together=st.integers(1, 4),
)
def test_no_text_order_length_or_packing_changes_a_residual(opened, plain, groups, budget, together):
    texts = []
    for number, (prompt, answers) in enumerate(groups):
        for a, answer in enumerate(answers):
            texts.append(
                Text(
                    kind="response",
                    text_id=f"{number}/{a}",
                    text=prompt + answer,
                    read_from=len(prompt),
                    group=str(number),
                )
            )
        texts.append(Text(kind="prompt", text_id=f"{number}/p", text=prompt, group=str(number)))
    check(opened, plain, texts, RowPlan(row_budget=budget, rows_per_batch=together))


FRAGMENTS = st.lists(
    st.sampled_from(["<|end|>", "<|start|>", "th", "the", " the", "e", " ", "\n", "é", "漢", "🜚", "User:"]),
    min_size=1,
    max_size=9,
).map("".join)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenModel, torch.nn.Module]:
    """A model whose tokenizer merges across any boundary, starts texts with BOS, and finds special tokens in them."""
    folder = tmp_path_factory.mktemp("odd")
    save_llama(folder)
    save_tokenizer(folder, extra=("th", "the", ":t", "::"), special=("<|end|>",), bos="<|start|>")
    opened = open_checkpoint(study_of(folder, [base(folder)]), "base", device=torch.device("cpu"), neutral_ids=[])
    return opened, AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scenarios=st.lists(
        st.tuples(FRAGMENTS, st.lists(st.tuples(FRAGMENTS, st.integers(1, 8)), min_size=2, max_size=6)),
        min_size=1,
        max_size=4,
    ),
    budget=st.integers(1, 600),
    together=st.integers(1, 4),
)
def test_boundaries_special_tokens_long_answers_and_wordings_change_nothing(odd, scenarios, budget, together):
    """Answers that merge with the prompt's end, hold special tokens, repeat each other's beginnings, or run long."""
    opened, plain = odd
    texts = []
    for number, (prompt, answers) in enumerate(scenarios):
        about = {"group": str(number), "scenario_id": str(number)}
        texts.append(Text(kind="prompt", text_id=f"{number}/p", text=prompt, **about))
        for a, (answer, times) in enumerate(answers):
            whole = prompt + answer * times
            texts.append(Text(kind="response", text_id=f"{number}/{a}", text=whole, read_from=len(prompt), **about))
            alone = {"text_id": f"{number}/{a}/null", "group": f"null:{number}/{a}"}
            texts.append(Text(kind="null_prompt", text=":" + answer * times, read_from=1, **alone))
    check(opened, plain, texts, RowPlan(row_budget=budget, rows_per_batch=together))


def test_an_answer_that_merges_with_the_prompts_end_is_read_with_that_token(odd):
    opened, _ = odd
    text = Text(kind="response", text_id="a", text="of th" + "e sea", read_from=5, group="a")
    token = tokenize(opened.tokenizer, [text], opened.context, "test")[0]
    assert opened.tokenizer.convert_ids_to_tokens(token.ids.tolist())[token.read_from] == "the"


def test_a_text_longer_than_the_context_is_refused_by_name_and_never_cut(odd):
    opened, _ = odd
    text = Text(kind="response", text_id="grief-001/positive", text="a" * 300, read_from=1, group="a")
    with pytest.raises(InputError, match=r"'grief-001/positive' has 301 tokens, more than the model's context of 256"):
        tokenize(opened.tokenizer, [text], 256, "test")


def test_an_answer_without_a_token_is_refused_by_name(odd):
    opened, _ = odd
    text = Text(kind="response", text_id="grief-002/negative", text="the", read_from=3, group="a")
    with pytest.raises(InputError, match="'grief-002/negative' has no token to read"):
        tokenize(opened.tokenizer, [text], opened.context, "test")


def test_hooked_packed_and_log_prob_deviations_are_on_the_receipt(opened):
    assert 0 <= opened.receipt["hook_deviation"] <= 1e-4
    assert 0 <= opened.receipt["logprob_deviation"] <= 1e-4
    assert 0 < opened.receipt["packing_deviation"] <= 1e-4


def test_a_hook_is_gone_after_an_exception(opened):
    def broken(_site: str, _value: torch.Tensor) -> None:
        raise RuntimeError("hook failed")

    ids = np.array([[1, 2, 3]])
    zeros = np.zeros_like(ids)
    with pytest.raises(RuntimeError, match="hook failed"), opened.hooked({opened.sites[1]: broken}):
        opened.body(ids, ids, opened.mask(zeros, zeros))
    opened.body(ids, ids, opened.mask(zeros, zeros))


def test_starting_after_a_block_equals_the_whole_pass(opened):
    ids = np.arange(40).reshape(2, 20)
    positions = np.tile(np.arange(20), (2, 1))
    zeros = np.zeros_like(ids)
    mask = opened.mask(zeros, zeros)
    for layer in range(3):
        kept: list[torch.Tensor] = []
        with opened.hooked({f"blocks.{layer}.hook_resid_post": lambda _s, v, kept=kept: kept.append(v.clone())}):
            whole = opened.body(ids, positions, mask)
        rest = opened.body_after(layer, kept[0], positions, mask)
        torch.testing.assert_close(rest, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(opened.body(ids, positions, mask), whole)  # all blocks are back
