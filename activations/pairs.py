"""Compassionate-vs-curt pairs and neutral texts: loaded, checked, and rendered to text once."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from activations.artifact import stream_hash
from activations.errors import InputError
from activations.study import Study


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a control character or a line break")
    return text


Id = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), AfterValidator(_printable)]
Words = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
Kind = Literal["response", "prompt", "null_prompt", "neutral"]
KINDS: tuple[Kind, ...] = ("response", "prompt", "null_prompt", "neutral")


class ContrastPair(BaseModel):
    """One line of a pair file: two sides that differ in the contrast and in as little else as can be.

    `role` says where the sides stand: two answers to `prompt` ("response"), two system instructions before it
    ("system"), or two phrasings of the user message itself ("user"). `scenario_id` is the unit of resampling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    pair_id: Id
    scenario_id: Id
    domain: Id
    language: Id = "en"
    contrast: Id = "compassion"
    role: Literal["response", "system", "user"] = "response"
    prompt: str
    positive: Words
    negative: Words
    paraphrase: int = Field(default=0, ge=0)
    design: Id = "contrast"
    source: str = ""
    license: str = ""

    @model_validator(mode="after")
    def _sides_differ(self) -> "ContrastPair":
        if self.positive.strip() == self.negative.strip():
            raise ValueError("positive and negative are the same text")
        if self.role != "user" and not self.prompt.strip():
            raise ValueError("prompt is empty")
        return self


class NeutralText(BaseModel):
    """One line of a neutral file: a plain passage for residual norms, perplexity and alignment."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text_id: Id
    text: Words
    language: Id = "en"
    source: str = ""
    license: str = ""


@dataclass(frozen=True, slots=True)
class PairSet:
    """Checked pairs in file order."""

    pairs: tuple[ContrastPair, ...]
    where: str = "pairs"

    @property
    def hash(self) -> str:
        """Content hash of every field of every pair, in order."""
        return stream_hash(p.model_dump() for p in self.pairs)

    @property
    def domains(self) -> list[str]:
        """Prompt domains in order of first appearance."""
        return list(dict.fromkeys(p.domain for p in self.pairs))

    def select(self, domains: Sequence[str], wordings: int | None, max_scenarios: int | None) -> "PairSet":
        """The named domains (empty = all), the first wordings, and the first scenarios of each domain.

        Naming domains leaves contrasts that have none of them (confounds, nulls) as they are.

        Raises:
            InputError: a named domain does not occur.
        """
        unknown = [d for d in domains if d not in self.domains]
        if unknown:
            raise InputError(
                f"no pair has the domain {unknown[0]!r}",
                where=self.where,
                mend=f"domains here: {', '.join(self.domains)}",
            )
        narrowed = {p.contrast for p in self.pairs if p.domain in domains}
        kept: dict[tuple[str, str, str], set[str]] = {}
        chosen = []
        for pair in self.pairs:
            elsewhere = pair.contrast in narrowed and pair.domain not in domains
            if elsewhere or (wordings is not None and pair.paraphrase >= wordings):
                continue
            scenarios = kept.setdefault((pair.contrast, pair.design, pair.domain), set())
            full = max_scenarios is not None and len(scenarios) >= max_scenarios
            if full and pair.scenario_id not in scenarios:
                continue
            scenarios.add(pair.scenario_id)
            chosen.append(pair)
        return PairSet(tuple(chosen), self.where)


def load_pairs(*references: str | Path) -> PairSet:
    """Pairs from `builtin:<name>`, JSON Lines files, or folders of them (read in name order), one after another.

    Raises:
        InputError: no such file, a line that is no valid pair, a duplicate pair_id, or a scenario in two domains;
            the message names file and line.
    """
    seen: dict[str, str] = {}
    home: dict[str, str] = {}
    pairs = []
    for where, pair in (row for each in references for row in read_rows(each, "pairs", ContrastPair)):
        if pair.pair_id in seen:
            raise InputError(
                f"pair_id {pair.pair_id!r} is already used at {seen[pair.pair_id]}", where=where, mend="rename one"
            )
        if home.setdefault(pair.scenario_id, pair.domain) != pair.domain:
            raise InputError(
                f"scenario {pair.scenario_id!r} stands in the domains {home[pair.scenario_id]!r} and {pair.domain!r}",
                where=where,
                mend="a scenario belongs to one domain; rename it",
            )
        seen[pair.pair_id] = where
        pairs.append(pair)
    where = " + ".join(str(r) for r in references)
    if not pairs:
        raise InputError("holds no pair", where=where, mend="one JSON object a line; see docs/pairs.md")
    return PairSet(tuple(pairs), where)


def load_neutral(reference: str | Path, limit: int | None = None) -> tuple[NeutralText, ...]:
    """Neutral texts from `builtin:<name>`, a JSON Lines file or a folder, the first `limit` of them.

    Raises:
        InputError: as `load_pairs`; also fewer than 8 texts.
    """
    seen: set[str] = set()
    texts = []
    for where, text in read_rows(reference, "neutral", NeutralText):
        if text.text_id in seen:
            raise InputError(f"text_id {text.text_id!r} is used twice", where=where, mend="rename one")
        seen.add(text.text_id)
        texts.append(text)
    texts = texts[:limit]
    if len(texts) < 8:
        raise InputError(
            f"{len(texts)} neutral texts are too few",
            where=str(reference),
            mend="give at least 8; 60 or more is better",
        )
    return tuple(texts)


@runtime_checkable
class Template(Protocol):
    """Renders a conversation up to where the answer starts."""

    @property
    def answer_prefix(self) -> str:
        """What stands between the prompt's text and an answer's first word."""
        ...

    @property
    def special_tokens(self) -> bool:
        """Whether the tokenizer adds its special tokens (BOS); False where the rendering already holds them."""
        ...

    def prompt(self, user: str, system: str = "") -> str:
        """The text before the answer."""
        ...


@dataclass(frozen=True, slots=True)
class PlainTemplate:
    """`User: …\\nAssistant:`, with the system text on a line before it where there is one."""

    answer_prefix: str = " "
    special_tokens: bool = True

    def prompt(self, user: str, system: str = "") -> str:
        """The text before the answer."""
        head = f"{system.strip()}\n" if system.strip() else ""
        return f"{head}User: {user.strip()}\nAssistant:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One text as the model sees it. Characters from `read_from` on are read (answer tokens of a response)."""

    kind: Kind
    text_id: str
    text: str
    group: str  # texts of a group share their beginning and ride in one packed row
    read_from: int = 0
    pair_id: str = ""
    scenario_id: str = ""
    domain: str = ""
    contrast: str = ""
    design: str = ""
    language: str = ""
    side: str = ""
    wording: int = 0
    special_tokens: bool = True


