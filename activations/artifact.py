"""What every file of a run has in common: content hashes, whole-or-nothing writes, one writer a folder."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from activations.errors import InputError

FORMAT_VERSION = 1


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON-serialisable value in canonical form: sorted keys, no white space."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def stream_hash(values: Iterable[Any]) -> str:
    """SHA-256 (hex) of many JSON-serialisable values in order, without holding them all: for whole studies of text."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(_canonical(value))
        digest.update(b"\n")
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; remembered within this process while size and times stay the same."""
    about = path.stat()
    return _file_hash(path, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, modified: int, inode: int) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside `path`, renamed over it on success.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as done:
            os.fsync(done.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp is private; results are as readable as any other file
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except InputError:
        raise
    except Exception as error:
        full = _no_room(error)
        if full is None:
            raise
        raise _unwritable(path.parent, full) from error
    finally:
        temporary.unlink(missing_ok=True)


def reserve(path: Path, size: int) -> None:
    """Find out now whether `size` bytes fit at an (empty) file, and leave it empty.

    For writers that do not survive a full disk: HDF5 crashes the process when its last flush fails.

    Raises:
        OSError: they do not fit.
    """
    with open(path, "r+b") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
            handle.truncate(0)
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented and sorted, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; a second process that asks for it is refused, never mixed in.

    Half-written temporary files of a process that was killed are removed.

    Raises:
        InputError: the folder cannot be written to, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "w")  # noqa: SIM115 - closed below, after the lock is given back
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                "another process is writing to this run folder",
                where=str(folder),
                mend="wait for it to end, or give this run another folder with --out",
            ) from error
        for left in folder.rglob(".*.tmp"):  # what a killed process had begun to write; nobody else is writing now
            left.unlink(missing_ok=True)
        yield
    finally:
        handle.close()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system knows how."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _no_room(error: BaseException | None) -> OSError | None:
    """The operating system's refusal of more bytes behind an error, if there is one.

    HDF5 and safetensors wrap it in errors of their own, where it is only found in the words.
    """
    while error is not None:
        number = getattr(error, "errno", None)
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            said = str(error)
            if number == code or os.strerror(code) in said or f"os error {code}" in said or f"errno = {code}," in said:
                return OSError(code, os.strerror(code))
        error = error.__cause__ or error.__context__
    return None


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write here ({error.strerror})",
        where=str(folder),
        mend="choose a folder that can be written to with --out, or free its space and permissions",
    )
