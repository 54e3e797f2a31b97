"""The row plan of a study: measured once, written down, and used by every checkpoint after that.

Which row length is fastest depends on the machine, the model and the texts; the difference is some ten per cent. Row
plans change results by rounding only, but a resumed or distributed capture repeats the same bytes only with the same
plan, so it is measured on the root and kept in study.lock.json.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from activations.artifact import content_hash
from activations.capture import blocks, run_block
from activations.openmodel import OpenModel
from activations.packing import PACKING, RowPlan, TokenText, pack
from activations.pairs import Text

# On a processor attention is quadratic in the row and caches are small; a GPU wants large batches.
CANDIDATES = {
    "cpu": [(256, 4), (128, 8), (192, 5), (384, 3)],
    "cuda": [(512, 32), (512, 64), (1024, 32), (256, 64)],
}
SAMPLE_TOKENS = {"cpu": 2_048, "cuda": 65_536}
WORTH_MEASURING = 25  # a study must be so many times the whole measurement, or the default plan serves


def default_plan(device: torch.device) -> RowPlan:
    """The plan for a device where none was measured."""
    budget, together = CANDIDATES.get(device.type, CANDIDATES["cpu"])[0]
    return RowPlan(row_budget=budget, rows_per_batch=together)


def choose_plan(
    open_model: Callable[[], OpenModel],
    texts: Sequence[Text],
    tokens: Sequence[TokenText],
    *,
    device: torch.device,
    n_checkpoints: int,
) -> tuple[RowPlan, dict[str, float]]:
    """The fastest of the candidate plans on the study's first texts, with the tokens per second each one reached.

    Args:
        open_model: loads the root; called only where the study is long enough for the choice to pay.
        texts, tokens: the study's.
        device: where captures run.
        n_checkpoints: how often the texts will be run.

    Returns:
        The plan, and {"budget x rows": tokens per second}, empty for the default plan of a short study.
    """
    candidates = CANDIDATES.get(device.type, CANDIDATES["cpu"])
    size = SAMPLE_TOKENS.get(device.type, SAMPLE_TOKENS["cpu"])
    total = sum(len(t.ids) for t in tokens) * n_checkpoints
    if total < WORTH_MEASURING * size * len(candidates):
        return default_plan(device), {}
    model = open_model()
    chosen: list[int] = []
    seen = 0
    for members in blocks(texts):  # whole blocks would be too long, single groups too uneven: groups up to `size`
        for index in members:
            if seen < size or (chosen and texts[index].group == texts[chosen[-1]].group):
                chosen.append(index)
                seen += len(tokens[index].ids)
    part = [texts[i] for i in chosen], [tokens[i] for i in chosen]
    rates: dict[str, float] = {}
    best, best_rate = default_plan(device), 0.0
    run_block(model, part[0][:8], part[1][:8], best, lambda _n: None)  # the first pass of a process is slower
    for budget, together in candidates:
        plan = RowPlan(row_budget=budget, rows_per_batch=together)
        started = time.perf_counter()
        run_block(model, *part, plan, lambda _n: None)
        rate = seen / (time.perf_counter() - started)
        rates[f"{budget} x {together}"] = round(rate, 1)
        if rate > best_rate:
            best, best_rate = plan, rate
    return best, rates


def packing_record(texts: Sequence[Text], tokens: Sequence[TokenText], plan: RowPlan) -> dict[str, Any]:
    """What the lock file says of a study's packing: how much of the text is computed, and a hash of who rides where.

    `tokens` are those of all texts, `packed_tokens` those that are computed: what texts share is computed once.
    """
    rows = packed = 0
    riders = []
    for members in (found := blocks(texts)):
        laid = pack([tokens[i] for i in members], plan.row_budget)
        rows += len(laid)
        packed += sum(len(row) for row in laid)
        riders.append([[members[i] for i in row.texts] for row in laid])
    return {
        "algorithm": PACKING,
        "blocks": len(found),
        "rows": rows,
        "tokens": sum(len(t.ids) for t in tokens),
        "packed_tokens": packed,
        "sha256": content_hash(riders),
    }
