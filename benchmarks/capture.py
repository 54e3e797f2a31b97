"""Capture against the usual ways to do it: the same model, pairs and quantities, in one process, interleaved.

    python -m benchmarks.capture [--pairs 64] [--repeats 3] [--json]
    python -m benchmarks.capture --memory

Every way gives the mean residual over the answer's tokens at every block and, where it says so, the answer's
log-probs. The baseline is the tutorial way: TransformerBridge.run_with_cache with a names filter, padded batches of 16
in file order, the full forward pass, log-probs from its logits. Peers run where they are installed.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from activations.capture import capture, run_block
from activations.model import open_checkpoint
from activations.openmodel import OpenModel
from activations.packing import RowPlan, TokenText, pack
from activations.pairs import PairSet, PlainTemplate, Text, load_pairs, render_texts
from activations.plan import WORTH_MEASURING, choose_plan
from activations.sources import ResolvedSource, load_weights, resolve_source
from activations.study import Study, build_study
from activations.tokens import tokenize
from benchmarks.memory import capture_memory

BATCH = 16
Way = Callable[[], np.ndarray]  # pooled residuals [text, block, d_model]


def study(dtype: str) -> Study:
    data = {
        "study": {"name": "benchmark", "dtype": dtype},
        "checkpoint": [{"name": "base", "stage": "base", "source": {"embedded": "smollm2-135m-instruct"}}],
    }
    return build_study(data, where="benchmark", folder=Path())


class Task:
    """The shipped pairs, evenly over scenarios, all wordings: their answers and token ids."""

    def __init__(self, n_pairs: int) -> None:
        shipped = load_pairs("builtin:compassion")
        wordings = len([p for p in shipped.pairs if p.scenario_id == shipped.pairs[0].scenario_id])
        scenarios = list(dict.fromkeys(p.scenario_id for p in shipped.pairs))
        kept = set(scenarios[:: max(1, len(scenarios) * wordings // n_pairs)][: max(1, n_pairs // wordings)])
        self.pairs = PairSet(tuple(p for p in shipped.pairs if p.scenario_id in kept))
        rendered = render_texts(self.pairs, [], PlainTemplate(), pmi=False)
        self.texts = [t for t in rendered if t.kind == "response"]
        self.model = {d: self._open(d) for d in ("float32", "bfloat16")}
        self.tokens = tokenize(self.model["float32"].tokenizer, self.texts, 8192, "benchmark")
        self.plain = load_weights(_source(), torch.float32, "benchmark")

    def _open(self, dtype: str) -> OpenModel:
        return open_checkpoint(study(dtype), "base", device=torch.device("cpu"), neutral_ids=[])

    def padded(self, order: list[int]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """(texts, ids, pooling weights) of batches of 16, right-padded to the longest of each."""
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            size = max(len(self.tokens[i].ids) for i in chosen)
            ids = torch.zeros((len(chosen), size), dtype=torch.int64)
            weights = torch.zeros((len(chosen), size))
            for line, i in enumerate(chosen):
                n, first = len(self.tokens[i].ids), self.tokens[i].read_from
                ids[line, :n] = torch.as_tensor(self.tokens[i].ids)
                weights[line, first:n] = 1.0 / (n - first)
            yield chosen, ids, weights

    @property
    def in_file_order(self) -> list[int]:
        return list(range(len(self.texts)))

    @property
    def by_length(self) -> list[int]:
        return sorted(self.in_file_order, key=lambda i: len(self.tokens[i].ids))

    def blank(self) -> np.ndarray:
        model = self.model["float32"]
        return np.zeros((len(self.texts), len(model.sites) - 1, model.d_model), dtype=np.float32)


def answers_log_probs(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    found = torch.log_softmax(logits[:, :-1].float(), dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (found * weights[:, 1:]).sum(-1)


def run_with_cache(task: Task, order: list[int], *, log_probs: bool, stop: bool) -> np.ndarray:
    bridge = task.model["float32"].bridge
    names = [f"blocks.{n}.hook_resid_post" for n in range(bridge.cfg.n_layers)]
    out = task.blank()
    with torch.no_grad():
        for chosen, ids, weights in task.padded(order):
            extra = {"stop_at_layer": bridge.cfg.n_layers} if stop else {}
            logits, cache = bridge.run_with_cache(ids, names_filter=lambda n: n in names, **extra)
            for number, name in enumerate(names):
                out[chosen, number] = torch.einsum("bt,btd->bd", weights, cache[name]).numpy()
            if log_probs:
                answers_log_probs(logits, ids, weights)
    return out


def hidden_states(task: Task, *, log_probs: bool) -> np.ndarray:
    out = task.blank()
    with torch.no_grad():
        for chosen, ids, weights in task.padded(task.by_length):
            if log_probs:
                found = task.plain(input_ids=ids, output_hidden_states=True, use_cache=False)
                answers_log_probs(found.logits, ids, weights)
            else:
                found = task.plain.model(input_ids=ids, output_hidden_states=True, use_cache=False)
            for number, value in enumerate(found.hidden_states[1:]):
                out[chosen, number] = torch.einsum("bt,btd->bd", weights, value).numpy()
    return out


def nnsight_trace(task: Task) -> np.ndarray:
    import nnsight

    model = nnsight.LanguageModel(task.plain, tokenizer=task.model["float32"].tokenizer)
    out = task.blank()
    with torch.no_grad():
        for chosen, ids, weights in task.padded(task.in_file_order):
            with model.trace({"input_ids": ids}):
                kept = nnsight.save([])
                for layer in model.model.layers:
                    kept.append(layer.output)
                logits = model.lm_head.output.save()
            answers_log_probs(logits, ids, weights)
            for number, value in enumerate(kept):
                found = value[0] if isinstance(value, tuple) else value
                out[chosen, number] = torch.einsum("bt,btd->bd", weights, found).numpy()
    return out


def steering_vectors(task: Task) -> np.ndarray:
    from steering_vectors import record_activations

    out = task.blank()
    with torch.no_grad():
        for chosen, ids, weights in task.padded(task.in_file_order):
            with record_activations(task.plain, layer_type="decoder_block") as kept:
                logits = task.plain(input_ids=ids, use_cache=False).logits
            answers_log_probs(logits, ids, weights)
            for number, value in kept.items():
                out[chosen, number] = torch.einsum("bt,btd->bd", weights, value[0]).numpy()
    return out


def ours(task: Task, dtype: str, plan: RowPlan, *, log_probs: bool) -> np.ndarray:
    found = run_block(task.model[dtype], task.texts, task.tokens, plan, lambda _n: None, log_probs=log_probs)
    return found["response"].residual[:, 0, 1:]


def study_plan(task: Task, dtype: str) -> RowPlan:
    """The row plan that a long study would measure for itself and keep."""
    model = task.model[dtype]
    plan, _ = choose_plan(
        lambda: model, task.texts, task.tokens, device=model.device, n_checkpoints=WORTH_MEASURING * len(task.texts)
    )
    return plan


def peak_rate() -> float:
    """FLOP/s of one large float32 matrix product in this process: the best of five."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / min(_timed(lambda: a @ b)[0] for _ in range(5))