def render_texts(pairs: PairSet, neutral: Iterable[NeutralText], template: Template, *, pmi: bool) -> tuple[Text, ...]:
    """Every text of a study, rendered once, grouped so that texts that share a prompt stand together.

    A pair of role "response" gives two responses, with `pmi` two null-prompt responses (the same answers under an
    empty prompt) and, once a prompt, its prompt alone. A pair of role "system" or "user" gives two prompts.
    """
    texts: list[Text] = []
    prompts: set[tuple[str, str]] = set()
    nothing = template.prompt("")
    for pair in pairs.pairs:
        about: dict[str, Any] = {
            "pair_id": pair.pair_id,
            "scenario_id": pair.scenario_id,
            "domain": pair.domain,
            "contrast": pair.contrast,
            "design": pair.design,
            "language": pair.language,
            "wording": pair.paraphrase,
            "special_tokens": template.special_tokens,
        }
        sides = (("positive", pair.positive), ("negative", pair.negative))
        if pair.role != "response":
            for side, words in sides:
                asked = template.prompt(pair.prompt, words) if pair.role == "system" else template.prompt(words)
                texts.append(
                    Text(kind="prompt", text_id=f"{pair.pair_id}/{side}", text=asked, side=side, group=asked, **about)
                )
            continue
        asked = template.prompt(pair.prompt)
        if (pair.scenario_id, asked) not in prompts:
            prompts.add((pair.scenario_id, asked))
            texts.append(Text(kind="prompt", text_id=f"{pair.pair_id}/prompt", text=asked, group=asked, **about))
        for side, words in sides:
            answer = template.answer_prefix + words.strip()  # the space before an answer is read with its first token
            texts.append(
                Text(
                    kind="response",
                    text_id=f"{pair.pair_id}/{side}",
                    text=asked + answer,
                    side=side,
                    group=asked,
                    read_from=len(asked),
                    **about,
                )
            )
            if not pmi:
                continue
            texts.append(
                Text(
                    kind="null_prompt",
                    text_id=f"{pair.pair_id}/{side}/null",
                    text=nothing + answer,
                    side=side,
                    group=f"null:{pair.pair_id}",
                    read_from=len(nothing),
                    **about,
                )
            )
    for entry in neutral:
        texts.append(
            Text(
                kind="neutral",
                text_id=entry.text_id,
                text=entry.text,
                group=f"neutral:{entry.text_id}",
                language=entry.language,
            )
        )
    return tuple(texts)


