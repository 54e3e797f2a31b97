"""Reading a text: projections equal plain hooks, the pieces are the text, nothing in a text acts on the page."""

import html
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import base, save_tokenizer, study_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_steering import direction
from transformers import AutoTokenizer

from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan
from activations.pairs import Text
from activations.tokens import token_pieces, tokenize
from analysis.reading_page import number, shade, visible, write_page
from probes.reading import Reading, neutral_range, token_projections
from scripts.read import _print

NASTY = ["two\nlines\tand\x1b[31m red", "naïve ☕ 🧑‍🚒 end ", '<b>&"quoted"</b> [bold]x[/bold]', "a\u202eb\x00c\x7f"]


def text(words: str) -> Text:
    return Text(kind="neutral", text_id="t", text=words, group=words)


@pytest.fixture
def model(texts_folder: Path, tiny: Path) -> OpenModel:
    study = study_of(texts_folder, [base(tiny)])
    return open_checkpoint(study, "base", device=torch.device("cpu"), neutral_ids=[])


@pytest.mark.parametrize(
    ("contrast", "ends"), [("compassion", ("curt", "compassionate")), ("patience", ("less patience", "more patience"))]
)
def test_the_ends_of_the_terminals_scale_are_named_for_the_contrast(contrast, ends):
    reading = Reading(pieces=("a",), projections=np.array([2.0]), read_from=0, low=1.0, high=3.0)
    u = replace(direction(np.ones(32), "blocks.0.hook_resid_post", tau=3.0), contrast=contrast)
    screen = io.StringIO()
    _print(reading, "base", u, Console(file=screen, width=200))
    assert f"{ends[0]} +1.000 τ ◄◄◄│►►► +3.000 τ {ends[1]} (1 %" in screen.getvalue()


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"])
def test_projections_equal_a_run_with_cache_on_one_text_at_a_time(model, site):
    u = direction(np.random.default_rng(0).normal(size=32), site, tau=3.0)
    texts = [text(w) for w in (*NASTY, "tide", "the ladder by the wall")]
    tokens = tokenize(model.tokenizer, texts, 4096, "test")
    for plan in (RowPlan(row_budget=30, rows_per_batch=3), RowPlan(row_budget=500, rows_per_batch=1)):
        for token, line in zip(tokens, token_projections(model, tokens, u, plan), strict=True):
            _, cache = model.bridge.run_with_cache(torch.as_tensor(token.ids)[None])
            expected = cache[site][0].detach().numpy() @ u.vector / 3.0
            np.testing.assert_allclose(line, expected, atol=1e-4)


def test_the_range_leaves_the_first_token_of_every_text_out():
    rng = np.random.default_rng(0)
    lines = [np.r_[1e6, rng.uniform(-1, 1, size=200)] for _ in range(20)]
    low, high = neutral_range(lines)
    assert (low, high) == (pytest.approx(-0.98, abs=0.01), pytest.approx(0.98, abs=0.01))


def test_a_place_is_minus_one_at_the_low_end_and_one_at_the_high_end():
    reading = Reading(pieces=("a", "b", "c"), projections=np.array([1.0, 3.0, 4.0]), read_from=0, low=1.0, high=3.0)
    assert [reading.place(i) for i in range(3)] == [-1.0, 1.0, 2.0]
    flat = Reading(pieces=("a",), projections=np.array([1.0]), read_from=0, low=1.0, high=1.0)
    assert flat.place(0) == 0.0


@given(words=st.text(min_size=1, max_size=30))
def test_pieces_joined_are_the_text(words, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "pieces"
    if not folder.is_dir():
        save_tokenizer(folder, extra=("th", "ab"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = token_pieces(tokenizer, text(words))
    assert "".join(pieces) == words
    assert len(pieces) == len(tokenizer(words).input_ids)


def test_a_bos_that_the_tokenizer_adds_is_named(tmp_path):
    save_tokenizer(tmp_path, bos="<s>")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert token_pieces(tokenizer, text("né")) == ["<s>", "n", "é", ""]


def test_what_could_act_on_a_terminal_is_made_visible():
    assert visible(NASTY[0]) == "two␊\nlines␉and␛[31m red"
    assert visible(NASTY[3]) == "a⟨U+202E⟩b␀c␡"
    assert visible("naïve ☕ 猫 ء") == "naïve ☕ 猫 ء"


def test_shades_are_white_in_the_middle_and_apart_for_the_colour_blind():
    """Under deuteranopia (Viénot's matrix) the ends differ in blue by half the scale at least."""
    assert shade(0.0) == "#ffffff"
    assert shade(-7.0) == shade(-1.0) != shade(1.0) == shade(7.0)
    curt, kind = (np.array([int(shade(p)[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for p in (-1.0, 1.0))
    seen = np.array([[0.293, 0.707, 0.0], [0.293, 0.707, 0.0], [-0.021, 0.021, 1.0]])
    assert abs(seen @ curt - seen @ kind).max() > 0.5


def test_the_page_shows_every_token_and_runs_nothing_of_the_text(tmp_path):
    words = NASTY[2] + "</div><script>alert(1)</script>"
    pieces = tuple(words)
    values = np.linspace(-1.0, 1.0, len(pieces))
    reading = Reading(pieces=pieces, projections=values, read_from=1, low=-0.5, high=0.5)
    write_page(tmp_path / "a.html", reading, {"run": "<i>r</i>", "checkpoint": "base"})
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>r" not in page
    assert not re.search(r"https?:|url\(|src=|@import", page)
    body = page[page.index('<div class="text">') : page.index("<h2>")]
    assert html.unescape(re.sub(r"<[^>]+>", "", body)).strip() == words
    assert f'title="token 2: {number(float(values[1]))} τ"' in body
    assert 'title="token 1: not read"' in body
    assert body.count('class="unread"') == 1
    for value in values[1:]:  # the numbers stand in the table too, for whoever sees no colour
        assert f"<td>{number(float(value))}</td>" in page
    assert 'style="--left: 0.0%; --width: 50.0%"' in page
