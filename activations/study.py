"""study.toml, read strictly: an unknown key, a wrong type or a missing file is refused by name."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from activations.errors import InputError
from activations.lineage import Adapter, Checkpoint, Edit, Lineage, Source, Stage

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Share = Annotated[float, Field(gt=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SmallestEffect(_Strict):
    """The smallest change that matters, per quantity; fixed before the data are seen (METHOD §5)."""

    retention: Share = 0.20
    margin_sd: Share = 0.2
    position_sd: Share = 0.2


class TemplateFrom(_Strict):
    """Render with the chat template of the named checkpoint, for the whole lineage."""

    from_: Name = Field(alias="from")


class StudySettings(_Strict):
    """The [study] table: everything that changes a number."""

    name: Name
    pairs: str | Annotated[list[str], Field(min_length=1)] = "builtin:compassion"
    contrast: str = "compassion"
    neutral: str = "builtin:neutral"
    domains: list[str] = []
    wordings: int | None = Field(default=None, ge=1)
    max_scenarios: int | None = Field(default=None, ge=1)
    max_neutral: int | None = Field(default=None, ge=8)
    template: Literal["plain"] | TemplateFrom = "plain"
    dtype: Literal["float32", "bfloat16"] = "float32"
    layer_band: tuple[float, float] = Field(default=(0.35, 0.65), strict=False)
    smallest_effect: SmallestEffect = SmallestEffect()
    alphas: list[float] = [-0.1, -0.05, -0.02, 0.02, 0.05, 0.1]
    steer_scenarios: int = Field(default=10, ge=1)
    steer_checkpoints: list[Name] = []
    system_prompt: str = "You are a warm and compassionate assistant. Answer with care for whoever is affected."
    steer_controls: int = Field(default=999, ge=99)
    sample_prompts: int = Field(default=5, ge=0)
    sample_tokens: int = Field(default=48, ge=1)
    pmi: bool = True
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _band_is_ordered(self) -> "StudySettings":
        low, high = self.layer_band
        if not 0 <= low < high <= 1:
            raise ValueError("layer_band needs 0 <= low < high <= 1, shares of depth")
        if 0.0 in self.alphas or len(set(self.alphas)) != len(self.alphas):
            raise ValueError("alphas must be distinct and leave out 0, which is always measured")
        return self


class _SourceTable(_Strict):
    embedded: str | None = None
    hub: str | None = None
    revision: str | None = None
    subfolder: str = ""
    path: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "_SourceTable":
        if sum(x is not None for x in (self.embedded, self.hub, self.path)) != 1:
            raise ValueError("source needs exactly one of embedded, hub, path")
        return self


class _EditTable(_Strict):
    identity: Literal[True] | None = None
    round: Literal["bfloat16", "int8"] | None = None
    attenuate: Share | None = None
    direction: str | None = None
    rotate: float | None = Field(default=None, gt=0, le=180, strict=False)

    @model_validator(mode="after")
    def _one_kind(self) -> "_EditTable":
        if sum(x is not None for x in (self.identity, self.round, self.attenuate, self.rotate)) != 1:
            raise ValueError(
                "edit needs exactly one of identity = true, round, attenuate = <share>, rotate = <degrees>"
            )
        if (self.attenuate is None) != (self.direction is None):
            raise ValueError("attenuate needs a direction file, and only attenuate takes one")
        return self


class _CheckpointTable(_Strict):
    name: Name
    stage: Stage
    parent: Name | None = None
    source: _SourceTable | None = None
    adapter: str | None = None
    scale: float = 1.0
    edit: _EditTable | None = None
    data_domain: str = ""
    seed: int | None = None


class _StudyFile(_Strict):
    study: StudySettings
    checkpoint: list[_CheckpointTable] = Field(min_length=1)


class Study(BaseModel):
    """A study: its settings and its lineage, with every path resolved against the study file's folder."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    settings: StudySettings
    lineage: Lineage
    where: str
    folder: Path

    @property
    def name(self) -> str:
        """The study's name, and its run folder's."""
        return self.settings.name

    def resolve(self, reference: str) -> str | Path:
        """`builtin:<name>` as it is; anything else as a path against the study file's folder."""
        return reference if reference.startswith("builtin:") else self.folder / reference