def work(task: Task) -> tuple[int, float, float]:
    """Distinct tokens, and the FLOPs of the matrix products they need: all blocks, and the unembedding."""
    model = task.model["float32"].bridge.original_model
    rows = pack(task.tokens, 1)
    unique = sum(len(r) for r in rows)
    reads = sum(
        len(np.unique(np.concatenate([p[task.tokens[i].read_from :] for i, p in zip(r.texts, r.places, strict=True)])))
        for r in rows
    )
    blocks = sum(p.numel() for p in model.base_model.layers.parameters() if p.dim() == 2)
    return unique, 2.0 * unique * blocks, 2.0 * reads * model.get_output_embeddings().weight.numel()


def overhead_share(task: Task, plan: RowPlan) -> float:
    """Share of a capture to disk (tokenizing, packing, pooling, writing) spent outside the model's forward passes."""
    inside = [0.0]

    def outside(real: Callable[..., object], sign: float) -> Callable[..., object]:
        def call(*args: object, **rest: object) -> object:
            started = time.perf_counter()
            try:
                return real(*args, **rest)
            finally:
                inside[0] += sign * (time.perf_counter() - started)

        return call

    real_hooked = OpenModel.hooked

    @contextmanager
    def hooked(self: OpenModel, hooks: dict[str, Callable[..., object]]) -> Iterator[None]:
        with real_hooked(self, {site: outside(f, -1.0) for site, f in hooks.items()}):
            yield

    model = task.model["float32"]
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(OpenModel, "body", outside(OpenModel.body, 1.0)),
        mock.patch.object(OpenModel, "log_probs", outside(OpenModel.log_probs, 1.0)),
        mock.patch.object(OpenModel, "hooked", hooked),
    ):

        def whole() -> np.ndarray:
            texts: list[Text] = list(render_texts(task.pairs, [], PlainTemplate(), pmi=False))
            tokens: list[TokenText] = tokenize(model.tokenizer, texts, 8192, "benchmark")
            capture(
                lambda: model,
                path=Path(folder) / "base.h5",
                determinants={},
                texts=texts,
                tokens=tokens,
                plan=plan,
                advance=lambda _n: None,
            )
            return np.zeros(0)

        seconds, _ = _timed(whole)
    return 1.0 - inside[0] / seconds


