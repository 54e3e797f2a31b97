"""The order of the house: who may import whom, and which library only one room may touch."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = ("activations", "probes", "analysis", "scripts")
ALLOWED = {
    "transformer_lens": {"activations/model.py"},
    "h5py": {"activations/store.py"},
    "matplotlib": {"analysis/figures.py"},
}
FILES = [p for package in ORDER for p in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    later = set(ORDER[ORDER.index(package) + 1 :])
    assert not imports(path) & later


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_library_stays_in_its_room(path):
    here = path.relative_to(ROOT).as_posix()
    if here.startswith("scripts/"):
        return
    for library, rooms in ALLOWED.items():
        assert library not in imports(path) or here in rooms
    if here.startswith("analysis/"):
        assert "torch" not in imports(path)


def test_the_check_above_can_fail(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from transformer_lens.hook_points import HookPoint\n    import torch.nn\n")
    assert imports(path) == {"transformer_lens", "torch"}


def test_no_file_names_a_machine_or_a_registry():
    pattern = re.compile(r"/(work|root|farm|home/[a-z])/|py" + r"pi\.org|pythonhosted|npmjs", re.IGNORECASE)
    for path in [*FILES, *ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("scripts/*")]:
        if path.is_file():
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_importing_the_packages_loads_no_model_library():
    import subprocess
    import sys

    code = (
        "import activations, probes, analysis, activations.study, activations.pairs, sys; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
