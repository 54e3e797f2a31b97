"""All that steering measures of one checkpoint, in pieces; each is a file, so that an interrupted run resumes.

Doses of the direction on held-out answers (and under an empty prompt), what they cost on neutral text, a handful of
control directions at finite dose, the direction taken away at every layer, a system prompt instead, and the gradients
that give first-order slopes of any direction at any site.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from activations.artifact import writing
from activations.openmodel import OpenModel
from activations.packing import RowPlan, TokenText
from probes.direction import Direction
from probes.gradients import FISHER_REPEATS, fisher_samples, margin_gradients
from probes.interventions import Ablate, Add
from probes.steering import edited_logprobs, neutral_damage

LINEAR_REACH = 0.05  # |α| up to which the dose-response is read as a line

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Answers:
    """Tokenized answers and, scenario by scenario, what their mean log-probs count in its margin."""

    tokens: Sequence[TokenText]
    weights: Float[np.ndarray, "scenario text"]

    @property
    def size(self) -> int:
        """Tokens in all."""
        return sum(len(t.ids) for t in self.tokens)

    def margins(self, logprobs: Float[np.ndarray, "line text"]) -> Float[np.ndarray, "line scenario"]:
        """Margin of every scenario, nats a token."""
        return logprobs @ self.weights.T


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """One checkpoint's steering. Arrays are computed when first asked for, or read from `folder` if `key` fits.

    Args:
        open_model: loads the checkpoint; called only if something has to be computed.
        folder: where pieces are kept.
        key: hash of everything that determines them.
        direction: at the steered site, fitted on scenarios that are not scored here; `by_site` at every site.
        checks: control directions run at finite dose, ±`LINEAR_REACH`.
        alphas: doses, ascending, without 0.
        answers: held-out scenarios; `nulls` under an empty prompt (None without), `prompted` under a system prompt,
            `few` the answers that the control directions are run on.
        neutral: neutral texts.
        plan, seed: row layout; seed of sampled tokens.
        advance: told how many (token, pass) steps are done.
    """

    open_model: Callable[[], OpenModel]
    folder: Path
    key: str
    direction: Direction
    by_site: Sequence[Direction]
    checks: Sequence[Direction]
    alphas: Sequence[float]
    answers: Answers
    nulls: Answers | None
    prompted: Answers
    few: Answers
    neutral: Sequence[TokenText]
    plan: RowPlan
    seed: int
    advance: Callable[[int], None] = lambda _: None

    @property
    def cost(self) -> int:
        """(token, pass) steps of the whole trial, a backward pass counted as one."""
        neutral = sum(len(t.ids) for t in self.neutral)
        doses = 1 + len(self.alphas)
        checks = 1 + 2 * len(self.checks)
        answers = self.answers.size * (doses + 2 + 2) + self.few.size * checks + self.prompted.size
        nulls = self.nulls.size * doses if self.nulls is not None else 0
        return answers + nulls + neutral * (doses + 2 + 1 + len(self.checks) + FISHER_REPEATS)

    @cached_property
    def model(self) -> OpenModel:
        """The open checkpoint."""
        return self.open_model()

    @cached_property
    def margins(self) -> Float[np.ndarray, "dose scenario"]:
        """At dose 0, then at `alphas`."""
        return self._swept("doses", self.answers)

    @cached_property
    def null_margins(self) -> Float[np.ndarray, "dose scenario"] | None:
        """The same answers' under an empty prompt: what of a shift is style that no prompt asked for."""
        return self._swept("null", self.nulls) if self.nulls is not None else None

    @cached_property
    def damage(self) -> Arrays:
        """`kl` of each dose on neutral text, `loss` at dose 0 and each dose (nats a token)."""
        return self._piece("damage", lambda: self._damage([self._add(self.direction, a) for a in self.alphas]))

    @cached_property
    def checked(self) -> Arrays:
        """`margins` [none, then −reach and +reach of every control; scenario of `few`] and `kl` at +reach."""

        def make() -> Arrays:
            edits = [self._add(v, s * LINEAR_REACH) for v in self.checks for s in (-1, 1)]
            found = edited_logprobs(self.model, self.few.tokens, edits, self.plan, self.advance)
            return {"margins": self.few.margins(found), "kl": self._damage(edits[1::2])["kl"]}

        return self._piece("controls", make)

    @cached_property
    def ablated(self) -> Arrays:
        """`margins` [none, ablated; scenario] and `kl`, `loss`: every site's own direction taken out of it."""

        def make() -> Arrays:
            edit = [[Ablate(direction=u) for u in self.by_site]]
            found = edited_logprobs(self.model, self.answers.tokens, edit, self.plan, self.advance)
            return {"margins": self.answers.margins(found)} | self._damage(edit)

        return self._piece("ablated", make)

    @cached_property
    def told(self) -> Float[np.ndarray, "scenario"]:
        """Margins under the system prompt, nothing steered."""
        found = self._piece(
            "told",
            lambda: {
                "margins": self.prompted.margins(
                    edited_logprobs(self.model, self.prompted.tokens, [], self.plan, self.advance)
                )
            },
        )
        return found["margins"][0]

    @cached_property
    def gradient(self) -> Float[np.ndarray, "site scenario d_model"]:
        """`probes.gradients.margin_gradients` at every site."""
        found = self._piece(
            "gradient",
            lambda: {
                "gradient": margin_gradients(
                    self.model, self.answers.tokens, self.answers.weights, self.model.sites, self.plan, self._twice
                )
            },
        )
        return found["gradient"]

    @cached_property
    def fisher(self) -> Float[np.ndarray, "site sample d_model"]:
        """`probes.gradients.fisher_samples` at every site."""
        found = self._piece(
            "fisher",
            lambda: {
                "fisher": fisher_samples(
                    self.model, self.neutral, self.model.sites, self.plan, seed=self.seed, advance=self.advance
                )
            },
        )
        return found["fisher"]

    def all(self) -> Iterator[object]:
        """Every piece, so that nothing is left to compute."""
        yield from (self.margins, self.null_margins, self.damage, self.checked, self.ablated, self.told)
        yield from (self.gradient, self.fisher)

    def _swept(self, name: str, answers: Answers) -> np.ndarray:
        def make() -> Arrays:
            edits = [self._add(self.direction, a) for a in self.alphas]
            return {
                "margins": answers.margins(edited_logprobs(self.model, answers.tokens, edits, self.plan, self.advance))
            }

        return self._piece(name, make)["margins"]

    def _add(self, direction: Direction, alpha: float) -> list[Add]:
        return [Add(direction=direction, alpha=alpha)]

    def _damage(self, edits: Sequence[Sequence[Add | Ablate]]) -> Arrays:
        found = neutral_damage(self.model, self.neutral, edits, self.plan, self.advance)
        return {"kl": found.kl, "loss": found.loss}

    def _twice(self, tokens: int) -> None:
        self.advance(2 * tokens)

    def _piece(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        return kept(self.folder / f"{name}.safetensors", self.key, make)


def kept(path: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays from a file if it holds them under this key; else made, and written whole or not at all."""
    found = _read(path, key)
    if found is None:
        found = {k: np.ascontiguousarray(v) for k, v in make().items()}
        with writing(path) as temporary:
            save_file(found, temporary, metadata={"kind": "steering", "key": key})
    return found


def _read(path: Path, key: str) -> Arrays | None:
    try:
        with safe_open(path, framework="numpy") as handle:
            if (handle.metadata() or {}).get("key") != key:
                return None
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
