"""steer: add the direction at the middle of the declared band, on held-out scenarios, beside its controls.

Beside doses of the direction: random, shuffled, orthogonal and confound directions (to first order, and some at finite
dose), the direction taken out of every layer, a system prompt instead, and the cost of each on neutral text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from activations import model as models
from activations.artifact import content_hash
from activations.lineage import Checkpoint
from activations.openmodel import site_layer, site_names
from activations.pairs import Text
from activations.store import ActivationStore
from activations.tokens import tokenize
from analysis.edge import band_layers
from analysis.tables import TABLES, write_table
from probes.designs import NULLS
from probes.direction import Direction
from probes.effects import control_sets, slopes
from probes.fit import held_out, load_direction
from probes.inference import mean_interval
from probes.sides import POOLED, Layout, layout, read_sides
from probes.sites import POSITION, STEERING
from probes.steering import dose_slopes, monotone
from probes.trials import LINEAR_REACH, Answers, Trial
from scripts.runfolder import Run

CHECKED, CHECKED_SCENARIOS = 10, 2  # control directions run at finite dose, on so many scenarios a domain
NEUTRAL_TEXTS = 24
MAY_BE_EMPTY = (
    *("alpha", "margin_pmi", "first_order", "slope", "slope_sd", "anti_steerable", "monotone", "kl", "perplexity"),
)


def steer(run: Run) -> None:
    """Steer the study's `steer_checkpoints`, or all that are no controls; finished pieces are left as they are."""
    steering: list[dict[str, Any]] = []
    sloped: list[dict[str, Any]] = []
    single: list[dict[str, Any]] = []
    for checkpoint in steered(run):
        with run.open_store(checkpoint.name) as store:
            plan = run.layout(store)
            scored = held_out(plan, run.study.settings.steer_scenarios, run.study.settings.seed)
            band = band_layers(len(store.sites) - 1, run.study.settings.layer_band)
            layer = band[len(band) // 2]
            directions = [
                load_direction(run.directions(checkpoint.name), run.contrast, POOLED, STEERING, site)
                for site in site_names(len(store.sites) - 1)
            ]
            checks = controls_of(run, store, plan, scored, directions[layer + 1])["matched"][:CHECKED]
            trial = _trial(run, checkpoint, store.identity, plan, scored, directions, layer, checks)
            with run.progress(f"steer {checkpoint.name}", trial.cost) as advance:
                trial = replace(trial, advance=advance)
                for _ in trial.all():
                    pass
            about = {"checkpoint": checkpoint.name, **run.about(checkpoint)}
            steering += [about | row for row in _finite(plan, scored, trial, layer)]
            single += [about | row for row in _single(plan, scored, trial, layer)]
            for number, direction in enumerate(directions):
                controls = controls_of(run, store, plan, scored, direction)
                for domain, inside in scored_slices(plan, scored):
                    members = np.flatnonzero(inside)
                    found = slopes(
                        trial.gradient[number], trial.fisher[number], direction.tau, direction.vector, controls, members
                    )
                    sloped += [about | {"domain": domain, "layer": number - 1} | _slope_row(s) for s in found]
    for name, rows in (("steering", steering), ("steered", single), ("slopes", sloped)):
        write_table(run.tables, name, pd.DataFrame(rows, columns=None if rows else list(TABLES[name])))


def steered(run: Run) -> list[Checkpoint]:
    """The checkpoints that are steered: those named, or all that are no controls."""
    named = run.study.settings.steer_checkpoints
    # A control's truth is known in the representation; its behaviour is in behaviour.csv.
    return [c for c in run.study.lineage.checkpoints if (c.name in named if named else c.stage != "control")]


def scored_slices(plan: Layout, scored: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The slices of a plan, each with which of the scored scenarios are in it."""
    domains = np.asarray(plan.domains)[scored]
    for domain in plan.slices():
        yield domain, (domains == domain) | (domain == POOLED)


def _few(domains: Sequence[str]) -> np.ndarray:
    """Which of the scored scenarios control directions are run on: the first of each domain."""
    return np.asarray([list(domains[:i]).count(d) < CHECKED_SCENARIOS for i, d in enumerate(domains)])


def _trial(
    run: Run,
    checkpoint: Checkpoint,
    identity: str,
    plan: Layout,
    scored: np.ndarray,
    directions: Sequence[Direction],
    layer: int,
    checks: np.ndarray,
) -> Trial:
    settings = run.study.settings
    direction = directions[layer + 1]
    scenarios = [plan.scenarios[i] for i in scored]
    few = np.asarray(scenarios)[_few([plan.domains[i] for i in scored])].tolist()
    prompted = _prompted(run, scenarios)
    trial = Trial(
        open_model=lambda: run.open_model(checkpoint.name),
        folder=run.steering(checkpoint.name),
        key="",
        direction=direction,
        by_site=directions,
        checks=[replace(direction, vector=v, method="matched") for v in checks],
        alphas=sorted(settings.alphas),
        answers=answers_of(run, "response", scenarios),
        nulls=answers_of(run, "null_prompt", scenarios) if settings.pmi else None,
        prompted=prompted,
        few=answers_of(run, "response", few),
        neutral=run.neutral[:NEUTRAL_TEXTS],
        plan=run.plan(checkpoint),
        seed=settings.seed,
    )
    determined = [identity, [u.hash for u in (*directions, *trial.checks)], trial.alphas, scenarios, few, settings.seed]
    told = [t.ids.tolist() for t in prompted.tokens]
    return replace(trial, key=content_hash([*determined, layer, told, settings.pmi, len(trial.neutral)]))


def answers_of(run: Run, kind: str, scenarios: Sequence[str]) -> Answers:
    """The tokenized answers of some scenarios, of a kind of text."""
    members = _members(run, kind, scenarios)
    return Answers(
        tokens=[run.tokens[i] for i in members], weights=_weights([run.texts[i] for i in members], scenarios)
    )


def _members(run: Run, kind: str, scenarios: Sequence[str]) -> list[int]:
    wanted = set(scenarios)
    return [
        i
        for i, t in enumerate(run.texts)
        if t.kind == kind and t.scenario_id in wanted and t.contrast == run.contrast and t.design == "contrast"
    ]


def _weights(texts: Sequence[Text], scenarios: Sequence[str]) -> np.ndarray:
    """[scenario, text]: +1 over wordings for positive answers, −1 over wordings for negative ones."""
    number = {s: i for i, s in enumerate(scenarios)}
    found = np.zeros((2, len(scenarios), len(texts)))
    for column, text in enumerate(texts):
        found[0 if text.side == "positive" else 1, number[text.scenario_id], column] = 1.0
    found /= found.sum(axis=2, keepdims=True)
    return found[0] - found[1]


def _prompted(run: Run, scenarios: Sequence[str]) -> Answers:
    """The same answers behind the study's system prompt."""
    template = run.template or models.study_template(run.study)
    asked = {
        p.pair_id: template.prompt(p.prompt, run.study.settings.system_prompt)
        for p in run.pairs.pairs
        if p.role == "response"
    }
    texts = []
    for text in (run.texts[i] for i in _members(run, "response", scenarios)):
        before, answer = asked[text.pair_id], text.text[text.read_from :]
        texts.append(replace(text, text=before + answer, read_from=len(before), group=before))
    root = run.study.lineage.root.name
    tokens = tokenize(models.study_tokenizer(run.study, root), texts, 1 << 30, run.study.where)
    return Answers(tokens=tokens, weights=_weights(texts, scenarios))


def controls_of(
    run: Run, store: ActivationStore, plan: Layout, scored: np.ndarray, direction: Direction
) -> dict[str, np.ndarray]:
    """Control directions at the direction's site (`probes.effects.control_sets`), from scenarios not scored."""
    rows = store.rows("response")
    confounds = {}
    for name in dict.fromkeys(rows[(rows.design == "contrast") & (rows.contrast != run.contrast)].contrast):
        if not name.startswith(NULLS):
            other = layout(rows, name, str(store.path))
            confounds[name] = read_sides(store, other, POSITION, direction.site).difference.mean(axis=0)
    fitted = np.setdiff1d(np.arange(len(plan)), scored)
    sides = read_sides(store, plan, POSITION, direction.site).rows(fitted)
    settings = run.study.settings
    seed = [settings.seed, 3, site_layer(direction.site) + 1]
    return control_sets(sides, direction.vector, confounds, draws=settings.steer_controls, seed=seed)


def _single(plan: Layout, scored: np.ndarray, trial: Trial, layer: int) -> Iterator[dict[str, Any]]:
    """Rows of steered.csv: scenario by scenario."""
    slope = trial.direction.tau * trial.gradient[layer + 1] @ trial.direction.vector
    finite = dose_slopes([0.0, *trial.alphas], trial.margins, LINEAR_REACH)
    for i, scenario in enumerate(scored):
        yield {
            "domain": plan.domains[scenario],
            "scenario_id": plan.scenarios[scenario],
            "layer": layer,
            "margin": trial.margins[0, i],
            "slope": slope[i],
            "slope_finite": finite[i],
        }


def _finite(plan: Layout, scored: np.ndarray, trial: Trial, layer: int) -> Iterator[dict[str, Any]]:
    """Rows of steering.csv."""
    doses = np.asarray([0.0, *trial.alphas])
    first_order = trial.direction.tau * trial.gradient[layer + 1] @ trial.direction.vector
    slope, rises = (f([0.0, *trial.alphas], trial.margins, LINEAR_REACH) for f in (dose_slopes, monotone))
    few = _few([plan.domains[i] for i in scored])
    for domain, inside in scored_slices(plan, scored):
        about = {"domain": domain, "layer": layer, "kind": "add", "control": "none", "n_scenarios": int(inside.sum())}
        shape = {
            "slope": float(slope[inside].mean()),
            "slope_sd": float(slope[inside].std(ddof=1)) if inside.sum() > 1 else float("nan"),
            "anti_steerable": float(np.where(np.isnan(slope), np.nan, slope < 0)[inside].mean()),
            "monotone": float(rises[inside].mean()),
        }
        for line in np.argsort(doses):
            null = trial.null_margins
            yield (
                about
                | _measured(trial.margins[[0, line]][:, inside])
                | shape
                | {
                    "alpha": doses[line],
                    "margin_pmi": float((trial.margins - null)[line, inside].mean()) if null is not None else None,
                    "first_order": float(doses[line] * first_order[inside].mean()),
                    "kl": float(trial.damage["kl"][line - 1]) if line else 0.0,
                    "perplexity": float(np.exp(trial.damage["loss"][line])),
                }
            )
        chosen = inside[few]
        for number, control in enumerate(trial.checks):
            expected = control.tau * trial.gradient[layer + 1][few] @ control.vector
            for side, alpha in enumerate((-LINEAR_REACH, LINEAR_REACH)):
                margins = trial.checked["margins"][[0, 1 + 2 * number + side]][:, chosen]
                yield (
                    about
                    | _measured(margins)
                    | {
                        "control": f"matched-{number + 1}",
                        "n_scenarios": int(chosen.sum()),
                        "alpha": alpha,
                        "first_order": float(alpha * expected[chosen].mean()),
                        "kl": float(trial.checked["kl"][number]) if side else None,
                    }
                )
        taken = trial.ablated
        yield (
            about
            | _measured(taken["margins"][:, inside])
            | {
                "kind": "ablate",
                "layer": None,
                "kl": float(taken["kl"][0]),
                "perplexity": float(np.exp(taken["loss"][1])),
            }
        )
        told = np.stack([trial.margins[0], trial.told])[:, inside]
        yield about | _measured(told) | {"kind": "prompt", "layer": None, "control": "system prompt"}


def _measured(margins: np.ndarray) -> dict[str, Any]:
    """Margin after and shift from before, with limits over scenarios; the columns a row may fill are there, empty."""
    after, shift = mean_interval(margins[1]), mean_interval(margins[1] - margins[0])
    return dict.fromkeys(MAY_BE_EMPTY) | {
        "margin": after.value,
        "margin_low": after.low,
        "margin_high": after.high,
        "shift": shift.value,
        "shift_low": shift.low,
        "shift_high": shift.high,
    }


def _slope_row(found: Any) -> dict[str, Any]:
    return {
        "control": found.control,
        "n_directions": found.n_directions,
        "n_scenarios": found.n_scenarios,
        "slope": found.slope,
        "slope_low": found.low,
        "slope_high": found.high,
        "slope_sd": found.sd,
        "anti_steerable": found.anti_steerable,
        "effect_at_kl": found.effect_at_kl,
        "dose_at_kl": found.dose_at_kl,
        "beaten": found.beaten,
        "beaten_at_kl": found.beaten_at_kl,
    }


if __name__ == "__main__":
    from scripts.cli import main

    main("steer")
