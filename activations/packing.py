"""Tokenized texts to packed rows: what texts share at their beginning is computed once.

Texts of a group (the answers to one prompt) form one *tree*: their longest common prefix of token ids, then one
branch a text. Several trees ride in one row. A token sees its own branch and its tree's prefix, nothing else, and
position ids restart with every tree, so that every text reads as if it stood alone. Attention cost grows with the
square of a row, so rows stay short (the budget is a target, never a limit: a tree is never split).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

IntArray = Int[np.ndarray, "_"]
Rows = Int[np.ndarray, "row token"]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TokenText:
    """A text's token ids and the first of them that is read (the answer's first token)."""

    ids: IntArray
    read_from: int
    group: str


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class PackedRow:
    """One row of tokens; `places[i]` are the row indices of the tokens of text `texts[i]`, in the text's order."""

    ids: IntArray
    position_ids: IntArray
    branch: IntArray  # id of the branch (or prefix) a token belongs to
    prefix: IntArray  # id of the prefix that branch hangs on (its own id for a prefix token)
    texts: tuple[int, ...]
    places: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Tree:
    ids: IntArray
    position_ids: IntArray
    branch: IntArray
    texts: tuple[int, ...]
    places: tuple[IntArray, ...]


def common_prefix(texts: Sequence[IntArray]) -> int:
    """How many leading token ids all texts share."""
    shortest = min(len(t) for t in texts)
    block = np.stack([t[:shortest] for t in texts])
    same = (block == block[0]).all(axis=0)
    return shortest if same.all() else int(same.argmin())


def pack(texts: Sequence[TokenText], row_budget: int) -> list[PackedRow]:
    """Pack texts into rows of about `row_budget` tokens (first fit, longest tree first; deterministic).

    Args:
        texts: tokenized texts; those with equal `group` share a tree.
        row_budget: tokens a row aims at; a longer tree gets a row of its own.

    Returns:
        Rows, longest first, that hold every text exactly once.
    """
    groups: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(text.group, []).append(index)
    trees = [_tree(members, texts) for members in groups.values()]
    trees.sort(key=lambda t: -len(t.ids))  # stable: ties keep study order
    rows: list[list[_Tree]] = []
    used: list[int] = []
    for tree in trees:
        fits = next((i for i, n in enumerate(used) if n + len(tree.ids) <= row_budget), None)
        if fits is None:
            rows.append([tree])
            used.append(len(tree.ids))
        else:
            rows[fits].append(tree)
            used[fits] += len(tree.ids)
    packed = [_row(trees) for trees in rows]
    packed.sort(key=lambda r: -len(r))
    return packed


def allowed(branch: Int[np.ndarray, "row token"], prefix: Int[np.ndarray, "row token"]) -> Bool[np.ndarray, "row q k"]:
    """Which key each query may see: earlier or equal, and in its own branch or its tree's prefix.

    Padding carries the branch −1 and sees only itself.
    """
    size = branch.shape[1]
    causal = np.tri(size, dtype=bool)
    own = branch[:, :, None] == branch[:, None, :]
    shared = prefix[:, :, None] == branch[:, None, :]
    padding = branch < 0
    seen = causal & (own | shared) & ~padding[:, None, :] & ~padding[:, :, None]
    return seen | np.eye(size, dtype=bool)


def batch_rows(rows: Sequence[PackedRow]) -> tuple[Rows, Rows, Rows, Rows]:
    """(ids, position_ids, branch, prefix), each [row, token], right-padded to the longest row."""
    size = max(len(r) for r in rows)

    def padded(values: list[IntArray], fill: int) -> Rows:
        out = np.full((len(rows), size), fill, dtype=np.int64)
        for line, value in zip(out, values, strict=True):
            line[: len(value)] = value
        return out

    return (
        padded([r.ids for r in rows], 0),
        padded([r.position_ids for r in rows], 0),
        padded([r.branch for r in rows], -1),
        padded([r.prefix for r in rows], -1),
    )


def _tree(members: list[int], texts: Sequence[TokenText]) -> _Tree:
    ids = [texts[i].ids for i in members]
    shared = common_prefix(ids)
    pieces = [ids[0][:shared]]
    positions = [np.arange(shared)]
    branches = [np.zeros(shared, dtype=np.int64)]
    places = []
    at = shared
    for number, text in enumerate(ids, start=1):
        rest = len(text) - shared
        pieces.append(text[shared:])
        positions.append(np.arange(shared, len(text)))
        branches.append(np.full(rest, number, dtype=np.int64))
        places.append(np.concatenate([np.arange(shared), np.arange(at, at + rest)]))
        at += rest
    return _Tree(
        ids=np.concatenate(pieces),
        position_ids=np.concatenate(positions),
        branch=np.concatenate(branches),
        texts=tuple(members),
        places=tuple(places),
    )


def _row(trees: list[_Tree]) -> PackedRow:
    branches, prefixes, places = [], [], []
    at = first = 0
    for tree in trees:
        branches.append(tree.branch + first)
        prefixes.append(np.full(len(tree.ids), first, dtype=np.int64))
        places += [p + at for p in tree.places]
        at += len(tree.ids)
        first += int(tree.branch.max(initial=0)) + 1
    return PackedRow(
        ids=np.concatenate([t.ids for t in trees]),
        position_ids=np.concatenate([t.position_ids for t in trees]),
        branch=np.concatenate(branches),
        prefix=np.concatenate(prefixes),
        texts=tuple(i for t in trees for i in t.texts),
        places=tuple(places),
    )