def read_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        InputError: the file is missing or no TOML, a key is unknown or wrong, or the lineage is not a tree;
            the message names the file and the key.
    """
    if path.is_dir():
        path = path / "study.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), mend="give the path of a study.toml"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", where=str(path), mend="save it as UTF-8") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", where=str(path), mend="mend the line named above") from error
    return build_study(data, where=str(path), folder=path.parent)


def build_study(data: dict[str, Any], *, where: str, folder: Path) -> Study:
    """A study from the same tables a study.toml holds; `where` is what errors call them, `folder` anchors paths."""
    try:
        parsed = _StudyFile.model_validate(data)
    except ValidationError as error:
        raise _explain(error, data, where) from error
    checkpoints = tuple(_checkpoint(table, folder, where) for table in parsed.checkpoint)
    lineage = Lineage(checkpoints, where)
    for name in parsed.study.steer_checkpoints:
        if name not in lineage.by_name:
            raise InputError(
                f"unknown checkpoint {name!r}",
                where=f"{where}, study.steer_checkpoints",
                mend=f"known checkpoints: {', '.join(lineage.by_name)}",
            )
    template = parsed.study.template
    if isinstance(template, TemplateFrom) and template.from_ not in lineage.by_name:
        raise InputError(
            f"unknown checkpoint {template.from_!r}",
            where=f"{where}, study.template.from",
            mend=f"known checkpoints: {', '.join(lineage.by_name)}",
        )
    return Study(settings=parsed.study, lineage=lineage, where=where, folder=folder)


def _checkpoint(table: _CheckpointTable, folder: Path, where: str) -> Checkpoint:
    key = f"{where}, checkpoint {table.name!r}"
    source = adapter = edit = None
    if table.source is not None:
        given = table.source
        path = folder / given.path if given.path is not None else None
        if path is not None and not (path / "config.json").is_file():
            raise InputError(
                f"no model at {path} (no config.json there)",
                where=f"{key}, source.path",
                mend="give a folder with config.json, tokenizer and safetensors weights",
            )
        source = Source(
            embedded=given.embedded, hub=given.hub, revision=given.revision, subfolder=given.subfolder, path=path
        )
    if table.adapter is not None:
        adapter = Adapter(path=folder / table.adapter, scale=table.scale)
        for needed in ("adapter_config.json", "adapter_model.safetensors"):
            if not (adapter.path / needed).is_file():
                raise InputError(
                    f"no adapter at {adapter.path} (no {needed} there)",
                    where=f"{key}, adapter",
                    mend="give a peft LoRA folder saved as safetensors; pickled weights are not read",
                )
    if table.edit is not None:
        direction = folder / table.edit.direction if table.edit.direction is not None else None
        if direction is not None and not direction.is_file():
            raise InputError(
                f"no file {direction}",
                where=f"{key}, edit.direction",
                mend="fit one with `compassion train-probes` on scenarios outside the study",
            )
        change = table.edit
        if change.round is not None:
            edit = Edit(kind="round", to=change.round)
        elif change.rotate is not None:
            edit = Edit(kind="rotate", amount=change.rotate)
        elif change.attenuate is not None:
            edit = Edit(kind="attenuate", amount=change.attenuate, direction=direction)
        else:
            edit = Edit(kind="identity")
    return Checkpoint(
        name=table.name,
        stage=table.stage,
        parent=table.parent,
        source=source,
        adapter=adapter,
        edit=edit,
        data_domain=table.data_domain,
        seed=table.seed,
    )


def _explain(error: ValidationError, data: dict[str, Any], where: str) -> InputError:
    first = error.errors()[0]
    location = [p for p in first["loc"] if p not in ("literal['plain']", "TemplateFrom")]
    key = ".".join(_step(data, location[:i], p) for i, p in enumerate(location))
    if first["type"] == "extra_forbidden":
        known = _known_keys(location)
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        return InputError("unknown key", where=f"{where}, {key}", mend=f"{guess}known keys: {', '.join(known)}")
    if first["type"] == "missing":
        return InputError("missing key", where=f"{where}, {key}", mend="add it; see docs/study.md")
    message = first["msg"].removeprefix("Value error, ")
    return InputError(message, where=f"{where}, {key}", mend=f"found: {first['input']!r}"[:200])


def _step(data: Any, before: list[Any], part: Any) -> str:
    if not isinstance(part, int):
        return str(part)
    for step in before:
        data = data[step]
    entry = data[part] if isinstance(data, list) else {}
    return str(entry.get("name", part)) if isinstance(entry, dict) else str(part)


def _known_keys(location: list[Any]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "study": StudySettings,
        "checkpoint": _CheckpointTable,
        "source": _SourceTable,
        "edit": _EditTable,
        "smallest_effect": SmallestEffect,
        "template": TemplateFrom,
    }
    for part in reversed(location[:-1]):
        if part in tables:
            return [f.alias or name for name, f in tables[str(part)].model_fields.items()]
    return list(_StudyFile.model_fields)
