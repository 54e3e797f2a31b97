"""Reading one (site, position) slice of a large activation file against reading as many bytes from a plain file.

    python -m benchmarks.store [--texts 10000] [--sites 33] [--width 4096] [--json]

The file is synthetic and written through the same code as a real one. Where the system lets us (Linux, root), its cache
is emptied before every cold read.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from activations.pairs import Text
from activations.store import ActivationStore, Measured, write_part, write_store

BLOCK = 96  # texts a part


def make(folder: Path, texts: int, sites: int, width: int) -> Path:
    rng = np.random.default_rng(0)
    rows, parts = [], []
    for start in range(0, texts, BLOCK):
        count = min(BLOCK, texts - start)
        rows += [
            Text(kind="prompt", text_id=f"t{i}", text="x", group="x", scenario_id=f"s{i}", domain="d")
            for i in range(start, start + count)
        ]
        values = rng.standard_normal((count, 1, sites, width), dtype=np.float32)
        none = np.zeros(0, dtype=np.float32)
        found = Measured(
            residual=values,
            logprob=none,
            token_norm=np.zeros((0, sites), np.float32),
            n_tokens=np.zeros(count, np.int64),
        )
        parts.append(folder / f"{start}.safetensors")
        write_part(parts[-1], "benchmark", {"prompt": found})
    header = {"identity": "benchmark", "checkpoint": "synthetic", "d_model": width, "determinants": {}, "receipt": {}}
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{n}.hook_resid_post" for n in range(sites - 1))]
    path = folder / "synthetic.h5"
    write_store(path, header, names, rows, parts, "benchmark")
    for part in parts:
        part.unlink()
    return path


def empty_cache() -> bool:
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="utf-8")
        return True
    return False


def measure(texts: int, sites: int, width: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make(folder, texts, sites, width)
        size = texts * width * 4
        plain = folder / "plain.bin"
        plain.write_bytes(np.random.default_rng(1).bytes(size))
        seconds: dict[str, list[float]] = {"slice": [], "plain": []}
        cold = True
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for turn in range(5):
            cold = empty_cache() and cold
            started = time.perf_counter()
            with ActivationStore(path) as store:
                store.residual("prompt", "prompt_last", store.sites[(7 * turn + 3) % sites])
            seconds["slice"].append(time.perf_counter() - started)
            cold = empty_cache() and cold
            started = time.perf_counter()
            plain.read_bytes()
            seconds["plain"].append(time.perf_counter() - started)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        slice_seconds, plain_seconds = (float(np.median(seconds[n])) for n in ("slice", "plain"))
        return {
            "file_gb": path.stat().st_size / 1e9,
            "slice_mb": size / 1e6,
            "cold_cache": cold,
            "slice_seconds": slice_seconds,
            "plain_seconds": plain_seconds,
            "ratio": slice_seconds / plain_seconds,
            "memory_growth_mb": grown / 1e3,
        }


def main() -> None:
    """Print a table, or with --json one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--sites", type=int, default=33)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    chosen = parser.parse_args()
    found = measure(chosen.texts, chosen.sites, chosen.width)
    if chosen.json:
        print(json.dumps(found, indent=1))
        return
    table = Table("measured", "value")
    for key, value in found.items():
        table.add_row(key, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
