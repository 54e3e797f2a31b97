"""The ActivationStore: one HDF5 file a checkpoint, written once, read one (site, position) slice at a time.

One group per kind of text; in each, `residual` float32 [text, position, site, d_model] chunked so that a (position,
site) slice reads contiguously, `logprob` per read token with offsets, and one column per row field. While a
checkpoint is being captured its results lie in part files, one a block of scenarios; the store is made from them in
one go. See docs/file-format.md.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from activations.artifact import reserve, writing
from activations.errors import InputError
from activations.pairs import KINDS, Kind, Text

POSITIONS: dict[Kind, tuple[str, ...]] = {
    "response": ("response_mean", "response_last"),
    "prompt": ("prompt_last",),
    "null_prompt": (),
    "neutral": ("text_mean", "text_last"),
}
TEXT_COLUMNS = ("text_id", "pair_id", "scenario_id", "domain", "contrast", "design", "language", "side")
NUMBER_COLUMNS = ("wording", "n_tokens")
CHUNK_TEXTS = 64
STORE_VERSION = 2
READABLE = (1, 2)  # 1 kept text columns as variable-length strings, without checksums
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what HDF5 raises on bytes that are not its own


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Measured:
    """What capture found for some texts of one kind, in study order.

    `logprob` and `token_norm` are ragged, concatenated over texts: `n_tokens[i]` log-probs of the read tokens of text
    i in nats, and (neutral only) the residual norm of each of those tokens at every site.
    """

    residual: Float[np.ndarray, "text position site d_model"]
    logprob: Float[np.ndarray, "token"]
    token_norm: Float[np.ndarray, "neutral_token site"]
    n_tokens: Int[np.ndarray, "text"]


def write_part(path: Path, identity: str, found: dict[Kind, Measured]) -> None:
    """Write one block's results, whole or not at all, with the identity they belong to and a checksum."""
    arrays = {f"{kind}.{name}": np.ascontiguousarray(v) for kind, m in found.items() for name, v in asdict(m).items()}
    with writing(path) as temporary:
        save_file(arrays, temporary, metadata={"identity": identity, "sha256": _digest(arrays)})


def read_part(path: Path, identity: str) -> dict[Kind, Measured] | None:
    """A block's results, or None where there are none that can be trusted (missing, foreign, damaged)."""
    try:
        with safe_open(path, framework="numpy") as handle:
            metadata = handle.metadata() or {}
            arrays = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError):
        return None
    if metadata.get("identity") != identity or metadata.get("sha256") != _digest(arrays):
        return None
    fields = ("residual", "logprob", "token_norm", "n_tokens")
    return {k: Measured(**{f: arrays[f"{k}.{f}"] for f in fields}) for k in KINDS if f"{k}.residual" in arrays}


def write_store(
    path: Path,
    header: dict[str, Any],
    sites: Sequence[str],
    texts: Sequence[Text],
    parts: Sequence[Path],
    part_identity: str,
) -> None:
    """Make a checkpoint's store from its part files, whole or not at all.

    Args:
        header: identity, receipt and settings, kept as JSON.
        texts: every text of the study, in the order in which the parts hold them.
        parts: the part files in block order; part_identity: what they were written with.

    Raises:
        InputError: a part file is missing or damaged.
    """
    with writing(path) as temporary, _fresh(temporary, _room(texts, parts, len(sites), header["d_model"])) as file:
        file.attrs["format_version"] = STORE_VERSION
        file.attrs["header"] = json.dumps(header, sort_keys=True)
        file.attrs["header_sha256"] = _header_hash(file.attrs["header"], sites)
        file.attrs["sites"] = list(sites)
        groups = {}
        for kind in KINDS:
            rows = [t for t in texts if t.kind == kind]
            if rows:
                groups[kind] = _make_group(file, kind, rows, len(sites), header["d_model"])
        at = dict.fromkeys(groups, 0)
        for part in parts:
            found = read_part(part, part_identity)
            if found is None:
                raise InputError(
                    "this part of a capture is missing or damaged", where=str(part), mend="run capture again"
                )
            for kind, measured in found.items():
                at[kind] = _append(groups[kind], at[kind], measured)
        for kind, group in groups.items():
            expected = group["text_id"].shape[0]
            if at[kind] != expected:
                raise InputError(
                    f"parts hold {at[kind]} {kind} texts, not {expected}", where=str(path), mend="run capture again"
                )


