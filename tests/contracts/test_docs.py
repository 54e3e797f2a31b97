"""The documentation says what the program does: generated pages are current, every key is listed, examples run."""

import json
import re
from pathlib import Path

import pytest

from activations.pairs import ContrastPair, load_neutral, load_pairs
from activations.store import NUMBER_COLUMNS, POSITIONS, TEXT_COLUMNS
from activations.study import StudySettings, _CheckpointTable, read_study
from scripts.write_docs import PAGES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_current(page):
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == PAGES[page](), f"run: python -m scripts.write_docs ({page} is out of date)"


def test_every_study_key_is_documented():
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    for key in [*StudySettings.model_fields, *_CheckpointTable.model_fields]:
        assert f"`{key}`" in page, key


def test_every_pair_key_and_store_dataset_is_documented():
    pairs = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8")
    for key in ContrastPair.model_fields:
        assert f"`{key}`" in pairs, key
    store = (ROOT / "docs" / "file-format.md").read_text(encoding="utf-8")
    for key in (*TEXT_COLUMNS, *NUMBER_COLUMNS, "residual", "logprob", "token_norm", *POSITIONS):
        assert f"`{key}`" in store, key
    for positions in POSITIONS.values():
        for position in positions:
            assert f"`{position}`" in store


def test_the_studies_that_ship_are_valid():
    for path in sorted((ROOT / "studies").rglob("study.toml")):
        study = read_study(path)
        given = study.settings.pairs
        assert load_pairs(*(study.resolve(p) for p in ([given] if isinstance(given, str) else given))).pairs


def test_the_page_on_another_contrast_shows_the_study_that_ships():
    page = (ROOT / "docs" / "another-contrast.md").read_text(encoding="utf-8")
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert shown == [(ROOT / "studies/patience/study.toml").read_text(encoding="utf-8")]
    pairs = load_pairs(ROOT / "studies/patience/pairs.jsonl").pairs
    quoted = re.findall(r"^> \*\*(?:\+|−)\*\* … (.*?)\\?$", page, re.MULTILINE)
    assert len(quoted) == 2
    assert any(p.positive.endswith(quoted[0]) and p.negative.endswith(quoted[1]) for p in pairs)


def test_the_built_in_texts_load_and_are_whole():
    pairs = load_pairs("builtin:compassion")
    counts = {d: len({p.scenario_id for p in pairs.pairs if p.domain == d}) for d in pairs.domains}
    assert len(counts) == 12
    assert min(counts.values()) >= 30
    assert len(load_neutral("builtin:neutral")) >= 200


def test_what_the_control_direction_was_made_of_shares_no_scenario_with_the_pairs():
    """Five words in a row shared with a prompt would be a scenario the control has seen."""
    pairs = load_pairs("builtin:compassion")

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    ours = [grams(p.prompt) for p in pairs.pairs]
    for line in (ROOT / "studies/demo/controls/pairs.jsonl").read_text(encoding="utf-8").splitlines():
        theirs = grams(json.loads(line)["prompt"])
        for one in ours:
            assert len(one & theirs) <= 0.1 * len(one | theirs)


def test_readme_names_every_module_and_its_links_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for package in ("activations", "probes", "analysis", "scripts"):
        for path in (ROOT / package).glob("*.py"):
            if not path.name.startswith("_"):
                assert re.search(rf"\b{path.stem}\b", readme), path
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_python_blocks_of_the_probes_page_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "probes.md").read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "probes.md", "exec"), space)
    assert "mass-mean: AUROC" in capsys.readouterr().out


def test_python_blocks_of_the_readme_run_on_a_run_folder(tmp_path, monkeypatch):
    """The README's Python is run as it stands, on a small run folder made here."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    import numpy as np

    from probes.direction import Direction

    vector = np.random.default_rng(0).normal(size=576)
    about = {"position": "response_mean", "method": "mass-mean", "contrast": "compassion", "domain": "pooled"}
    direction = Direction(
        vector=vector, site="blocks.14.hook_resid_post", size=1.0, tau=2.0, scenarios="", checkpoint="", **about
    )
    monkeypatch.chdir(tmp_path)
    direction.save(Path("u.safetensors"))
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"residuals": np.ones((3, 576))})
