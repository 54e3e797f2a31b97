"""Texts to token ids, once a study: the same ids for every checkpoint, or there is no comparing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from activations.artifact import stream_hash
from activations.errors import InputError
from activations.packing import TokenText
from activations.pairs import Text

TOKENIZED_AT_ONCE = 512  # a tokenizer's answer takes a hundred times the memory of the ids that are kept of it


def tokenize(tokenizer: Any, texts: Sequence[Text], context: int, where: str) -> list[TokenText]:
    """Token ids and the first read token of every text.

    A tokenizer that starts texts with a special token (BOS) does so, but not where the template wrote it already. A
    token that straddles the start of an answer belongs to the answer.

    Raises:
        InputError: a text longer than the context, or an answer without tokens; named, never truncated.
    """
    found: list[TokenText] = []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        found += _tokenized(tokenizer, texts[start : start + TOKENIZED_AT_ONCE], context, where)
    return found


def _tokenized(tokenizer: Any, texts: Sequence[Text], context: int, where: str) -> list[TokenText]:
    encoded: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}
    for special in (True, False):
        members = [i for i, t in enumerate(texts) if t.special_tokens == special]
        if members:
            batch = tokenizer([texts[i].text for i in members], return_offsets_mapping=True, add_special_tokens=special)
            encoded |= zip(members, zip(batch["input_ids"], batch["offset_mapping"], strict=True), strict=True)
    found = []
    for index, text in enumerate(texts):
        ids, offsets = encoded[index]
        if len(ids) > context:
            raise InputError(
                f"text {text.text_id!r} has {len(ids)} tokens, more than the model's context of {context}",
                where=where,
                mend="shorten it; texts are never cut",
            )
        read = [i for i, (start, end) in enumerate(offsets) if end > max(text.read_from, 0) and end > start]
        # The first token of a plain text is an attention sink and has no log-prob: it is never read.
        first = max(read[0] if read else len(ids), 1)
        if first >= len(ids) and text.kind != "prompt":
            raise InputError(f"text {text.text_id!r} has no token to read", where=where, mend="give it more words")
        found.append(TokenText(ids=np.asarray(ids, dtype=np.int32), read_from=first, group=text.group))
    return found


def token_hash(tokens: Sequence[TokenText]) -> str:
    """Hash of all token ids of a study: equal for every checkpoint of a lineage, or there is no comparing."""
    return stream_hash(t.ids.tolist() for t in tokens)


def first_difference(texts: Sequence[Text], ours: Sequence[TokenText], theirs: Sequence[TokenText]) -> str:
    """The first text that two tokenizers split differently, named with both splits' lengths; "" if none."""
    for text, a, b in zip(texts, ours, theirs, strict=True):
        if not np.array_equal(a.ids, b.ids):
            return f"{text.text_id!r} ({len(a.ids)} against {len(b.ids)} tokens)"
    return ""


def token_pieces(tokenizer: Any, text: Text) -> list[str]:
    """The stretch of a text that each of its tokens stands for; joined they are the text, but for added BOS and EOS.

    A token that adds no character of its own (a further byte of one that is there already) has an empty piece; a
    special token that the tokenizer adds, which stands nowhere in the text, has its name.
    """
    encoded = tokenizer(text.text, return_offsets_mapping=True, add_special_tokens=text.special_tokens)
    pieces, done = [], 0
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if start == end:
            pieces.append(str(tokenizer.convert_ids_to_tokens(token)))
            continue
        pieces.append(text.text[done : max(end, done)])
        done = max(end, done)
    if pieces and done < len(text.text):  # white space at the end that a tokenizer leaves to no token
        pieces[-1] += text.text[done:]
    return pieces