class ActivationStore:
    """Read access to one checkpoint's activations.

    Raises:
        InputError: no such file, no ActivationStore, another format version, or a truncated or damaged file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError("no activations here", where=str(path), mend="run `compassion capture` first")
        try:
            self._file = h5py.File(path, "r")
        except DAMAGE as error:
            raise self._error(f"cannot be read ({error})") from error
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        try:
            attributes = dict(self._file.attrs)
            version = attributes.get("format_version")
            if version is None or "header" not in attributes:
                raise self._error("is no ActivationStore")
            if version not in READABLE:
                known = " and ".join(str(v) for v in READABLE)
                raise InputError(
                    f"has format version {version}; this program reads {known}",
                    where=str(self.path),
                    mend="update compassion-probes, or delete this file and run `compassion capture` again",
                )
            self.header: dict[str, Any] = json.loads(attributes["header"])
            self.sites: tuple[str, ...] = tuple(str(s) for s in attributes["sites"])
            if version >= 2 and attributes["header_sha256"] != _header_hash(attributes["header"], self.sites):
                raise self._error("its header is damaged (checksum)")
        except InputError:
            raise
        except DAMAGE as error:
            raise self._error(f"its header is damaged ({error})") from error

    def __enter__(self) -> "ActivationStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def identity(self) -> str:
        """Content hash of everything that determined these activations."""
        return str(self.header["identity"])

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of text this store holds."""
        return tuple(k for k in KINDS if self._find(k) is not None)

    def rows(self, kind: Kind) -> pd.DataFrame:
        """One row a text, in the order of the residuals: ids, domain, contrast, side, wording, n_tokens."""
        group = self._group(kind)
        columns: dict[str, Any] = {c: self._read(group, c) for c in TEXT_COLUMNS}
        return pd.DataFrame(columns | {c: self._read(group, c) for c in NUMBER_COLUMNS})

    def residual(self, kind: Kind, position: str, site: str) -> Float[np.ndarray, "text d_model"]:
        """One (position, site) slice, float32, in the order of `rows(kind)`."""
        group = self._group(kind)
        if position not in POSITIONS[kind] or site not in self.sites:
            raise InputError(
                f"no {kind} slice at position {position!r}, site {site!r}",
                where=str(self.path),
                mend=f"positions: {', '.join(POSITIONS[kind])}; sites: {self.sites[0]} … {self.sites[-1]}",
            )
        return self._read(group, "residual", np.s_[:, POSITIONS[kind].index(position), self.sites.index(site)])

    def mean_logprob(self, kind: Kind) -> Float[np.ndarray, "text"]:
        """Mean log-probability (nats) a read token, per text.

        Raises:
            InputError: prompts, of which no token is predicted; or damage.
        """
        if kind == "prompt":
            raise InputError("prompts have no log-probs", where=str(self.path), mend="ask for response or neutral")
        group = self._group(kind)
        return ragged_mean(self._read(group, "logprob"), self._read(group, "n_tokens"))

    def token_norm(self, site: str) -> Float[np.ndarray, "token"]:
        """Residual norms of the neutral tokens at a site (the first token of each text left out)."""
        return self._read(self._group("neutral"), "token_norm", np.s_[:, self.sites.index(site)])

    def _group(self, kind: Kind) -> h5py.Group:
        group = self._find(kind)
        if group is None:
            raise InputError(f"holds no {kind} texts", where=str(self.path), mend="run capture again")
        return group

    def _find(self, kind: Kind) -> h5py.Group | None:
        try:
            return self._file[kind] if kind in self._file else None  # noqa: SIM401 - get() hides a broken link
        except DAMAGE as error:
            raise self._error(f"{kind} is damaged ({error})") from error

    def _read(self, group: h5py.Group, name: str, selection: Any = ()) -> np.ndarray:
        try:
            dataset = group[name]
            if h5py.check_string_dtype(dataset.dtype) is not None:
                return np.asarray(dataset.asstr()[selection]).astype(str)
            return np.asarray(dataset[selection])
        except DAMAGE as error:  # a checksum that does not match, or bytes that are no HDF5
            raise self._error(f"{group.name}/{name} is damaged ({error})") from error

    def _error(self, problem: str) -> InputError:
        return InputError(problem, where=str(self.path), mend="delete this file and run `compassion capture` again")


