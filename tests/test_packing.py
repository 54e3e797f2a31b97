"""Packing: every text once, prefixes shared, nobody sees a stranger."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from activations.packing import TokenText, allowed, batch_rows, common_prefix, pack

TEXTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.sampled_from("abc")), min_size=1, max_size=12
)


def texts_of(drawn: list[tuple[list[int], str]]) -> list[TokenText]:
    return [TokenText(ids=np.asarray(ids), read_from=0, group=group) for ids, group in drawn]


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
    _, _, branch, prefix = batch_rows(rows)
    seen = allowed(branch, prefix)
    for number, row in enumerate(rows):
        for place in row.places:
            for i, token in enumerate(place):
                assert np.flatnonzero(seen[number, token]).tolist() == place[: i + 1].tolist()


def test_padding_sees_only_itself():
    rows = pack(texts_of([([1, 2, 3, 4], "a"), ([1], "b")]), 1)
    _, _, branch, prefix = batch_rows(rows)
    np.testing.assert_array_equal(allowed(branch, prefix)[1, 2], [False, False, True, False])


def test_a_shared_prompt_is_computed_once():
    row = pack(texts_of([([5, 6, 7, 1], "a"), ([5, 6, 7, 2], "a"), ([5, 6, 7], "a")]), 100)[0]
    assert len(row) == 5


def test_rows_respect_the_budget_unless_one_tree_is_longer():
    texts = texts_of([([1] * n, f"{n}") for n in (3, 9, 4, 2, 30)])
    assert sorted(len(r) for r in pack(texts, 10)) == [9, 9, 30]


def test_common_prefix_counts_shared_leading_tokens():
    assert common_prefix([np.array([1, 2, 3]), np.array([1, 2, 4, 5])]) == 2
    assert common_prefix([np.array([1, 2]), np.array([1, 2, 4])]) == 2
    assert common_prefix([np.array([3]), np.array([1, 2])]) == 0
