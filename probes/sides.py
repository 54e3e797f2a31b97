"""The two sides of every scenario at one site: the rows that all statistics work on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.model_selection import StratifiedKFold

from activations.artifact import content_hash
from activations.errors import InputError
from activations.store import ActivationStore

POOLED = "pooled"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Layout:
    """Which stored texts make up each scenario's sides; the same for every site of a store."""

    scenarios: tuple[str, ...]
    domains: tuple[str, ...]
    positive: Float[np.ndarray, "scenario text"]  # averaging weights over the store's rows (paraphrases)
    negative: Float[np.ndarray, "scenario text"]

    def __len__(self) -> int:
        return len(self.scenarios)

    def members(self, domain: str) -> Int[np.ndarray, "n"]:
        """Row numbers of a domain's scenarios; all of them for "pooled"."""
        if domain == POOLED:
            return np.arange(len(self))
        return np.flatnonzero(np.asarray(self.domains) == domain)

    def slices(self) -> list[str]:
        """The domains in order of appearance, then "pooled" where there are several."""
        names = list(dict.fromkeys(self.domains))
        return [*names, POOLED] if len(names) > 1 else names

    def hash(self, rows: Sequence[int] | np.ndarray) -> str:
        """Hash of the scenario ids in these rows."""
        return content_hash(sorted(self.scenarios[i] for i in rows))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Sides:
    """h⁺ and h⁻ of every scenario at one (site, position), paraphrases averaged; float64."""

    positive: Float[np.ndarray, "scenario d_model"]
    negative: Float[np.ndarray, "scenario d_model"]

    @property
    def difference(self) -> Float[np.ndarray, "scenario d_model"]:
        """δ_s = h⁺_s − h⁻_s."""
        return self.positive - self.negative

    def rows(self, members: np.ndarray) -> "Sides":
        """Some scenarios only."""
        return Sides(positive=self.positive[members], negative=self.negative[members])


def layout(
    rows: pd.DataFrame, contrast: str, where: str, *, design: str = "contrast", language: str | None = None
) -> Layout:
    """Scenarios of a contrast from a store's rows of one kind, in store order.

    Args:
        rows: a store's row columns.
        where: what to call the store in errors.
        design, language: which of the contrast's sets of pairs; every language without one.

    Raises:
        InputError: no such contrast, or a scenario without one of its sides.
    """
    chosen = rows[(rows.contrast == contrast) & (rows.design == design) & rows.side.isin(["positive", "negative"])]
    if language is not None:
        chosen = chosen[chosen.language == language]
    if chosen.empty:
        raise InputError(f"no pairs of the contrast {contrast!r}", where=where, mend="check the pair file's `contrast`")
    scenarios = list(dict.fromkeys(chosen.scenario_id))
    number = {s: i for i, s in enumerate(scenarios)}
    weights = {side: np.zeros((len(scenarios), len(rows))) for side in ("positive", "negative")}
    domains = [""] * len(scenarios)
    for text, scenario, side, domain in zip(chosen.index, chosen.scenario_id, chosen.side, chosen.domain, strict=True):
        weights[side][number[scenario], text] = 1.0
        domains[number[scenario]] = domain
    for side, weight in weights.items():
        count = weight.sum(axis=1, keepdims=True)
        if (count == 0).any():
            missing = scenarios[int(np.argmin(count))]
            raise InputError(f"scenario {missing!r} has no {side} side", where=where, mend="run capture again")
        weights[side] = weight / count
    return Layout(
        scenarios=tuple(scenarios), domains=tuple(domains), positive=weights["positive"], negative=weights["negative"]
    )


def read_sides(store: ActivationStore, plan: Layout, position: str, site: str) -> Sides:
    """The sides of every scenario at one site; the only residuals held in memory are that slice's.

    Raises:
        InputError: a residual is not finite; the message names the site.
    """
    residual = store.residual("response", position, site).astype(np.float64)
    if not np.isfinite(residual).all():
        raise InputError(
            f"residuals at {site} are not finite", where=str(store.path), mend="check this checkpoint's weights"
        )
    return Sides(positive=plan.positive @ residual, negative=plan.negative @ residual)


def read_prompts(
    store: ActivationStore, plan: Layout, contrast: str, site: str
) -> Float[np.ndarray, "scenario d_model"] | None:
    """The residual at the last token of every scenario's prompt, wordings averaged; None where a scenario has none."""
    if "prompt" not in store.kinds:
        return None
    rows = store.rows("prompt")
    number = {s: i for i, s in enumerate(plan.scenarios)}
    chosen = rows[(rows.contrast == contrast) & (rows.side == "") & rows.scenario_id.isin(number)]
    weights = np.zeros((len(plan), len(rows)))
    weights[[number[s] for s in chosen.scenario_id], chosen.index] = 1.0
    count = weights.sum(axis=1, keepdims=True)
    if (count == 0).any():
        return None
    return (weights / count) @ store.residual("prompt", "prompt_last", site).astype(np.float64)


def margins(store: ActivationStore, plan: Layout) -> Float[np.ndarray, "scenario"]:
    """B per scenario: mean log p(positive) − mean log p(negative), nats per token (METHOD §4)."""
    logprob = store.mean_logprob("response")
    return plan.positive @ logprob - plan.negative @ logprob


def null_margins(store: ActivationStore, plan: Layout, contrast: str) -> Float[np.ndarray, "scenario"]:
    """The same margin of the same answers under an empty prompt, in the order of `plan`."""
    null = layout(store.rows("null_prompt"), contrast, str(store.path))  # its rows have an order of their own
    logprob = store.mean_logprob("null_prompt")
    by_scenario = dict(zip(null.scenarios, null.positive @ logprob - null.negative @ logprob, strict=True))
    return np.asarray([by_scenario[s] for s in plan.scenarios])


def scenario_folds(plan: Layout, n_folds: int, seed: int) -> Int[np.ndarray, "scenario"]:
    """The fold of every scenario, balanced within domains; a function of the scenarios and the seed alone.

    Rows are scenarios, so no scenario (nor any of its wordings) is on both sides of a split.

    Raises:
        InputError: a domain has fewer scenarios than folds.
    """
    counts = pd.Series(plan.domains).value_counts()
    if counts.min() < n_folds:
        raise InputError(
            f"domain {counts.idxmin()!r} has {counts.min()} scenarios, fewer than the {n_folds} folds",
            mend="add scenarios, or leave this domain out with `domains`",
        )
    return balanced_folds(plan.scenarios, plan.domains, n_folds, seed)


def balanced_folds(units: Sequence[str], domains: Sequence[str], n_folds: int, seed: int) -> Int[np.ndarray, "unit"]:
    """The fold of every unit, as even within domains as their sizes allow, whatever the order they come in."""
    order = np.argsort(np.asarray(units))  # the split must not depend on file order
    folds = np.zeros(len(units), dtype=np.int64)
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(order, np.asarray(domains)[order])):
        folds[order[held_out]] = number
    return folds
