"""steer: add the direction at the middle of the declared band and measure the margin on held-out scenarios."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from activations.artifact import content_hash, write_json
from activations.model import open_checkpoint
from activations.openmodel import site_names
from analysis.edge import band_layers
from analysis.tables import TABLES, write_table
from probes.fit import held_out, load_direction
from probes.inference import mean_interval
from probes.sides import POOLED, Layout
from probes.steering import dose_slopes, steered_logprobs
from scripts.runfolder import CONTRAST, Run

LINEAR_REACH = 0.05  # |α| up to which the dose-response is read as a line


def steer(run: Run) -> None:
    """Steer the study's `steer_checkpoints`, or all that are no controls; finished ones are left as they are."""
    settings = run.study.settings
    alphas = sorted(settings.alphas)
    rows: list[dict[str, Any]] = []
    for checkpoint in run.study.lineage.checkpoints:
        name = checkpoint.name
        if name not in settings.steer_checkpoints if settings.steer_checkpoints else checkpoint.stage == "control":
            continue  # a control's truth is known in the representation; its behaviour is in behaviour.csv
        with run.open_store(name) as store:
            plan, identity = run.layout(store), store.identity
            band = band_layers(len(store.sites) - 1, settings.layer_band)
        layer = band[len(band) // 2]
        direction = load_direction(
            run.directions(name),
            CONTRAST,
            POOLED,
            "mass-mean/held-out",
            site_names(layer + 1)[-1],
        )
        scored = held_out(plan, settings.steer_scenarios, settings.seed)
        wanted = {plan.scenarios[i] for i in scored}
        members = [
            i
            for i, t in enumerate(run.texts)
            if t.kind == "response" and t.scenario_id in wanted and t.contrast == CONTRAST and t.design == "contrast"
        ]
        key = content_hash([identity, direction.hash, alphas, [run.texts[i].text_id for i in members]])
        margins = _read(run.steering(name), key)
        if margins is None:
            tokens = [run.tokens[i] for i in members]
            total = sum(len(t.ids) for t in tokens) * (1 + len(alphas))
            neutral = [t.ids for x, t in zip(run.texts, run.tokens, strict=True) if x.kind == "neutral"]
            with run.progress(f"steer {name}", total) as advance:
                model = open_checkpoint(run.study, name, device=run.device, neutral_ids=neutral)
                logprobs = steered_logprobs(model, tokens, direction, alphas, run.plan(checkpoint), advance)
            margins = _margins(run, members, logprobs, [plan.scenarios[i] for i in scored])
            write_json(run.steering(name), {"key": key, "alphas": [0.0, *alphas], "margins": margins.tolist()})
        about = {"checkpoint": name, **run.about(checkpoint), "layer": layer, "kind": "add", "control": "none"}
        rows += [about | row for row in _rows(plan, scored, [0.0, *alphas], margins)]
    write_table(run.tables, "steering", pd.DataFrame(rows, columns=None if rows else list(TABLES["steering"])))


def _rows(plan: Layout, scored: np.ndarray, doses: list[float], margins: np.ndarray) -> list[dict[str, Any]]:
    slopes = dose_slopes(doses, margins, LINEAR_REACH)
    domains = np.asarray(plan.domains)[scored]
    rows = []
    for domain in plan.slices():
        chosen = np.ones(len(scored), bool) if domain == POOLED else domains == domain
        for dose, line in sorted(zip(doses, margins, strict=True), key=lambda item: item[0]):
            found = mean_interval(line[chosen])
            shift = mean_interval(line[chosen] - margins[doses.index(0.0)][chosen])
            rows.append(
                {
                    "domain": domain,
                    "alpha": dose,
                    "n_scenarios": int(chosen.sum()),
                    "margin": found.value,
                    "margin_low": found.low,
                    "margin_high": found.high,
                    "shift": shift.value,
                    "shift_low": shift.low,
                    "shift_high": shift.high,
                    "slope": float(slopes[chosen].mean()),
                    "anti_steerable": float(np.where(np.isnan(slopes), np.nan, slopes < 0)[chosen].mean()),
                }
            )
    return rows


def _margins(run: Run, members: list[int], logprobs: np.ndarray, scenarios: list[str]) -> np.ndarray:
    """[dose, scenario]: mean over wordings of log-prob positive minus negative."""
    table = pd.DataFrame(logprobs.T).assign(
        scenario=[run.texts[i].scenario_id for i in members], side=[run.texts[i].side for i in members]
    )
    means = table.groupby(["side", "scenario"]).mean()
    return (means.loc["positive"].loc[scenarios] - means.loc["negative"].loc[scenarios]).to_numpy().T


def _read(path: Path, key: str) -> np.ndarray | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return np.asarray(found["margins"]) if found["key"] == key else None
    except (OSError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    from scripts.cli import main

    main("steer")
