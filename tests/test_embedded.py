"""The embedded model: verified bytes or none, fetched again when broken, a clear word when there is no network."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
from conftest import save_llama

from activations import embedded
from activations.embedded import CACHE_VARIABLE, EmbeddedModel, cache_folder, embedded_model
from activations.errors import InputError

CONTENT = b"weights" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, a small package in place of the real one, and a conversion that writes a tiny model."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    model = EmbeddedModel(
        requirement="tiny-model==1",
        wheel="tiny_model-1-py3-none-any.whl",
        member="tiny/model.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="Apache-2.0",
    )
    monkeypatch.setattr(embedded, "EMBEDDED", {"tiny": model})
    monkeypatch.setattr(embedded, "_convert", lambda _gguf, made: (made.mkdir(), save_llama(made)))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def wheel(path: Path, content: bytes = CONTENT) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.gguf", content)


def fetching(monkeypatch: pytest.MonkeyPatch, contents: list[bytes | None]) -> list[list[str]]:
    """pip stands still: each call takes the next content, None fails as without a network."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        content = contents.pop(0)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")
        wheel(Path(command[command.index("--dest") + 1]) / "tiny_model-1-py3-none-any.whl", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_the_model_is_fetched_once_without_its_dependencies(cache, monkeypatch):
    calls = fetching(monkeypatch, [CONTENT])
    folder = embedded_model("tiny")
    assert (folder / "model.safetensors").is_file()
    assert embedded_model("tiny") == folder
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert not list(cache.glob(".making-*"))


def test_wrong_bytes_are_refused_and_the_next_call_fetches_again(cache, monkeypatch):
    calls = fetching(monkeypatch, [CONTENT[:-1], CONTENT])
    with pytest.raises(InputError, match=r"sha256 is .*, not the expected"):
        embedded_model("tiny")
    assert not [p for p in cache.iterdir() if p.is_dir()]
    embedded_model("tiny")
    assert len(calls) == 2


def test_a_half_written_or_changed_conversion_is_made_again(cache, monkeypatch):
    calls = fetching(monkeypatch, [CONTENT, CONTENT, CONTENT])
    folder = embedded_model("tiny")
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    embedded_model("tiny")
    (folder / "files.json").unlink()
    embedded_model("tiny")
    assert len(calls) == 3


def test_an_interrupted_conversion_leaves_nothing_that_is_used(cache, monkeypatch):
    fetching(monkeypatch, [CONTENT, CONTENT])

    def dies(_gguf: Path, made: Path) -> None:
        made.mkdir()
        (made / "config.json").write_text("{}")
        raise KeyboardInterrupt

    good = embedded._convert
    monkeypatch.setattr(embedded, "_convert", dies)
    with pytest.raises(KeyboardInterrupt):
        embedded_model("tiny")
    monkeypatch.setattr(embedded, "_convert", good)
    assert (embedded_model("tiny") / "model.safetensors").is_file()


def test_without_a_network_the_message_says_what_to_do(cache, monkeypatch):
    fetching(monkeypatch, [None])
    with pytest.raises(InputError, match=r"could not be fetched: ERROR: No matching[\s\S]*put tiny_model-1"):
        embedded_model("tiny")


def test_a_hand_placed_package_needs_no_network(cache, monkeypatch):
    calls = fetching(monkeypatch, [])
    wheel(cache / "tiny_model-1-py3-none-any.whl")
    embedded_model("tiny")
    assert calls == []


def test_a_truncated_package_is_refused_by_name(cache, monkeypatch):
    path = cache / "tiny_model-1-py3-none-any.whl"
    wheel(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"tiny_model-1-py3-none-any\.whl: the download is broken"):
        embedded_model("tiny")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="embedded models: smollm2-135m-instruct"):
        embedded_model("smollm3")


def test_the_cache_folder_follows_the_variables(monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "/a/b")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_folder() == Path("/c/compassion-probes")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "compassion-probes"