def _make_group(file: h5py.File, kind: Kind, rows: list[Text], n_sites: int, d_model: int) -> h5py.Group:
    group = file.create_group(kind)
    n_positions = len(POSITIONS[kind])
    group.attrs["positions"] = list(POSITIONS[kind])
    texts = min(CHUNK_TEXTS, len(rows))
    shape = (len(rows), n_positions, n_sites, d_model)
    if n_positions:
        group.create_dataset(
            "residual",
            shape,
            np.float32,
            chunks=(texts, 1, 1, d_model),
            fletcher32=True,
            rdcc_nbytes=2 * texts * n_positions * n_sites * d_model * 4,
            rdcc_nslots=10_007,
        )
    for column in TEXT_COLUMNS:
        values = [getattr(t, column).encode() for t in rows]
        # Of fixed length, because checksums do not reach the heap that holds strings of variable length.
        text = h5py.string_dtype("utf-8", max(1, *(len(v) for v in values)))
        group.create_dataset(column, data=np.asarray(values, dtype=text), chunks=True, fletcher32=True)
    wording = np.asarray([t.wording for t in rows], dtype=np.int64)
    group.create_dataset("wording", data=wording, chunks=True, fletcher32=True)
    group.create_dataset("n_tokens", (len(rows),), np.int64, fletcher32=True, chunks=True)
    group.create_dataset("logprob", (0,), np.float32, maxshape=(None,), chunks=(4096,), fletcher32=True)
    if kind == "neutral":
        group.create_dataset(
            "token_norm", (0, n_sites), np.float32, maxshape=(None, n_sites), chunks=(1024, 1), fletcher32=True
        )
    return group


def _append(group: h5py.Group, at: int, found: Measured) -> int:
    end = at + len(found.n_tokens)
    if "residual" in group:
        group["residual"][at:end] = found.residual
    group["n_tokens"][at:end] = found.n_tokens
    for name, values in (("logprob", found.logprob), ("token_norm", found.token_norm)):
        if name in group:
            before = group[name].shape[0]
            group[name].resize(before + len(values), axis=0)
            group[name][before:] = values
    return end


@contextmanager
def _fresh(path: Path, size: int) -> Iterator[h5py.File]:
    reserve(path, size)
    with h5py.File(path, "w", libver="latest") as file:
        yield file


def _room(texts: Sequence[Text], parts: Sequence[Path], n_sites: int, d_model: int) -> int:
    """More bytes than the store will take: what the parts hold, chunks filled up, columns, HDF5's own."""
    held = sum(part.stat().st_size for part in parts if part.is_file())
    filled = CHUNK_TEXTS * n_sites * d_model * 4 * sum(len(POSITIONS[k]) for k in KINDS)
    columns = len(texts) * sum(max(len(getattr(t, c).encode()) for t in texts) for c in TEXT_COLUMNS)
    chunks = (len(texts) // CHUNK_TEXTS + len(KINDS)) * n_sites * 2 * 64
    return held + filled + 2 * columns + chunks + (1 << 18)


def ragged_mean(values: Float[np.ndarray, "token"], counts: Int[np.ndarray, "text"]) -> Float[np.ndarray, "text"]:
    """The mean of each text's piece of `values`, pieces of `counts` (at least 1) one after another; float64."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.add.reduceat(values.astype(np.float64), starts) / counts


def _header_hash(header: str, sites: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([header, *sites]).encode()).hexdigest()


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].shape} {arrays[key].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return digest.hexdigest()
