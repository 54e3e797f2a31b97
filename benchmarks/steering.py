"""Steering sweeps against the usual ways to do them: the same model, answers, direction and doses, in one process.

    python -m benchmarks.steering [--pairs 24] [--repeats 3] [--json]

Every way gives the mean log-prob of every answer without steering and at six doses of one direction, added after the
middle block from the last prompt token on. The baseline loops TransformerBridge.run_with_hooks over doses, padded
batches of 16 in file order, log-probs from the logits. The steering-vectors package runs where it is installed.
Besides: the slopes of a thousand directions from gradients, against a sweep of two doses for each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from activations.packing import RowPlan
from benchmarks.capture import Task, answers_log_probs
from probes.direction import Direction
from probes.gradients import margin_gradients
from probes.steering import steered_logprobs

DOSES = (-0.1, -0.05, -0.02, 0.02, 0.05, 0.1)
CONTROLS = 999
PLAN = RowPlan(row_budget=256, rows_per_batch=4)
Way = Callable[[], np.ndarray]  # [dose 0 and DOSES, text]


def some_direction(task: Task) -> Direction:
    model = task.model["float32"]
    layer = len(model.sites) // 2 - 1
    return Direction(
        vector=np.random.default_rng(0).normal(size=model.d_model),
        site=model.sites[layer + 1],
        position="",
        method="",
        contrast="",
        domain="",
        size=1.0,
        tau=100.0,
        scenarios="",
        checkpoint="",
    )


def run_with_hooks(task: Task, u: Direction) -> np.ndarray:
    bridge = task.model["float32"].bridge
    found = np.zeros((1 + len(DOSES), len(task.texts)))
    with torch.no_grad():
        for line, alpha in enumerate((0.0, *DOSES)):
            for chosen, ids, weights in task.padded(task.in_file_order):
                at = acting(task, chosen, ids)
                step = torch.as_tensor(alpha * u.tau * u.vector, dtype=torch.float32)

                def add(value: torch.Tensor, hook: object, at=at, step=step) -> torch.Tensor:
                    return value + at[..., None] * step

                logits = bridge.run_with_hooks(ids, fwd_hooks=[(u.site, add)] if alpha else [], return_type="logits")
                found[line, chosen] = answers_log_probs(logits, ids, weights).numpy()
    return found


def steering_vectors(task: Task, u: Direction) -> np.ndarray:
    from steering_vectors import SteeringVector

    vector = SteeringVector(
        layer_activations={int(u.site.split(".")[1]): torch.as_tensor(u.vector, dtype=torch.float32)},
        layer_type="decoder_block",
    )
    found = np.zeros((1 + len(DOSES), len(task.texts)))
    with torch.no_grad():
        for line, alpha in enumerate((0.0, *DOSES)):
            for chosen, ids, weights in task.padded(task.in_file_order):
                at = acting(task, chosen, ids)
                with vector.apply(
                    task.plain,
                    multiplier=alpha * u.tau,
                    operator=lambda _h, step, at=at: at[..., None] * step,
                ):
                    logits = task.plain(input_ids=ids, use_cache=False).logits
                found[line, chosen] = answers_log_probs(logits, ids, weights).numpy()
    return found


def acting(task: Task, chosen: list[int], ids: torch.Tensor) -> torch.Tensor:
    """1 from the last prompt token of each answer on."""
    at = torch.zeros(ids.shape)
    for line, i in enumerate(chosen):
        at[line, task.tokens[i].read_from - 1 :] = 1.0
    return at


def ours(task: Task, u: Direction, dtype: str) -> np.ndarray:
    return steered_logprobs(task.model[dtype], task.tokens, u, DOSES, PLAN, lambda _n: None)


def slopes(task: Task, u: Direction) -> np.ndarray:
    """First-order slopes of `CONTROLS` directions at the site, [direction, scenario]."""
    scenarios = list(dict.fromkeys(t.scenario_id for t in task.texts))
    weights = np.zeros((len(scenarios), len(task.texts)))
    for column, text in enumerate(task.texts):
        weights[scenarios.index(text.scenario_id), column] = 1.0 if text.side == "positive" else -1.0
    weights /= np.abs(weights).sum(axis=1, keepdims=True) / 2
    gradient = margin_gradients(task.model["float32"], task.tokens, weights, [u.site], PLAN)[0]
    rows = np.random.default_rng(1).normal(size=(CONTROLS, len(u.vector)))
    return u.tau * (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ gradient.T


def measure(n_pairs: int, repeats: int) -> dict[str, object]:
    task = Task(n_pairs)
    u = some_direction(task)
    ways: dict[str, Way] = {
        "run_with_hooks": lambda: run_with_hooks(task, u),
        "float32": lambda: ours(task, u, "float32"),
        "bfloat16": lambda: ours(task, u, "bfloat16"),
        "slopes": lambda: slopes(task, u),
    }
    with suppress(ImportError):
        import steering_vectors as _installed  # noqa: F401

        ways["steering-vectors"] = lambda: steering_vectors(task, u)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, np.ndarray] = {}
    for _ in range(repeats):  # interleaved, so that a slow minute of the machine is everybody's
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - began)

    def ratio(name: str) -> float:
        pairs = zip(seconds["run_with_hooks"], seconds[name], strict=True)
        return statistics.median(a / b for a, b in pairs)

    middle = {name: statistics.median(s) for name, s in seconds.items()}
    one_edit = middle["float32"] / (1 + len(DOSES))
    reference = found["run_with_hooks"]
    return {
        "texts": len(task.texts),
        "tokens": sum(len(t.ids) for t in task.tokens),
        "baseline_seconds": middle["run_with_hooks"],
        "fp32_seconds": middle["float32"],
        "bf16_seconds": middle["bfloat16"],
        "batched_ratio": ratio("float32"),
        "bf16_ratio": ratio("bfloat16"),
        "max_difference_nats": float(np.abs(found["float32"] - reference).max()),
        "slopes_seconds": middle["slopes"],
        "slopes_against_sweeps": 2 * CONTROLS * one_edit / middle["slopes"],
        "peers": {"steering-vectors": middle["steering-vectors"]} if "steering-vectors" in middle else {},
        "peers_max_difference_nats": {
            n: float(np.abs(found[n] - reference).max()) for n in found if n == "steering-vectors"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    found = measure(given.pairs, given.repeats)
    if given.json:
        print(json.dumps(found))
        return
    table = Table("what", "value")
    for name, value in found.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
