"""compare: two checkpoints without a study file, on the built-in pairs."""

import re
from pathlib import Path
from typing import Any

from activations.errors import InputError
from activations.study import Study, build_study


def compare_study(parent: str, child: str, settings: dict[str, Any]) -> Study:
    """A two-checkpoint study of PARENT and CHILD.

    A checkpoint is a folder (weights, or for the child also an adapter on the parent), `embedded:NAME`, or a hub id
    with an optional `@revision`.

    Raises:
        InputError: something that is none of these.
    """
    first = {"name": "parent", "stage": "base", "source": _source(parent, "PARENT")}
    second: dict[str, Any] = {"name": "child", "stage": "sft", "parent": "parent"}
    folder = Path(child)
    if (folder / "adapter_config.json").is_file():
        second["adapter"] = str(folder.resolve())
    else:
        second["source"] = _source(child, "CHILD")
    name = f"compare-{_short(parent)}-{_short(child)}"[:100]
    data = {"study": {"name": name, **settings}, "checkpoint": [first, second]}
    return build_study(data, where="compare", folder=Path.cwd())


def _source(given: str, which: str) -> dict[str, str]:
    if given.startswith("embedded:"):
        return {"embedded": given.removeprefix("embedded:")}
    folder = Path(given)
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file():
            raise InputError("is an adapter, which needs a parent", where=f"{which} {given}", mend="give it as CHILD")
        return {"path": str(folder.resolve())}
    identifier, _, revision = given.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", identifier) or given.startswith((".", "/", "~")):
        raise InputError(
            "is no folder, no `embedded:NAME` and no hub id",
            where=f"{which} {given}",
            mend="give a folder with config.json, an adapter folder, embedded:smollm2-135m-instruct, or org/name",
        )
    return {"hub": identifier} | ({"revision": revision} if revision else {})


def _short(given: str) -> str:
    last = Path(given.removeprefix("embedded:").split("@")[0]).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"
