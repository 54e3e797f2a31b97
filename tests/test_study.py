"""study.toml and lineages: what is wrong is named by file and key, with the mend."""

from pathlib import Path

import pytest

from activations.errors import InputError
from activations.lineage import Checkpoint, Edit, Lineage, Source
from activations.study import read_study

GOOD = """
[study]
name = "demo"
smallest_effect = { retention = 0.25 }

[[checkpoint]]
name = "base"
stage = "base"
source = { embedded = "smollm2-135m-instruct" }

[[checkpoint]]
name = "same"
stage = "control"
parent = "base"
edit = { identity = true }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_study(written(folder, text))
    return str(caught.value)


def test_a_good_study_reads_with_its_defaults(tmp_path):
    study = read_study(written(tmp_path, GOOD))
    assert [c.name for c in study.lineage.checkpoints] == ["base", "same"]
    assert study.settings.smallest_effect.retention == 0.25
    assert study.settings.layer_band == (0.35, 0.65)
    assert read_study(tmp_path).name == "demo"  # the folder does as well


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "demo"', 'name = "demo"\nalfas = [1.0]', ["study.alfas: unknown key", "did you mean 'alphas'?"]),
        ('stage = "base"', 'stage = "bass"', ["checkpoint.base.stage", "'base', 'midtrain'"]),
        ('name = "demo"', "", ["study.name: missing key"]),
        ('parent = "base"', 'parent = "bsae"', ["checkpoint 'same', parent: unknown checkpoint 'bsae'", "base, same"]),
        ('parent = "base"', "", ["checkpoint 'same', edit: has no parent"]),
        ('parent = "base"', 'parent = "same"', ["form a cycle: same"]),
        ("identity = true", "attenuate = 0.5", ["checkpoint.same.edit", "attenuate needs a direction file"]),
        (
            "identity = true",
            'attenuate = 0.5, direction = "u.safetensors"',
            ["edit.direction: no file", "u.safetensors"],
        ),
        ("edit = { identity = true }", 'adapter = "nowhere"', ["adapter: no adapter at", "adapter_config.json"]),
        ("edit = { identity = true }", "", ["needs exactly one of source, adapter, edit; found none"]),
        ('embedded = "smollm2-135m-instruct"', 'path = "nowhere"', ["source.path: no model at", "config.json"]),
        ('embedded = "smollm2-135m-instruct"', 'embedded = "a", hub = "b/c"', ["exactly one of embedded, hub, path"]),
        ('name = "demo"', 'name = "../up"', ["study.name", "pattern"]),
        ('name = "demo"', 'name = "demo"\nlayer_band = [0.7, 0.3]', ["layer_band needs 0 <= low < high <= 1"]),
        ('name = "demo"', 'name = "demo"\nalphas = [0.0, 0.1]', ["alphas must be distinct and leave out 0"]),
        ('name = "demo"', 'name = "demo"\nseed = "one"', ["study.seed", "integer"]),
        ('name = "demo"', 'name = "demo"\ntemplate = { from = "sfft" }', ["template.from: unknown checkpoint 'sfft'"]),
        ('name = "demo"', 'name = "demo"\nsteer_checkpoints = ["x"]', ["steer_checkpoints: unknown checkpoint 'x'"]),
        ("[study]", "[study", ["not valid TOML", "line 2"]),
    ],
)
def test_what_is_wrong_is_named_with_its_mend(tmp_path, old, new, said):
    assert old in GOOD
    message = refusal(tmp_path, GOOD.replace(old, new, 1))
    assert "study.toml" in message
    for words in said:
        assert words in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_study(tmp_path / "none.toml")


def source(name: str, parent: str | None = None) -> Checkpoint:
    return Checkpoint(name=name, stage="base", parent=parent, source=Source(embedded="x"))


def test_two_roots_are_refused_by_name():
    with pytest.raises(InputError, match=r"2 checkpoints have no parent \(a, b\)"):
        Lineage((source("a"), source("b")))


def test_duplicate_names_are_refused():
    with pytest.raises(InputError, match="this name is taken"):
        Lineage((source("a"), source("a", "a")))


def test_checkpoints_come_parents_first_whatever_their_order():
    edit = Edit(kind="identity")
    child = Checkpoint(name="c", stage="control", parent="b", edit=edit)
    lineage = Lineage((child, source("b", "a"), source("a")))
    assert [c.name for c in lineage.checkpoints] == ["a", "b", "c"]
    assert [(p.name, c.name) for p, c in lineage.edges] == [("a", "b"), ("b", "c")]
    assert [c.name for c in lineage.chain("c")] == ["b", "c"]
    assert lineage.root.name == "a"
