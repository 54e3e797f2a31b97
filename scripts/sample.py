"""sample: every checkpoint's own answers to some of the study's prompts, read by the root's probe (G of METHOD.md).

The answers are sampled once, with the study's seed, unsteered; the checkpoints that are steered answer at the largest
dose either way as well. The reader is the root's direction at another layer than the steered one, from other scenarios.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from activations.artifact import content_hash, write_json
from activations.capture import run_block
from activations.lineage import Checkpoint
from activations.openmodel import OpenModel, site_names
from activations.packing import TokenText
from activations.pairs import Text
from analysis.edge import band_layers
from analysis.tables import TABLES, write_table
from probes.direction import Direction
from probes.fit import fit, held_out, load_direction
from probes.generation import sample_answers
from probes.interventions import Add
from probes.metrics import spread
from probes.sides import POOLED, read_sides
from probes.sites import POSITION, STEERING
from scripts.runfolder import Run
from scripts.steer import steered

TEMPERATURE = 1.0
NEXT_TURN = "\nUser:"  # where a model without a chat template goes on to write the next question itself


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Reader:
    """The root's direction at the last layer of the band: scores are SDs within a side, from the sides' middle."""

    direction: Direction
    site: int
    middle: float
    sigma: float
    key: str

    def score(self, residuals: np.ndarray) -> np.ndarray:
        """Scores of mean residuals [text, d_model]."""
        return (self.direction.project(residuals) - self.middle) / self.sigma


def sample(run: Run) -> None:
    """Write generations.csv; what was sampled and read already is left as it is."""
    settings = run.study.settings
    rows: list[dict[str, Any]] = []
    if settings.sample_prompts:
        root = run.study.lineage.root
        with run.open_store(root.name) as store:
            plan = run.layout(store)
            asked = held_out(plan, settings.sample_prompts, settings.seed)
            band = band_layers(len(store.sites) - 1, settings.layer_band)
            sides = read_sides(store, plan, POSITION, store.sites[band[-1] + 1])
            known = sides.rows(np.setdiff1d(np.arange(len(plan)), asked))
            direction = fit(known.positive, known.negative, site=store.sites[band[-1] + 1])
            scores = [direction.project(s) for s in (known.positive, known.negative)]
            reader = Reader(
                direction=direction,
                site=band[-1] + 1,
                middle=float(np.mean(scores)),
                sigma=float(spread(scores[0][None], scores[1][None])[0]),
                key=content_hash([store.identity, direction.hash]),
            )
        wanted = {plan.scenarios[i] for i in asked}
        prompts = _prompts(run, wanted)
        for checkpoint in run.study.lineage.checkpoints:
            _answer(run, checkpoint, prompts, band[len(band) // 2])
        _read(run, prompts, reader)
        asked_of = {p.pair_id: p.prompt for p in run.pairs.pairs}
        for checkpoint in run.study.lineage.checkpoints:
            about = {"checkpoint": checkpoint.name, **run.about(checkpoint)}
            found = _written(run.generations(checkpoint.name))
            for line in found["answers"]:
                text = prompts[line["prompt"]][0]
                rows.append(
                    about
                    | {
                        "domain": text.domain,
                        "scenario_id": text.scenario_id,
                        "prompt": asked_of[text.pair_id],
                        "alpha": line["alpha"],
                        "sample": 0,
                        "text": line["text"],
                        "reader_score": line["score"],
                    }
                )
    write_table(run.tables, "generations", pd.DataFrame(rows, columns=None if rows else list(TABLES["generations"])))


def _written(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _prompts(run: Run, scenarios: set[str]) -> list[tuple[Text, TokenText]]:
    """The first prompt of each of these scenarios."""
    found: dict[str, tuple[Text, TokenText]] = {}
    for text, tokens in zip(run.texts, run.tokens, strict=True):
        if text.kind == "prompt" and text.contrast == run.contrast and not text.side and text.scenario_id in scenarios:
            found.setdefault(text.scenario_id, (text, tokens))
    return list(found.values())


def _answer(run: Run, checkpoint: Checkpoint, prompts: Sequence[tuple[Text, TokenText]], layer: int) -> None:
    settings = run.study.settings
    path = run.generations(checkpoint.name)
    doses = [0.0]
    direction = None
    if checkpoint.name in {c.name for c in steered(run)}:
        top = max(map(abs, settings.alphas))
        doses += [-top, top]
        direction = load_direction(
            run.directions(checkpoint.name), run.contrast, POOLED, STEERING, site_names(layer + 1)[-1]
        )
    with run.open_store(checkpoint.name) as store:
        identity = store.identity
    ids = [tokens.ids for _, tokens in prompts]
    settled = [settings.sample_tokens, settings.seed, TEMPERATURE, [i.tolist() for i in ids]]
    key = content_hash([identity, doses, direction.hash if direction else "", settled])
    if _written(path).get("key") == key:
        return
    answers = []
    with run.progress(f"sample {checkpoint.name}", len(doses)) as advance:
        model = run.open_model(checkpoint.name)
        for alpha in doses:
            found = sample_answers(
                model,
                ids,
                interventions=[Add(direction=direction, alpha=alpha)] if direction is not None and alpha else [],
                max_new_tokens=settings.sample_tokens,
                temperature=TEMPERATURE,
                seed=settings.seed,
            )
            for number, answer in enumerate(found):
                kept, text = own_turn(model, answer)
                answers.append({"prompt": number, "alpha": alpha, "ids": kept, "text": text, "score": None})
            advance(1)
    write_json(path, {"key": key, "read_by": "", "answers": answers})


def own_turn(model: OpenModel, answer: np.ndarray) -> tuple[list[int], str]:
    """An answer's tokens and text up to where the model begins to write the next question."""
    ids = answer.tolist()
    text = model.tokenizer.decode(ids).split(NEXT_TURN)[0]
    while ids and len(model.tokenizer.decode(ids)) > len(text):
        ids.pop()
    return ids, text.strip()


def _read(run: Run, prompts: Sequence[tuple[Text, TokenText]], reader: Reader) -> None:
    """Score every answer that this reader has not read; the root is opened only if there are any."""
    root = run.study.lineage.root
    model: OpenModel | None = None
    for checkpoint in run.study.lineage.checkpoints:
        path = run.generations(checkpoint.name)
        found = _written(path)
        if found["read_by"] == reader.key:
            continue
        lines = [line for line in found["answers"] if line["ids"]]
        texts, tokens = [], []
        for number, line in enumerate(lines):
            before = prompts[line["prompt"]][1]
            texts.append(Text(kind="response", text_id=str(number), text="", group=str(number), read_from=0))
            ids = np.concatenate([before.ids, np.asarray(line["ids"], dtype=before.ids.dtype)])
            tokens.append(TokenText(ids=ids, read_from=len(before.ids), group=str(number)))
        if lines:
            if model is None:
                model = run.open_model(root.name)
            with run.progress(f"read {checkpoint.name}", sum(len(t.ids) for t in tokens)) as advance:
                measured = run_block(model, texts, tokens, run.plan(root), advance, log_probs=False)["response"]
            for line, score in zip(lines, reader.score(measured.residual[:, 0, reader.site]), strict=True):
                line["score"] = round(float(score), 6)
        write_json(path, found | {"read_by": reader.key})


if __name__ == "__main__":
    from scripts.cli import main

    main("sample")
