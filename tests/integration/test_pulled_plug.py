"""Captures that are killed, starved of disk or damaged: nothing half-written is ever mistaken for a result."""

import multiprocessing
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import killed
import pytest
from conftest import write_study

from activations.errors import InputError
from activations.store import ActivationStore

KILLS = 50


@pytest.fixture(scope="module")
def start(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BaseProcess]:
    folder = write_study(tmp_path_factory.mktemp("study"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])

    def started(target: Callable[..., None], *arguments: object) -> BaseProcess:
        process = context.Process(target=target, args=arguments)
        process.start()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(killed.STUDY, f"{folder}:{tiny}")
        patch.setenv("PYTHONPATH", str(Path(killed.__file__).parent))  # or the server passes over what it cannot import
        finished(started(time.sleep, 0))  # the server starts with the first process, and keeps this environment
    return started


def finished(process: BaseProcess) -> int:
    process.join(timeout=120)
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture
def whole(start, tmp_path) -> tuple[bytes, float]:
    """What an uninterrupted capture writes, and the seconds it takes once the fork server is warm."""
    seconds = 0.0
    for name in ("first", "second"):
        began = time.monotonic()
        assert finished(start(killed.capture_once, tmp_path / name / "base.h5")) == 0
        seconds = time.monotonic() - began
    first, second = ((tmp_path / n / "base.h5").read_bytes() for n in ("first", "second"))
    assert first == second
    return first, seconds


def test_captures_killed_at_random_moments_resume_to_the_same_bytes(start, whole, tmp_path):
    expected, seconds = whole
    out = tmp_path / "killed" / "base.h5"
    chance = random.Random(0)
    kills = parts_kept = completed = 0
    while kills < KILLS:
        process = start(killed.capture_once, out)
        time.sleep(chance.uniform(0.0, 1.0) * seconds)
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if out.exists():  # whole, or not there
            assert out.read_bytes() == expected
            completed += 1
            shutil.rmtree(out.parent)
        parts_kept += len(list(out.parent.glob("base.parts/*.safetensors")))
    assert finished(start(killed.capture_once, out)) == 0
    assert out.read_bytes() == expected
    left = [p.name for p in out.parent.iterdir()]
    assert sorted(left) == [".lock", "base.h5"]
    assert parts_kept > 0  # some kills came between two blocks, or this has tested nothing
    print(f"{kills} kills, {completed} captures ended before theirs, {parts_kept} parts found afterwards")


@pytest.mark.parametrize("limit", [1_000, 30_000, 90_000])
def test_a_file_size_limit_gives_one_message_and_no_half_file(start, whole, tmp_path, limit):
    out, said = tmp_path / "starved" / "base.h5", tmp_path / "said"
    assert finished(start(killed.capture_starved, out, limit, said)) == 2
    assert "cannot write here (File too large)" in said.read_text()
    assert not out.exists()
    assert not list(out.parent.rglob(".*.tmp"))
    assert finished(start(killed.capture_once, out)) == 0
    assert out.read_bytes() == whole[0]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(kilobytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("a small file system can be mounted by root only")
        return folder

    yield sized
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


@pytest.mark.parametrize("kilobytes", [16, 60, 120])
def test_a_full_disk_gives_one_message_and_no_half_file(start, whole, small_disk, tmp_path, kilobytes):
    disk, said = small_disk(kilobytes), tmp_path / "said"
    out = disk / "run" / "base.h5"
    assert finished(start(killed.capture_starved, out, 0, said)) == 2
    assert "cannot write here (No space left on device)" in said.read_text()
    assert not out.exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert finished(start(killed.capture_once, out)) == 0
    assert out.read_bytes() == whole[0]


def everything(path: Path) -> list[object] | InputError:
    """All that a store says, or its refusal to say it."""
    try:
        return _everything(path)
    except InputError as error:
        return error


def _everything(path: Path) -> list[object]:
    with ActivationStore(path) as store:
        found: list[object] = [store.header, store.sites]
        for kind in store.kinds:
            found.append(store.rows(kind).to_csv())
            if kind != "prompt":
                found.append(store.mean_logprob(kind).tobytes())
        for site in store.sites:
            for position in ("response_mean", "response_last"):
                found.append(store.residual("response", position, site).tobytes())
            found.append(store.residual("prompt", "prompt_last", site).tobytes())
            found.append(store.residual("neutral", "text_mean", site).tobytes())
            found.append(store.residual("neutral", "text_last", site).tobytes())
            found.append(store.token_norm(site).tobytes())
    return found


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(start, whole, tmp_path):
    sound = tmp_path / "first" / "base.h5"
    expected, data = everything(sound), sound.read_bytes()
    chance = random.Random(0)
    refused = unchanged = 0
    path = tmp_path / "flipped.h5"
    for _ in range(400):
        flipped = bytearray(data)
        at = chance.randrange(len(flipped))
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        found = everything(path)
        if isinstance(found, InputError):
            assert str(path) in str(found)
            refused += 1
        else:
            assert found == expected, f"byte {at} was changed, and reading did not notice"
            unchanged += 1  # free space between objects
    assert refused > 50
    print(f"{refused} refused, {unchanged} in bytes that nothing reads")


def test_two_captures_of_one_folder_do_not_mix(start, whole, tmp_path):
    out, said = tmp_path / "both" / "base.h5", tmp_path / "said"
    processes = [start(killed.capture_starved, out, 0, said) for _ in range(2)]
    codes = sorted(finished(p) for p in processes)
    assert codes in ([0, 2], [0, 0])  # the second was refused, or came when the first had ended
    if codes == [0, 2]:
        assert "another process is writing to this run folder" in said.read_text()
    assert out.read_bytes() == whole[0]
