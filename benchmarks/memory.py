"""Peak memory of a capture to disk, by number of pairs: each size in a process of its own, on a tiny model."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = (1_000, 10_000)


def capture_memory() -> dict[str, float]:
    """Resident memory in MB: with the model loaded, with the texts and token ids too, and the capture's peak."""
    found: dict[str, float] = {}
    for size in SIZES:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", str(size)], check=True, capture_output=True, text=True
        )
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            found[f"{name}_{size}"] = value
    small, large = SIZES
    found["growth_of_peak"] = found[f"peak_mb_{large}"] / found[f"peak_mb_{small}"]
    return found


def _measure(size: int) -> dict[str, float]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from activations.capture import capture
    from activations.embedded import embedded_model
    from activations.model import open_checkpoint
    from activations.pairs import ContrastPair, PairSet, PlainTemplate, load_pairs, render_texts
    from activations.plan import default_plan
    from activations.study import build_study
    from activations.tokens import tokenize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        source = embedded_model("smollm2-135m-instruct")
        for file in source.glob("token*"):
            (folder / file.name).write_bytes(file.read_bytes())
        data = {
            "study": {"name": "memory"},
            "checkpoint": [{"name": "base", "stage": "base", "source": {"path": str(folder)}}],
        }
        model = open_checkpoint(
            build_study(data, where="memory", folder=folder), "base", device=torch.device("cpu"), neutral_ids=[]
        )
        empty = _resident()
        shipped = load_pairs("builtin:compassion").pairs
        many: list[ContrastPair] = []
        while len(many) < size:
            copy = len(many) // len(shipped)
            pair = shipped[len(many) % len(shipped)]
            ids = {"pair_id": f"{pair.pair_id}-{copy}", "scenario_id": f"{pair.scenario_id}-{copy}"}
            # Shortened, so that ten thousand take minutes; what is kept of a text does not depend on its length.
            start = {side: " ".join(getattr(pair, side).split()[-12:]) for side in ("prompt", "positive", "negative")}
            many.append(pair.model_copy(update=ids | start | {"prompt": f"{start['prompt']} ({copy})"}))
        texts = render_texts(PairSet(tuple(many)), [], PlainTemplate(), pmi=False)
        tokens = tokenize(model.tokenizer, texts, 8192, "memory")
        before = _resident()
        peak = [before]

        def watch(_tokens: int) -> None:
            peak[0] = max(peak[0], _resident())

        capture(
            lambda: model,
            path=folder / "base.h5",
            determinants={},
            texts=texts,
            tokens=tokens,
            plan=default_plan(model.device),
            advance=watch,
        )
        watch(0)
        return {"before_texts_mb": empty, "before_capture_mb": before, "peak_mb": peak[0]}


def _resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]))))
