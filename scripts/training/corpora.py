"""Training texts: public files found or fetched by content, written ones read, drawn by seed, matched in length."""

import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import linear_sum_assignment

from activations.artifact import content_hash, writing
from activations.embedded import cache_folder
from activations.errors import InputError
from activations.pairs import PlainTemplate, read_rows
from scripts.training.recipe import Corpus, Format, PublicFile, Recipe, Stage

PUBLIC = "https://raw.githubusercontent.com/{repository}/{commit}/{file}"
GRAM, SHARED = 5, 3  # a written text repeats another where it shares this many runs of this many words


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Document(_Row):
    """One line of a written corpus of documents."""

    doc_id: str
    genre: str = ""
    text: Annotated[str, Field(min_length=1)]


class Answer(_Row):
    """One line of a written corpus of answers: a user message and the answer to learn."""

    example_id: str
    domain: str = ""
    prompt: Annotated[str, Field(min_length=1)]
    response: Annotated[str, Field(min_length=1)]
    source: str = ""
    license: str = ""


class Question(_Row):
    """One line of a written corpus of questions whose answer can be checked."""

    question_id: str
    prompt: Annotated[str, Field(min_length=1)]
    answers: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training text. `response` is empty for documents; `check` is what a reward needs to know."""

    prompt: str
    response: str = ""
    check: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """All of it."""
        return f"{self.prompt} {self.response}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What a stage trains on, and what it is judged by, never overlapping."""

    train: list[Example]
    held_out: list[Example]
    identity: str


def draw(recipe: Recipe, stage: Stage, home: Path, data: Path | None, tokenizer: Any) -> Drawn:
    """The examples of a stage: held out by content (the same for every seed), then drawn by the stage's seed.

    Args:
        home: the recipe's folder.
        data: a folder with the public files; without one they are fetched.
        tokenizer: its lengths bound the examples.

    Raises:
        InputError: data missing, faulty, too few, or repeating texts they must stand apart from.
    """
    corpus = recipe.corpus_named(stage.corpus)
    held, kept = _split(_within(_read(corpus, stage, home, data), corpus, tokenizer), stage)
    rng = np.random.default_rng(stage.seed)
    if corpus.match is not None:
        other = recipe.corpus_named(corpus.match)
        _, model = _split(_within(_read(other, stage, home, data), other, tokenizer), stage)
        wanted = _take(model, stage, rng)
        kept = _matched(wanted, kept, tokenizer, f"corpus {corpus.name!r}")
    else:
        kept = _take(kept, stage, rng)
    if corpus.written is not None:
        _stand_apart(kept + held, recipe, home, home / corpus.written)
    identity = content_hash([[e.prompt, e.response, list(e.check)] for e in kept + held])
    return Drawn(train=kept, held_out=held, identity=identity)


def lengths(example: Example, tokenizer: Any) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    return len(tokenizer(example.prompt).input_ids), len(tokenizer(example.response).input_ids)


def rendered(example: Example) -> dict[str, str]:
    """An example as trl reads it: a whole text, or a prompt and its completion, in the plain template."""
    if not example.response and not example.check:
        return {"text": example.prompt}
    template = PlainTemplate()
    row = {"prompt": template.prompt(example.prompt)}
    return row | ({"completion": template.answer_prefix + example.response} if example.response else {})


def _take(pool: list[Example], stage: Stage, rng: np.random.Generator) -> list[Example]:
    wanted = stage.examples or len(pool)
    if wanted > len(pool):
        raise InputError(
            f"{wanted} examples wanted, {len(pool)} there", where=f"stage {stage.name!r}", mend="lower `examples`"
        )
    return [pool[i] for i in rng.permutation(len(pool))[:wanted]]


def _split(pool: list[Example], stage: Stage) -> tuple[list[Example], list[Example]]:
    """Held out by the hash of its prompt, so that neither seed nor order nor a longer corpus moves an example over."""
    order = sorted(pool, key=lambda e: hashlib.sha256(e.prompt.encode()).digest())
    if len(order) <= stage.held_out:
        raise InputError(
            f"{len(order)} examples, {stage.held_out} of them held out", where=f"stage {stage.name!r}", mend="give more"
        )
    return order[: stage.held_out], order[stage.held_out :]


def _within(pool: list[Example], corpus: Corpus, tokenizer: Any) -> list[Example]:
    if not any(e.response for e in pool):
        return pool
    kept = []
    for example in pool:
        prompt, answer = lengths(example, tokenizer)
        if prompt <= corpus.max_prompt and corpus.min_answer <= answer <= corpus.max_answer:
            kept.append(example)
    return kept


def _matched(wanted: list[Example], pool: list[Example], tokenizer: Any, where: str) -> list[Example]:
    """For each wanted example another of the pool, each used once, so that lengths differ least in sum."""
    if len(pool) < len(wanted):
        raise InputError(f"{len(wanted)} wanted, {len(pool)} there", where=where, mend="lower `examples`")
    have = np.asarray([lengths(e, tokenizer) for e in pool])
    want = np.asarray([lengths(e, tokenizer) for e in wanted])
    cost = np.abs(want[:, None] - have[None]).sum(axis=-1)
    rows, columns = linear_sum_assignment(cost)
    return [pool[c] for _, c in sorted(zip(rows, columns, strict=True))]