def study_texts(study: Study, template: Template) -> tuple[PairSet, tuple[Text, ...]]:
    """The pairs a study selects and all its rendered texts.

    Raises:
        InputError: pairs or neutral texts that cannot be read, or none of the study's contrast.
    """
    settings = study.settings
    named = [settings.pairs] if isinstance(settings.pairs, str) else settings.pairs
    pairs = load_pairs(*(study.resolve(reference) for reference in named))
    pairs = pairs.select(settings.domains, settings.wordings, settings.max_scenarios)
    found = sorted({p.contrast for p in pairs.pairs if p.role == "response" and p.design == "contrast"})
    if settings.contrast not in found:
        raise InputError(
            f"no pair of two answers has the contrast {settings.contrast!r}",
            where=f"{study.where}, study.contrast",
            mend=f"contrasts in {pairs.where}: {', '.join(found) or 'none'}",
        )
    neutral = load_neutral(study.resolve(settings.neutral), settings.max_neutral)
    return pairs, render_texts(pairs, neutral, template, pmi=settings.pmi)


Row = TypeVar("Row", bound=BaseModel)


def read_rows(reference: str | Path, what: str, model: type[Row]) -> Iterator[tuple[str, Row]]:
    """(file and line, checked row) of every line of a JSON Lines file, a folder of them, or `builtin:<name>`.

    Raises:
        InputError: no such file, or a line that is no valid row; the message names file, line and key.
    """
    for name, text in _files(reference, what):
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"not valid JSON: {error.msg} at column {error.colno}", where=where, mend="one JSON object a line"
                ) from error
            try:
                yield where, model.model_validate(value)
            except ValidationError as error:
                raise _explain(error, where, model) from error


def _files(reference: str | Path, what: str) -> list[tuple[str, str]]:
    if isinstance(reference, str) and reference.startswith("builtin:"):
        folder = resources.files("activations") / "data" / reference.removeprefix("builtin:")
        if not folder.is_dir():
            known = sorted(f.name for f in (resources.files("activations") / "data").iterdir() if f.is_dir())
            raise InputError(
                "no such built-in text", where=reference, mend="built in: " + ", ".join(f"builtin:{k}" for k in known)
            )
        found = sorted((f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name)
        return [(f"{reference}/{f.name}", f.read_text(encoding="utf-8")) for f in found]
    path = Path(reference)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"this folder holds no .jsonl file of {what}", where=str(path), mend="see docs/pairs.md")
    read = []
    for file in files:
        try:
            read.append((str(file), file.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})", where=str(file), mend=f"give a JSON Lines file of {what}"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError("is not UTF-8 text", where=str(file), mend="save it as UTF-8") from error
    return read


def _explain(error: ValidationError, where: str, model: type[BaseModel]) -> InputError:
    first = error.errors()[0]
    key = ".".join(str(p) for p in first["loc"])
    where = f"{where}, key {key!r}" if key else where
    if first["type"] == "missing":
        return InputError(
            "missing key", where=where, mend=f"every line needs it; keys: {', '.join(model.model_fields)}"
        )
    if first["type"] == "extra_forbidden":
        return InputError("unknown key", where=where, mend=f"known keys: {', '.join(model.model_fields)}")
    if first["type"] in ("string_too_short", "string_pattern_mismatch"):
        return InputError("is empty", where=where, mend="give it some text")
    return InputError(first["msg"].removeprefix("Value error, "), where=where, mend=f"found: {first['input']!r}"[:200])
