"""Pair files: every fault is named by file and line; texts are rendered once and read where the answer starts."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import base, pair, study_of, write_lines

from activations.errors import InputError
from activations.pairs import PlainTemplate, load_neutral, load_pairs, render_texts, study_texts
from activations.tokens import tokenize


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_pairs(path)
    return str(caught.value)


def test_pairs_load_in_order_and_hash_by_content(tmp_path):
    rows = [pair(n, "harbour") for n in range(3)]
    first = load_pairs(write_lines(tmp_path / "a.jsonl", rows))
    assert [p.pair_id for p in first.pairs] == [r["pair_id"] for r in rows]
    rows[2]["positive"] += "!"
    assert load_pairs(write_lines(tmp_path / "b.jsonl", rows)).hash != first.hash


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positive": None}, "line 2, key 'positive'"),
        ({"positive": "  "}, "line 2, key 'positive': is empty"),
        ({"negative": "x", "positive": "x "}, "positive and negative are the same text"),
        ({"negatve": "x"}, "line 2, key 'negatve': unknown key"),
        ({"pair_id": "harbour-000-w0"}, "pair_id 'harbour-000-w0' is already used at"),
        ({"scenario_id": "harbour-000", "domain": "orchard"}, "stands in the domains 'harbour' and 'orchard'"),
        ({"prompt": ""}, "prompt is empty"),
        ({"role": "answer"}, "key 'role'"),
        ({"paraphrase": "0"}, "key 'paraphrase'"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, change, said):
    rows = [pair(0, "harbour"), pair(1, "harbour") | change]
    message = refusal(write_lines(tmp_path / "p.jsonl", rows))
    assert said in message
    assert "p.jsonl, line 2" in message


def test_a_missing_side_is_named(tmp_path):
    row = pair(0, "harbour")
    del row["negative"]
    assert "line 1, key 'negative': missing key" in refusal(write_lines(tmp_path / "p.jsonl", [row]))


def test_malformed_json_is_named_by_line_and_column(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(pair(0, "harbour")) + '\n{"pair_id": "x",,}\n', encoding="utf-8")
    message = refusal(path)
    assert "p.jsonl, line 2: not valid JSON" in message
    assert "column 17" in message


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "holds no pair"), (b"\xff\xfe", "is not UTF-8"), (None, "cannot be read")]
)
def test_unreadable_files_are_refused(tmp_path, content, said):
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert said in refusal(path)


def test_an_unknown_builtin_names_those_there_are():
    with pytest.raises(InputError, match="builtin:compassion"):
        load_pairs("builtin:kindness")


def test_selection_takes_first_scenarios_of_each_domain(tmp_path):
    rows = [pair(n, d) for n in range(4) for d in ("harbour", "orchard")]
    rows += [r | {"pair_id": r["pair_id"] + "b", "paraphrase": 1} for r in rows]
    pairs = load_pairs(write_lines(tmp_path / "p.jsonl", rows))
    chosen = pairs.select(["orchard"], 1, 2)
    assert [p.scenario_id for p in chosen.pairs] == ["orchard-000", "orchard-001"]
    assert len(pairs.select([], None, 2).pairs) == 8
    with pytest.raises(InputError, match="no pair has the domain 'grove'"):
        pairs.select(["grove"], None, None)


def test_too_few_neutral_texts_are_refused(tmp_path):
    path = write_lines(tmp_path / "n.jsonl", [{"text_id": f"n{i}", "text": "Plain."} for i in range(7)])
    with pytest.raises(InputError, match="7 neutral texts are too few"):
        load_neutral(path)


def test_an_answer_is_read_from_its_first_token_on(tmp_path, tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    pairs = load_pairs(write_lines(tmp_path / "p.jsonl", [pair(0, "harbour", positive="Ünïcode é 你好 answer.")]))
    texts = render_texts(pairs, [], PlainTemplate(), pmi=True)
    assert [t.kind for t in texts] == ["prompt", "response", "null_prompt", "response", "null_prompt"]
    tokens = tokenize(tokenizer, texts, 4096, "test")
    for text, token in zip(texts, tokens, strict=True):
        if text.kind == "response":
            answer = {"positive": "Ünïcode é 你好 answer.", "negative": pairs.pairs[0].negative}[text.side]
            assert tokenizer.decode(token.ids[token.read_from :]) == " " + answer


def test_a_token_across_the_boundary_belongs_to_the_answer(tmp_path):
    from conftest import save_tokenizer
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path, extra=(":G",))  # "Assistant:" and "G…" share a token when nothing stands between them
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    class Tight(PlainTemplate):
        answer_prefix = ""

    pairs = load_pairs(write_lines(tmp_path / "p.jsonl", [pair(0, "harbour")]))
    texts = render_texts(pairs, [], Tight(answer_prefix=""), pmi=False)
    tokens = tokenize(tokenizer, texts, 4096, "test")
    positive = tokens[1]
    assert tokenizer.decode(positive.ids[positive.read_from :]).startswith(":G")
    assert not np.array_equal(positive.ids[: len(tokens[0].ids)], tokens[0].ids)


def test_a_text_longer_than_the_context_is_refused_by_name(tmp_path, tiny):
    from transformers import AutoTokenizer

    pairs = load_pairs(write_lines(tmp_path / "p.jsonl", [pair(0, "harbour")]))
    texts = render_texts(pairs, [], PlainTemplate(), pmi=False)
    with pytest.raises(
        InputError, match=r"'harbour-000-w0/positive' has \d+ tokens, more than the model's context of 60"
    ):
        tokenize(AutoTokenizer.from_pretrained(tiny), texts, 60, "test")


def test_bos_stands_once_whatever_the_template(tmp_path):
    """A chat template that writes BOS, on a tokenizer that adds it too."""
    from conftest import save_tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from activations.model import ChatTemplate

    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    pairs = load_pairs(write_lines(tmp_path / "p.jsonl", [pair(0, "harbour")]))
    path = write_lines(tmp_path / "n.jsonl", [{"text_id": f"n{i}", "text": "Plain text."} for i in range(8)])
    neutral = load_neutral(path)
    for template in (PlainTemplate(), ChatTemplate(tokenizer=tokenizer)):
        texts = render_texts(pairs, neutral, template, pmi=True)
        for text, token in zip(texts, tokenize(tokenizer, texts, 4096, "test"), strict=True):
            assert token.ids[0] == bos, text.kind
            assert (token.ids == bos).sum() == 1, text.kind
            if text.kind == "response":
                answer = tokenizer.decode(token.ids[token.read_from :]).strip()
                assert answer == getattr(pairs.pairs[0], text.side)


def test_system_and_user_pairs_are_read_at_the_prompt(tmp_path):
    rows = [pair(0, "harbour", role="system"), pair(1, "harbour", role="user", prompt="")]
    texts = render_texts(load_pairs(write_lines(tmp_path / "p.jsonl", rows)), [], PlainTemplate(), pmi=True)
    assert [(t.kind, t.side) for t in texts] == [("prompt", "positive"), ("prompt", "negative")] * 2
    assert texts[0].text.endswith("Assistant:")
    assert rows[0]["positive"] in texts[0].text
    assert rows[1]["negative"] in texts[3].text


def test_a_study_of_a_contrast_that_no_pair_has_is_refused_by_name(texts_folder, tiny):
    study = study_of(texts_folder, [base(tiny)], contrast="patience")
    with pytest.raises(InputError) as caught:
        study_texts(study, PlainTemplate())
    said = str(caught.value)
    assert "patience" in said
    assert "study.contrast" in said
    assert "pairs.jsonl: compassion" in said