def _read(corpus: Corpus, stage: Stage, home: Path, data: Path | None) -> list[Example]:
    if corpus.written is not None:
        return _written(home / corpus.written, stage)
    examples: dict[str, Example] = {}
    for public in corpus.public:
        path = _find(public, data)
        rows = _PARSERS[public.format](path.read_text(encoding="utf-8"))
        for example in rows:
            if example.prompt.strip() and example.response.strip():
                examples.setdefault(example.prompt, example)
    found = list(examples.values())
    if stage.kind == "reward":
        found = [e for e in found if e.check]
    return found


def _written(path: Path, stage: Stage) -> list[Example]:
    if stage.kind == "documents":
        return [Example(prompt=d.text) for _, d in read_rows(path, "documents", Document)]
    if stage.kind == "answers":
        return [Example(prompt=a.prompt, response=a.response) for _, a in read_rows(path, "answers", Answer)]
    return [Example(prompt=q.prompt, check=tuple(q.answers)) for _, q in read_rows(path, "questions", Question)]


def _find(public: PublicFile, data: Path | None) -> Path:
    """A public file in the folder given, in the cache, or fetched into it; never a file of other content."""
    name = Path(public.file).name
    for path in sorted(data.rglob(name)) if data is not None else []:
        if _sha256(path.read_bytes()) == public.sha256:
            return path
    kept = cache_folder() / "corpora" / f"{public.sha256[:12]}-{name}"
    if kept.is_file() and _sha256(kept.read_bytes()) == public.sha256:
        return kept
    url = PUBLIC.format(repository=public.repository, commit=public.commit, file=public.file)
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            content = reply.read()
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"cannot be fetched ({getattr(error, 'reason', error)})",
            where=url,
            mend=f"fetch {name} yourself; --data FOLDER",
        ) from error
    if _sha256(content) != public.sha256:
        raise InputError(
            "is not the file this recipe was written for (sha256 differs)", where=url, mend="--data FOLDER"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    with writing(kept) as scratch:
        scratch.write_bytes(content)
    return kept


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _self_instruct(text: str) -> list[Example]:
    return [
        Example(
            prompt=_with_input(row["instruction"], row["instances"][0]["input"]), response=row["instances"][0]["output"]
        )
        for row in map(json.loads, text.splitlines())
    ]


def _dolly(text: str) -> list[Example]:
    rows = map(json.loads, text.splitlines())
    pattern = re.compile(r"### Instruction:\n(.*?)\n\n### Response:", re.DOTALL)
    found = []
    for row in rows:
        match = pattern.search(row["prompt"])
        if match:
            prompt = match.group(1).replace("\n\n### Input:", "")
            found.append(Example(prompt=prompt, response=row["answer"].replace("###eos_token###", "").strip()))
    return found


def _instruct(text: str) -> list[Example]:
    return [
        Example(prompt=_with_input(row["instruction"], row["input"]), response=row["response"].strip())
        for row in json.loads(text)
    ]


def _mbpp(text: str) -> list[Example]:
    rows = json.loads(text)
    rows = rows[0] if isinstance(rows[0], list) else rows
    return [
        Example(
            prompt=f"{row['prompt']}\nIt must pass: {row['test_list'][0]}",
            response=row["code"].strip().replace("\r\n", "\n"),
            check=(*row["test_imports"], *row["test_list"]),
        )
        for row in rows
    ]


def _with_input(instruction: str, given: str) -> str:
    return f"{instruction}\n{given}".strip() if given.strip() else instruction.strip()


_PARSERS: dict[Format, Callable[[str], list[Example]]] = {
    "self-instruct": _self_instruct,
    "dolly": _dolly,
    "instruct": _instruct,
    "mbpp": _mbpp,
}


def _stand_apart(examples: list[Example], recipe: Recipe, home: Path, path: Path) -> None:
    """Refuse written texts that share runs of words with the pairs a study measures on."""
    texts = [t for reference in recipe.apart_from for t in _texts(reference, home)]
    if not texts:
        return
    known = {gram for text in texts for gram in _grams(text)}
    for example in examples:
        common = sorted(_grams(example.words) & known)
        if len(common) >= SHARED:
            raise InputError(
                f"repeats pairs it must stand apart from: {' '.join(common[0])!r} in {example.prompt[:60]!r}",
                where=str(path),
                mend="write another text",
            )


def _texts(reference: str, home: Path) -> list[str]:
    from activations.pairs import load_pairs

    place = reference if reference.startswith("builtin:") else home / reference
    return [t for pair in load_pairs(place).pairs for t in (pair.prompt, pair.positive, pair.negative)]


def _grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z']+", text.lower())
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}
