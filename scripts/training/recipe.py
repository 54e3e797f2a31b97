"""A lineage recipe, read strictly: corpora (public files by id, or written beside the recipe) and stages in order."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from activations.errors import InputError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Format = Literal["self-instruct", "dolly", "instruct", "mbpp"]
Kind = Literal["documents", "answers", "reward"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PublicFile(_Strict):
    """One file of a public repository, by commit and content. It is never committed here."""

    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    licence: str
    format: Format


class Corpus(_Strict):
    """Training texts. `written` is JSON Lines beside the recipe; `public` are files of public repositories.

    Of prompt-and-answer corpora only examples within the token limits are kept. `match` names another corpus: an
    example is then drawn for each of the other's, so that prompt and answer lengths agree.
    """

    name: Name
    written: str | None = None
    public: list[PublicFile] = []
    max_prompt: int = Field(default=150, ge=1)
    min_answer: int = Field(default=1, ge=1)
    max_answer: int = Field(default=120, ge=1)
    match: Name | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "Corpus":
        if (self.written is None) == (not self.public):
            raise ValueError("a corpus needs exactly one of written, public")
        return self


class Stage(_Strict):
    """One training stage: a LoRA on its merged parent.

    documents: every token of a text is learned. answers: the answer's tokens only. reward: GRPO (arXiv:2402.03300)
    with the verifiable reward `reward`, `group` sampled completions for each of `batch` prompts a step.
    """

    name: Name
    kind: Kind
    parent: str
    corpus: Name
    seed: int = Field(default=0, ge=0)
    examples: int | None = Field(default=None, ge=1)
    held_out: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    rank: int = Field(ge=1)
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    reward: Literal["brief-and-right", "code-that-runs"] | None = None
    group: int = Field(default=4, ge=2)
    max_new_tokens: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _dose(self) -> "Stage":
        if (self.kind == "reward") != (self.reward is not None):
            raise ValueError("reward stages, and only they, name a reward")
        if (self.steps is None) == (self.kind == "reward") or (self.epochs is None) != (self.kind == "reward"):
            raise ValueError("reward stages are as long as `steps` says, the others as `epochs` says")
        return self


class Contrast(_Strict):
    """Stages against each other: the sum of `plus` less the sum of `minus`, of what each did to the margin."""

    says: str
    plus: list[Name] = Field(min_length=1)
    minus: list[Name] = []


class Base(_Strict):
    """The root's weights: an embedded model's name, or a folder beside the recipe."""

    embedded: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "Base":
        if (self.embedded is None) == (self.path is None):
            raise ValueError("base needs exactly one of embedded, path")
        return self


class Recipe(_Strict):
    """A recipe file.

    autocast: matrix products in this type while training (weights, gradients and optimiser stay float32).
    max_perplexity_ratio: how much a stage may raise neutral perplexity before its receipt says it failed.
    apart_from: pair files and folders whose texts the written corpora must not repeat.
    manipulation_pairs: pairs outside every study, whose margin each receipt reports.
    contrast: stages whose changes of that margin are set against each other, pair by pair.
    """

    base: Base
    autocast: Literal["float32", "bfloat16"] = "float32"
    max_perplexity_ratio: float = Field(default=1.15, gt=1)
    apart_from: list[str] = []
    manipulation_pairs: str | None = None
    neutral: str = "builtin:neutral"
    corpus: list[Corpus] = Field(min_length=1)
    stage: list[Stage] = Field(min_length=1)
    contrast: list[Contrast] = []

    def corpus_named(self, name: str) -> Corpus:
        """The corpus of this name."""
        return next(c for c in self.corpus if c.name == name)

    def chain(self, stage: Stage) -> list[Stage]:
        """The stages whose adapters lie between the base and this stage, in order."""
        by_name = {s.name: s for s in self.stage}
        chain: list[Stage] = []
        while stage.parent != "base":
            stage = by_name[stage.parent]
            chain.insert(0, stage)
        return chain


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        InputError: no such file, no TOML, an unknown or wrong key, or a stage whose parent or corpus is not there.
    """
    try:
        recipe = Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), mend="give a recipe file") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", where=str(path), mend="mend the line named above") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(message, where=f"{path}, {key}", mend="see docs/lineage.md") from error
    corpora = {c.name for c in recipe.corpus}
    for corpus in recipe.corpus:
        if corpus.match is not None and corpus.match not in corpora - {corpus.name}:
            raise InputError(
                f"unknown corpus {corpus.match!r}", where=f"{path}, corpus {corpus.name!r}, match", mend="name another"
            )
    seen = {"base"}
    for stage in recipe.stage:
        where = f"{path}, stage {stage.name!r}"
        if stage.parent not in seen:
            raise InputError(f"unknown parent {stage.parent!r}", where=where, mend="name an earlier stage, or base")
        if stage.name in seen:
            raise InputError("this name is taken", where=where, mend="rename one")
        if stage.corpus not in corpora:
            raise InputError(f"unknown corpus {stage.corpus!r}", where=where, mend=f"corpora: {', '.join(corpora)}")
        seen.add(stage.name)
    return recipe
