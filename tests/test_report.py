"""The report picks cells and computes nothing: what it shows is what the tables hold, in every form it takes."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from analysis import maps, overview
from analysis.panels import Frame, glyph
from analysis.report import write_report
from analysis.results import SCHEMA, Results, command, schema_text
from analysis.side_by_side import write_comparison
from analysis.tables import read_table, write_table
from benchmarks.report import make
from scripts import cli

SMALLEST = {"retention": 0.2, "margin_sd": 0.2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    make(folder, checkpoints=4, domains=["grief", "a | b"], layers=6)
    write_report(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def change(run: Path, name: str, **columns: object) -> None:
    write_table(run / "tables", name, read_table(run / "tables", name).assign(**columns))


def test_every_cell_of_the_matrix_is_a_cell_of_the_verdict_table(made):
    verdicts = read_table(made / "tables", "verdicts")
    grid = overview.matrix(verdicts, SMALLEST)
    assert grid["domains"] == ["pooled", "grief", "a | b"]
    found = {(c["parent"], c["child"], c["domain"]): c for c in overview.cells(grid)}
    assert len(found) == len(verdicts) == 9
    for row in verdicts.itertuples():
        cell = found[row.parent, row.child, row.domain]
        assert (cell["verdict"], cell["retention"], cell["retention_low"]) == (
            row.verdict,
            row.retention,
            row.retention_low,
        )
    assert sum(c["n"] for c in overview.counts(grid)) == 9


def test_a_verdict_about_behaviour_alone_shows_the_margin_at_a_glance(run):
    change(run, "verdicts", verdict="BEHAVIOURAL DECLINE", gates_failed="", retention=1.01, delta_margin=-0.42)
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    glance = page[page.index('<table class="glance">') : page.index("</table>")]
    assert glance.count("▼ B −0.42") == 9
    change(run, "verdicts", verdict="PRESERVED")
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page[page.index('<table class="glance">') : page.index("</table>")].count("= 1.01") == 9


def test_changes_come_worst_first_and_refusals_are_counted_not_hidden(made):
    verdicts = read_table(made / "tables", "verdicts").iloc[:5].copy()
    verdicts["verdict"] = ["PRESERVED", "STRENGTHENED", "ERODED", "NO VERDICT", "BEHAVIOURAL DECLINE"]
    verdicts["gates_failed"] = ["", "", "", "G5", ""]
    grid = overview.matrix(verdicts, SMALLEST)
    assert [c["verdict"] for c in overview.changes(grid)] == ["ERODED", "BEHAVIOURAL DECLINE", "STRENGTHENED"]
    counted = {c["kind"]: c["n"] for c in overview.counts(grid)}
    assert counted == {"loss": 2, "turned": 0, "kept": 1, "gain": 1, "open": 0, "refused": 1}
    gates = pd.DataFrame(
        {
            "parent": "a",
            "child": ["b", "b", "c"],
            "domain": "d",
            "gate": ["G5", "G2", "G5"],
            "passed": ["no", "yes", "no"],
        }
    )
    assert overview.refusals(gates) == [
        {"gate": "G5", "says": "text alone may do it", "n": 2, "steps": ["a → b", "a → c"]}
    ]


def test_the_lineage_hangs_every_child_below_its_parent(made):
    grid = overview.matrix(read_table(made / "tables", "verdicts"), SMALLEST)
    (root,) = overview.lineage(read_table(made / "tables", "receipts"), grid)
    assert (root.name, root.edge) == ("c0", None)
    assert [n.name for n in root.children] == ["c1", "c2"]
    assert [n.name for n in root.children[0].children] == ["c3"]
    assert root.children[0].edge["domain"] == "pooled"


def test_an_interval_is_drawn_where_it_lies_and_at_the_end_where_it_lies_beyond():
    drawn = glyph(0.5, 0.25, 9.0, null=1.0, zone=(0.8, 1.25), axis=(0.0, 2.0))
    assert (drawn.low, drawn.value, drawn.null, drawn.high, drawn.zone) == (12, 25, 50, 100, (40, 62))
    assert glyph(float("nan"), 0.0, 1.0, null=1.0, zone=(0.8, 1.25), axis=(0.0, 2.0)) is None


def test_curves_break_where_a_cell_is_empty():
    frame = Frame((0.0, 3.0), (0.0, 1.0))
    values = np.array([0.0, np.nan, 1.0, 1.0])
    assert frame.line(np.arange(4.0), values) == "M26 78M139 5L196 5"
    assert frame.ribbon(np.arange(4.0), values, values).count("M") == 2
    assert frame.bars(np.arange(4.0), values, values).count("M") == 3


def test_the_heat_map_puts_fitted_on_in_rows_and_leaves_out_what_was_not_measured(made):
    transfer = read_table(made / "tables", "transfer")
    grid = overview.matrix(read_table(made / "tables", "verdicts"), SMALLEST)
    order = ["c0", "c1", "c2", "c3"]
    found = maps.transfer_maps(transfer, grid["rows"], order, grid["domains"])
    cells = found["checkpoints"].cells
    assert cells[0][3] is None
    assert cells[3][0] is None
    rows = transfer[(transfer.method == "mass-mean") & (transfer.train_domain == "pooled")]
    frozen = rows[(rows.train_checkpoint == "c0") & (rows.checkpoint == "c1") & (rows.test_domain == "pooled")]
    assert cells[0][1][0] == f"{frozen.dprime.iloc[0]:.2f}"
    assert max(c[1] for row in cells for c in row if c) <= 9


def test_a_run_with_empty_and_endless_cells_still_has_a_report(run):
    change(run, "verdicts", retention=float("nan"), retention_low=float("-inf"), retention_high=float("inf"))
    change(run, "transfer", dprime=float("inf"))
    change(run, "layers", dprime=float("nan"), auroc_low=float("nan"))
    drift = read_table(run / "tables", "drift")
    change(run, "drift", retention_high=np.where(drift.layer == "2", np.inf, drift.retention_high))
    page = write_report(run).read_text(encoding="utf-8")
    assert '– <span class="interval">[−∞, ∞]</span>' in page
    assert '<td class="h0">∞</td>' in page
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan[a-z]*", "", page.lower())


def test_results_are_valid_by_the_schema_that_ships_and_say_what_the_tables_say(made):
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run: python -m scripts.write_docs"
    text = (made / "results.json").read_text(encoding="utf-8")
    found = Results.model_validate_json(text)
    verdicts = read_table(made / "tables", "verdicts")
    assert [v.verdict for v in found.verdicts] == list(verdicts.verdict)
    assert len(found.edges) == len(read_table(made / "tables", "edges"))
    assert {g.passed for g in found.gates} == {True, False}
    wrong = json.loads(text)
    wrong["verdicts"][0]["evidence"] = "E9"
    with pytest.raises(ValidationError, match="evidence"):
        Results.model_validate(wrong)
    properties = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]["VerdictRow"]["properties"]
    assert set(json.loads(text)["verdicts"][0]) == set(properties)


def test_a_limit_without_end_is_null_in_results_and_infinite_in_the_page(run):
    change(run, "verdicts", mde_margin=float("inf"))
    write_report(run)
    assert json.loads((run / "results.json").read_text())["verdicts"][0]["mde_margin"] is None
    assert "<td>∞</td>" in (run / "report.html").read_text()


def test_the_markdown_report_has_every_verdict_and_no_cell_that_a_name_could_break(made):
    page = (made / "report.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| **")]
    assert len(lines) == 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    for row in read_table(made / "tables", "verdicts").itertuples():
        assert f"{row.verdict} {row.gates_failed or row.evidence}" in page.replace("&#39;", "'")


def test_every_link_of_the_report_leads_to_a_file_or_a_place_in_it(made):
    page = (made / "report.html").read_text(encoding="utf-8")
    places = set(re.findall(r'\bid="([^"]+)"', page))
    for target in set(re.findall(r'href="([^"]+)"', page)) - {"data:,"}:
        if target.startswith("#"):
            assert target[1:] in places, target
        else:
            assert (made / target).exists(), target
    for name in ("layers", "drift", "transfer", "confounds", "steering", "slopes", "edges", "gates", "verdicts"):
        assert f'href="tables/{name}.csv"' in page


def test_what_repeats_a_run_is_named_without_a_machine():
    lock = {"study": {"name": "mine"}, "folder": "/some/place/mine", "lineage": []}
    assert command(lock) == "compassion run mine"
    lineage = [
        {"name": "parent", "source": {"hub": "org/base", "revision": "abc"}},
        {"name": "child", "adapter": "/some/place/lora"},
    ]
    about = {"study": {"name": "compare-base-lora"}, "folder": "/some", "lineage": lineage}
    assert command(about) == "compassion compare org/base@abc lora"


def test_two_runs_stand_side_by_side_with_no_more_than_whether_intervals_overlap(run, made):
    verdicts = read_table(run / "tables", "verdicts")
    shifted = {c: verdicts[c] + 5 for c in ("retention", "retention_low", "retention_high")}
    change(run, "verdicts", **shifted)
    page = write_comparison(run, made).read_text(encoding="utf-8")
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">.*?</tr>", page)
    assert len(rows) == 9
    for row in rows:
        assert re.findall(r'<td class="left">(yes|no|–)</td>', row) == ["no", "yes"]
    assert "differ in more than" not in page


def test_runs_on_other_pairs_are_called_so_and_a_step_of_one_run_only_is_shown(run, made):
    lock = json.loads((run / "study.lock.json").read_text())
    (run / "study.lock.json").write_text(json.dumps(lock | {"pairs_hash": "1" * 64}))
    verdicts = read_table(run / "tables", "verdicts")
    write_table(run / "tables", "verdicts", verdicts[verdicts.child != "c3"])
    page = write_comparison(run, made).read_text(encoding="utf-8")
    assert "differ in more than their models:</span> the pairs." in page
    assert page.count("not in this run") == 3


def said(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compassion", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_takes_a_run_folder_and_another_to_compare(run, made, monkeypatch, capsys):
    (run / "report.html").unlink()
    assert said(monkeypatch, "report", str(run), "--compare", str(made)) == 0
    assert (run / "report.html").is_file()
    assert str(run / "compare.html") in capsys.readouterr().out
    assert said(monkeypatch, "report", str(run), "--compare", str(run)) == 2
    assert "is the run itself" in capsys.readouterr().err
    assert said(monkeypatch, "report", str(run), "--compare", str(run / "tables")) == 2
    assert "no run here" in capsys.readouterr().err
    assert said(monkeypatch, "report", str(run / "tables")) == 2
    assert "give the path of a study.toml" in capsys.readouterr().err


def test_the_python_block_of_the_page_about_reports_runs(made, tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "report.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    shutil.copytree(made, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(compile(block, "report.md", "exec"), space)
    eroded = read_table(made / "tables", "verdicts").verdict.str.startswith("ERODED")
    assert len(space["losses"]) == eroded.sum()
