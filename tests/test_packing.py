"""Packing: every text once, prefixes shared, nobody sees a stranger."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from activations.packing import PackedRow, TokenText, allowed, batch_rows, pack

TEXTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.sampled_from("abc")), min_size=1, max_size=12
)


def texts_of(drawn: list[tuple[list[int], str]]) -> list[TokenText]:
    return [TokenText(ids=np.asarray(ids), read_from=0, group=group) for ids, group in drawn]


def seen_by(rows: list[PackedRow]) -> np.ndarray:
    _, _, branch, last = batch_rows(rows)
    return allowed(torch.as_tensor(branch), torch.as_tensor(last)).numpy()


@given(TEXTS, st.integers(1, 40))
def test_places_spell_out_every_text_exactly_once(drawn, budget):
    texts = texts_of(drawn)
    seen = []
    for row in pack(texts, budget):
        for index, place in zip(row.texts, row.places, strict=True):
            seen.append(index)
            np.testing.assert_array_equal(row.ids[place], texts[index].ids)
            np.testing.assert_array_equal(row.position_ids[place], np.arange(len(place)))
    assert sorted(seen) == list(range(len(texts)))


@given(TEXTS, st.integers(1, 40))
def test_a_token_sees_exactly_the_tokens_before_it_in_its_own_text(drawn, budget):
    texts = texts_of(drawn)
    rows = pack(texts, budget)
    seen = seen_by(rows)
    for number, row in enumerate(rows):
        for place in row.places:
            for i, token in enumerate(place):
                assert np.flatnonzero(seen[number, token]).tolist() == place[: i + 1].tolist()


def test_no_token_sees_padding_and_padding_sees_no_token():
    rows = pack(texts_of([([1, 2, 3, 4], "a"), ([1], "b")]), 1)
    seen = seen_by(rows)[1]
    assert not seen[0, 1:].any()
    assert not seen[1:, 0].any()
    assert seen.diagonal().all()  # a row of the softmax without any key would be NaN


def test_a_shared_prompt_is_computed_once():
    row = pack(texts_of([([5, 6, 7, 1], "a"), ([5, 6, 7, 2], "a"), ([5, 6, 7], "a")]), 100)[0]
    assert len(row) == 5


def test_a_beginning_that_some_answers_share_is_computed_once():
    texts = texts_of([([5, 6, 1, 2, 3], "a"), ([5, 6, 9], "a"), ([5, 6, 1, 2, 4], "a")])
    row = pack(texts, 100)[0]
    assert row.ids.tolist() == [5, 6, 1, 2, 3, 4, 9]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4, 4, 2]
    assert row.branch.tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_rows_respect_the_budget_unless_one_tree_is_longer():
    texts = texts_of([([1] * n, f"{n}") for n in (3, 9, 4, 2, 30)])
    assert sorted(len(r) for r in pack(texts, 10)) == [9, 9, 30]


@given(TEXTS, st.integers(1, 40))
def test_nothing_that_texts_of_a_group_share_stands_twice(drawn, budget):
    texts = texts_of(drawn)
    distinct = {(t.group, tuple(t.ids[: n + 1])) for t in texts for n in range(len(t.ids))}
    assert sum(len(row) for row in pack(texts, budget)) == len(distinct)
