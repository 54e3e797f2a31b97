"""Tokenized texts to packed rows: what texts share at their beginning is computed once.

Texts of a group (the answers to one prompt, in all wordings) form a prefix *tree* of token ids: wherever some of them
begin alike, that stretch stands in the row once. Several trees ride in one row. A token sees its own branch and the
branches it hangs on, nothing else, and position ids restart with every tree, so that every text reads as if it stood
alone. Attention cost grows with the square of a row, so rows stay short (the budget is a target, never a limit: a tree
is never split).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

IntArray = Int[np.ndarray, "_"]
Rows = Int[np.ndarray, "row token"]
PACKING = "prefix-tree, first fit decreasing, 1"  # goes into what identifies a capture's parts; raise on a change


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPlan:
    """How texts are laid out in rows: tokens a row aims at, and rows that run together."""

    row_budget: int
    rows_per_batch: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TokenText:
    """A text's token ids and the first of them that is read (the answer's first token)."""

    ids: IntArray
    read_from: int
    group: str


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class PackedRow:
    """One row of tokens; `places[i]` are the row indices of the tokens of text `texts[i]`, in the text's order.

    Branches are numbered in depth-first order, so that everything that hangs on branch b has a number in b … last(b).
    """

    ids: IntArray
    position_ids: IntArray
    branch: IntArray  # the branch a token belongs to
    last: IntArray  # the last branch that hangs on the token's own
    texts: tuple[int, ...]
    places: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.ids)


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
    trees.sort(key=lambda t: -len(t))  # stable: ties keep study order
    rows: list[list[PackedRow]] = []
    used: list[int] = []
    for tree in trees:
        fits = next((i for i, n in enumerate(used) if n + len(tree) <= row_budget), None)
        if fits is None:
            rows.append([tree])
            used.append(len(tree))
        else:
            rows[fits].append(tree)
            used[fits] += len(tree)
    packed = [_row(trees) for trees in rows]
    packed.sort(key=lambda r: -len(r))
    return packed


def allowed(
    branch: Int[torch.Tensor, "row token"], last: Int[torch.Tensor, "row token"]
) -> Bool[torch.Tensor, "row q k"]:
    """Which key each query may see: earlier or equal, and in its own branch or one that its own hangs on.

    Padding carries the branch −1: it sees itself and padding before it, and no token sees it.
    """
    query, key, key_last = branch[:, :, None], branch[:, None, :], last[:, None, :]
    place = torch.arange(branch.shape[1], device=branch.device)
    return (key <= query) & (query <= key_last) & (place[None, :] <= place[:, None])


def batch_rows(rows: Sequence[PackedRow]) -> tuple[Rows, Rows, Rows, Rows]:
    """(ids, position_ids, branch, last), each [row, token], right-padded to the longest row."""
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
        padded([r.last for r in rows], -1),
    )


def _tree(members: list[int], texts: Sequence[TokenText]) -> PackedRow:
    """The prefix tree of some texts, laid out depth first: a branch comes after the one it hangs on."""
    ids = [texts[i].ids for i in members]
    starts: list[int] = []  # of every branch: its first place in the row, its first position, its length, its last
    depths: list[int] = []
    lengths: list[int] = []
    last: list[int] = []
    pieces: list[IntArray] = []
    paths: list[list[int]] = [[] for _ in members]
    at = 0
    # Branches still to be laid out: the texts that share one (by number in `members`), the depth it starts at, and
    # the branches it hangs on. Taken from the end, so that a branch's own are laid out before its sisters.
    waiting: list[tuple[list[int], int, list[int]]] = [(list(range(len(members))), 0, [])]
    while waiting:
        sharing, depth, above = waiting.pop()
        stop = _shared(ids, sharing, depth)
        number = len(starts)
        starts.append(at)
        depths.append(depth)
        lengths.append(stop - depth)
        last.append(number)
        pieces.append(ids[sharing[0]][depth:stop])
        at += stop - depth
        path = [*above, number]
        for branch in above:
            last[branch] = number
        children: dict[int, list[int]] = {}
        for text in sharing:
            if len(ids[text]) > stop:
                children.setdefault(int(ids[text][stop]), []).append(text)
            paths[text] = path
        waiting += [(group, stop, path) for group in reversed(children.values())]
    sizes = np.asarray(lengths)
    return PackedRow(
        ids=np.concatenate(pieces),
        position_ids=np.concatenate([np.arange(d, d + n) for d, n in zip(depths, lengths, strict=True)]),
        branch=np.repeat(np.arange(len(sizes)), sizes),
        last=np.repeat(np.asarray(last), sizes),
        texts=tuple(members),
        places=tuple(np.concatenate([np.arange(starts[b], starts[b] + lengths[b]) for b in path]) for path in paths),
    )


def _shared(ids: list[IntArray], sharing: list[int], depth: int) -> int:
    """How far the texts in `sharing` agree, which agree up to `depth`."""
    if len(sharing) == 1:
        return len(ids[sharing[0]])
    stop = min(len(ids[text]) for text in sharing)
    block = np.stack([ids[text][depth:stop] for text in sharing])
    same = (block == block[0]).all(axis=0)
    return stop if same.all() else depth + int(same.argmin())


def _row(trees: list[PackedRow]) -> PackedRow:
    branches, lasts, places = [], [], []
    at = first = 0
    for tree in trees:
        branches.append(tree.branch + first)
        lasts.append(tree.last + first)
        places += [p + at for p in tree.places]
        at += len(tree)
        first += int(tree.last.max(initial=0)) + 1
    return PackedRow(
        ids=np.concatenate([t.ids for t in trees]),
        position_ids=np.concatenate([t.position_ids for t in trees]),
        branch=np.concatenate(branches),
        last=np.concatenate(lasts),
        texts=tuple(i for t in trees for i in t.texts),
        places=tuple(places),
    )