def _source() -> ResolvedSource:
    source = study("float32").lineage.root.source
    assert source is not None
    return resolve_source(source, "benchmark")


def _timed(way: Way) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    found = way()
    return time.perf_counter() - started, found


def measure(n_pairs: int, repeats: int, console: Console) -> dict[str, object]:
    task = Task(n_pairs)
    plans = {d: study_plan(task, d) for d in ("float32", "bfloat16")}
    file_order, sorted_order = task.in_file_order, task.by_length
    ways: dict[str, Way] = {
        "baseline": lambda: run_with_cache(task, file_order, log_probs=True, stop=False),
        "ours fp32": lambda: ours(task, "float32", plans["float32"], log_probs=True),
        "ours bf16": lambda: ours(task, "bfloat16", plans["bfloat16"], log_probs=True),
        "baseline, residuals only": lambda: run_with_cache(task, file_order, log_probs=False, stop=False),
        "ours fp32, residuals only": lambda: ours(task, "float32", plans["float32"], log_probs=False),
        "ours bf16, residuals only": lambda: ours(task, "bfloat16", plans["bfloat16"], log_probs=False),
        "bridge, sorted, stopped before the unembedding, residuals only": lambda: run_with_cache(
            task, sorted_order, log_probs=False, stop=True
        ),
        "transformers hidden states, sorted": lambda: hidden_states(task, log_probs=True),
        "transformers hidden states, sorted, body, residuals only": lambda: hidden_states(task, log_probs=False),
    }
    with suppress(ImportError):
        import nnsight

        ways[f"nnsight {nnsight.__version__}"] = lambda: nnsight_trace(task)
    with suppress(ImportError):
        import steering_vectors as _  # noqa: F401

        ways["steering-vectors"] = lambda: steering_vectors(task)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    deviation: dict[str, float] = {}
    peaks = []
    reference = np.zeros(0)
    for repeat in range(repeats):
        for name, way in ways.items():
            peaks.append(peak_rate())
            spent, found = _timed(way)
            seconds[name].append(spent)
            console.print(f"round {repeat + 1}: {name}: {spent:.1f} s", highlight=False)
            if name == "baseline":
                reference = found
            difference = np.linalg.norm(found - reference, axis=-1) / np.linalg.norm(reference, axis=-1)
            deviation[name] = max(deviation.get(name, 0.0), float(difference.max()))
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def ratio(other: str, way: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[other], seconds[way], strict=True))

    unique, body_flops, head_flops = work(task)
    peak = statistics.median(peaks)
    alone = "baseline, residuals only"
    return {
        "pairs": len(task.pairs.pairs),
        "tokens": sum(len(t.ids) for t in task.tokens),
        "unique_tokens": unique,
        "repeats": repeats,
        "baseline_seconds": median["baseline"],
        "fp32_seconds": median["ours fp32"],
        "bf16_seconds": median["ours bf16"],
        "fp32_ratio": ratio("baseline", "ours fp32"),
        "bf16_ratio": ratio("baseline", "ours bf16"),
        "fp32_ratio_residuals_only": ratio(alone, "ours fp32, residuals only"),
        "bf16_ratio_residuals_only": ratio(alone, "ours bf16, residuals only"),
        "unique_tokens_per_second": unique / median["ours fp32"],
        "peak_gflops": peak / 1e9,
        "share_of_peak": body_flops / median["ours fp32, residuals only"] / peak,
        "share_of_peak_with_log_probs": (body_flops + head_flops) / median["ours fp32"] / peak,
        "overhead_share": overhead_share(task, plans["float32"]),
        "max_relative_deviation": deviation["ours fp32"],
        "max_relative_deviation_bf16": deviation["ours bf16"],
        "row_plans": {d: [p.row_budget, p.rows_per_batch] for d, p in plans.items()},
        "seconds": median,
        "peers": {n: s for n, s in median.items() if not n.startswith(("ours", "baseline"))},
    }


def main() -> None:
    """Print a table, or with --json one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="pairs to capture")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved rounds; figures are medians")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--memory", action="store_true", help="peak memory of 1,000 and 10,000 pairs, a tiny model")
    chosen = parser.parse_args()
    console = Console(stderr=True)
    found = capture_memory() if chosen.memory else measure(chosen.pairs, chosen.repeats, console)
    if chosen.json:
        print(json.dumps(found, indent=1))
        return
    table = Table("measured", "value")
    for key, value in found.items():
        for name, each in value.items() if isinstance(value, dict) else [("", value)]:
            shown = f"{each:.3g}" if isinstance(each, float) else str(each)
            table.add_row(f"{key}: {name}" if name else key, shown)
    Console().print(table)


if __name__ == "__main__":
    main()
