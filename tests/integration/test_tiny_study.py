"""The whole job on a tiny random model: stages, files, resuming, refusing, escaping."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import pair, save_llama, save_tokenizer, write_lines, write_study
from safetensors.numpy import save_file

from activations.store import ActivationStore
from analysis.tables import ELSEWHERE, TABLES, read_table
from scripts import cli

STUDY = """
[study]
name = "tiny"
pairs = "pairs.jsonl"
neutral = "neutral.jsonl"
steer_scenarios = 2
alphas = [-0.2, 0.2]

[[checkpoint]]
name = "base"
stage = "base"
source = {{ path = "{tiny}" }}

[[checkpoint]]
name = "tuned"
stage = "sft"
parent = "base"
adapter = "{adapter}"
data_domain = "boats"
seed = 3

[[checkpoint]]
name = "same"
stage = "control"
parent = "base"
edit = {{ identity = true }}

[[checkpoint]]
name = "less"
stage = "control"
parent = "base"
edit = {{ attenuate = 0.5, direction = "u.safetensors" }}
"""

CHECKPOINTS = ("base", "tuned", "same", "less")


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compassion", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def home(texts_folder: Path, tiny: Path, adapter: Path) -> Path:
    (texts_folder / "study.toml").write_text(STUDY.format(tiny=tiny, adapter=adapter), encoding="utf-8")
    save_file({"vector": np.random.default_rng(0).normal(size=32)}, texts_folder / "u.safetensors")
    return texts_folder


def tables(run: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted((run / "tables").glob("*.csv"))}


def test_the_whole_job_writes_every_file_of_the_contract(home, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    assert command(monkeypatch, "run", str(home), "--out", str(run)) == 0
    said = capsys.readouterr().out
    assert "base → tuned" in said
    assert str(run / "report.html") in said
    for name in ("base", "tuned", "same", "less"):
        assert (run / "activations" / f"{name}.h5").is_file()
        assert (run / "directions" / f"{name}.safetensors").is_file()
    assert set(tables(run)) == {f"{name}.csv" for name in TABLES if name not in ELSEWHERE}
    lock = json.loads((run / "study.lock.json").read_text())
    assert lock["study"]["alphas"] == [-0.2, 0.2]
    assert lock["versions"]["torch"]

    drift = read_table(run / "tables", "drift")
    same = drift[drift.child == "same"]
    assert (same.retention - 1).abs().max() < 1e-4
    assert (same.cosine.dropna() - 1).abs().max() < 1e-4
    assert (same.p.dropna() == 1).all()  # empty where a random model's direction is not estimable
    assert same.p.notna().mean() > 0.7
    assert (drift[drift.child == "tuned"].retention - 1).abs().max() > 1e-3  # positive control
    assert set(drift.domain) == {"harbour", "orchard", "pooled"}

    layers = read_table(run / "tables", "layers")
    assert len(layers) == 4 * 3 * 5 * 6  # checkpoints, slices, sites, methods
    assert set(read_table(run / "tables", "steering").checkpoint) == {"base", "tuned"}
    receipts = read_table(run / "tables", "receipts").set_index("checkpoint")
    assert receipts.loc["same", "weight_hash"] == receipts.loc["base", "weight_hash"]
    assert receipts.loc["less", "weight_hash"] != receipts.loc["base", "weight_hash"]
    assert receipts.loc["same", "row_budget"] != receipts.loc["base", "row_budget"]
    tuned = read_table(run / "tables", "behaviour").set_index(["checkpoint", "domain"]).loc[("tuned", "pooled")]
    assert (tuned.data_domain, tuned.seed) == ("boats", 3)
    assert np.isfinite(tuned.margin_pmi)

    verdicts = read_table(run / "tables", "verdicts")
    assert len(verdicts) == 3 * 3  # steps, slices
    assert set(verdicts.verdict) == {"NO VERDICT"}  # six scenarios a domain
    assert verdicts.gates_failed.str.startswith("G2").all()
    gates = read_table(run / "tables", "gates")
    assert len(gates) == 3 * 3 * 8
    held = read_table(run / "tables", "instrument")
    assert set(held.control) == {"recaptured", "rounded", "damaged", "unrelated"}
    copy = held[(held.control == "recaptured") & (held.quantity != "B")]
    assert (copy.value - 1).abs().max() < 1e-3
    assert "NO VERDICT" in (run / "report.html").read_text()
    assert "NO VERDICT (G2" in said


def test_frozen_size_and_alignment_multiply_in_raw_units(home, tmp_path, monkeypatch):
    """log F = log size + log alignment, row by row of the table (METHOD §3)."""
    run = tmp_path / "run"
    assert command(monkeypatch, "run", str(home), "--out", str(run), "-q") == 0
    drift = read_table(run / "tables", "drift")
    rows = drift[(drift.gauge == "raw") & (drift.layer != "band")].dropna(subset=["frozen", "retention", "cosine"])
    assert len(rows) > 10
    np.testing.assert_allclose(rows.frozen, rows.retention * rows.cosine, rtol=1e-6)


def test_an_interrupted_run_ends_with_the_same_tables_without_redoing_checkpoints(home, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert command(monkeypatch, "run", str(home), "--out", str(whole), "-q") == 0
    import scripts.capture as stage

    real, opened = stage.open_checkpoint, []

    def counting(study, name, **rest):
        if name in CHECKPOINTS:
            opened.append(name)
        if opened.count("same") == 1 and name == "same":
            raise KeyboardInterrupt
        return real(study, name, **rest)

    monkeypatch.setattr(stage, "open_checkpoint", counting)
    assert command(monkeypatch, "run", str(home), "--out", str(cut), "-q") == 130
    assert opened == ["base", "tuned", "same"]
    assert command(monkeypatch, "run", str(home), "--out", str(cut), "-q") == 0
    assert opened == ["base", "tuned", "same", "same", "less"]
    assert tables(cut) == tables(whole)
    for name in ("base", "tuned", "same", "less"):
        a, b = ((run / "activations" / f"{name}.h5").read_bytes() for run in (whole, cut))
        assert a == b


@pytest.mark.parametrize("stage", ["train_probes", "steer", "analyze", "report"])
def test_a_run_interrupted_in_any_later_stage_resumes(home, tmp_path, monkeypatch, stage):
    import scripts.run as job

    real, run = getattr(job, stage), tmp_path / "run"

    def interrupted(_run):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, stage, interrupted)
    assert command(monkeypatch, "run", str(home), "--out", str(run), "-q") == 130
    monkeypatch.setattr(job, stage, real)
    assert command(monkeypatch, "run", str(home), "--out", str(run), "-q") == 0
    assert (run / "report.html").is_file()


def test_changed_pairs_are_captured_anew(home, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert command(monkeypatch, "capture", str(home), "--out", str(run), "-q") == 0
    with ActivationStore(run / "activations" / "base.h5") as store:
        before = store.identity
    path = home / "pairs.jsonl"
    path.write_text(path.read_text().replace("Gently now", "Softly now"))
    assert command(monkeypatch, "capture", str(home), "--out", str(run), "-q") == 0
    with ActivationStore(run / "activations" / "base.h5") as store:
        assert store.identity != before


def test_a_change_recaptures_exactly_the_checkpoints_it_touches(home, tmp_path, monkeypatch):
    import scripts.capture as stage

    real, opened = stage.open_checkpoint, []

    def counting(study, name, **rest):
        opened.append(name)
        return real(study, name, **rest)

    controls = ["recaptured", "rounded", "damaged"]

    monkeypatch.setattr(stage, "open_checkpoint", counting)
    path, run = home / "study.toml", tmp_path / "run"

    def captured(old: str, new: str) -> list[str]:
        path.write_text(path.read_text().replace(old, new, 1))
        opened.clear()
        assert command(monkeypatch, "capture", str(home), "--out", str(run), "-q") == 0
        return opened.copy()

    assert captured("", "") == ["base", "tuned", "same", "less", *controls]
    assert captured("", "") == []
    assert captured('data_domain = "boats"', 'data_domain = "ships"\nscale = 0.5') == ["tuned"]
    assert captured("attenuate = 0.5", "attenuate = 0.4") == ["less"]
    assert captured("steer_scenarios = 2", "steer_scenarios = 3") == []  # no capture depends on it
    assert captured("[study]\n", '[study]\ndtype = "bfloat16"\n') == ["base", "tuned", "same", "less", *controls]


def test_the_first_captures_row_plan_and_packing_are_written_down_and_kept(home, tmp_path, monkeypatch):
    import activations.plan as planning

    monkeypatch.setattr(planning, "WORTH_MEASURING", 0)  # a study worth measuring, however small
    monkeypatch.setattr(planning, "CANDIDATES", {"cpu": [(64, 2), (200, 1)]})
    run = tmp_path / "run"
    assert command(monkeypatch, "capture", str(home), "--out", str(run), "-q") == 0
    first = json.loads((run / "study.lock.json").read_text())
    assert set(first["row_plan_rates"]) == {"64 x 2", "200 x 1"}
    best = max(first["row_plan_rates"], key=first["row_plan_rates"].get)
    assert f"{first['row_plan']['row_budget']} x {first['row_plan']['rows_per_batch']}" == best
    assert first["packing"]["packed_tokens"] < first["packing"]["tokens"]
    monkeypatch.setattr(planning, "CANDIDATES", {"cpu": [(999, 9)]})
    assert command(monkeypatch, "capture", str(home), "--out", str(run), "-q") == 0
    again = json.loads((run / "study.lock.json").read_text())
    for key in ("row_plan", "row_plan_rates", "packing"):
        assert again[key] == first[key]
    assert again["packing"]["sha256"]


def test_pairs_can_be_a_list_of_files_and_domains_leave_other_contrasts_alone(home, tmp_path, monkeypatch):
    extra = [pair(n, "general", contrast="politeness", scenario_id=f"p{n}", pair_id=f"p{n}") for n in range(5)]
    write_lines(home / "more.jsonl", extra)
    path = home / "study.toml"
    named = 'pairs = ["pairs.jsonl", "more.jsonl"]\ndomains = ["harbour"]'
    path.write_text(path.read_text().replace('pairs = "pairs.jsonl"', named))
    run = tmp_path / "run"
    assert command(monkeypatch, "run", str(home), "--out", str(run), "-q") == 0
    with ActivationStore(run / "activations" / "base.h5") as store:
        rows = store.rows("response")
    assert set(zip(rows.contrast, rows.domain, strict=True)) == {("compassion", "harbour"), ("politeness", "general")}
    assert set(read_table(run / "tables", "layers").domain) == {"harbour"}
    out = tmp_path / "u.safetensors"
    assert command(monkeypatch, "export", str(run), str(out)) == 0  # a study of one domain has a pooled direction too
    audit = json.loads((run / "audit.json").read_text())
    assert {row["block"].split("/")[0] for row in audit["rows"]} == {"compassion", "politeness"}


def test_stages_run_one_by_one_make_what_run_makes(home, tmp_path, monkeypatch):
    whole, steps = tmp_path / "whole", tmp_path / "steps"
    assert command(monkeypatch, "run", str(home), "--out", str(whole), "-q") == 0
    for verb in ("capture", "train-probes", "steer", "sample", "analyze", "mediate", "report"):
        assert command(monkeypatch, verb, str(home), "--out", str(steps), "-q") == 0
    assert tables(steps) == tables(whole)


def test_only_named_checkpoints_are_steered_and_one_checkpoint_alone_is_a_study(home, tmp_path, monkeypatch):
    path = home / "study.toml"
    text = path.read_text().replace("alphas =", 'steer_checkpoints = ["same"]\nalphas =')
    path.write_text(text)
    for verb in ("capture", "train-probes", "steer"):
        assert command(monkeypatch, verb, str(home), "--out", str(tmp_path / "run"), "-q") == 0
    assert set(read_table(tmp_path / "run" / "tables", "steering").checkpoint) == {"same"}
    alone = text.split("[[checkpoint]]")[:2]
    path.write_text("[[checkpoint]]".join(alone).replace('["same"]', "[]"))
    assert command(monkeypatch, "run", str(home), "--out", str(tmp_path / "alone"), "-q") == 0
    assert "no step to compare" in (tmp_path / "alone" / "report.html").read_text()


def test_quiet_says_nothing(home, tmp_path, monkeypatch, capfd):
    assert command(monkeypatch, "run", str(home), "--out", str(tmp_path / "run"), "-q") == 0
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def refused(monkeypatch, capsys, *words: str) -> str:
    assert command(monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pairs.jsonl", '{"pair_id"', '{pair_id"', "pairs.jsonl, line 1: not valid JSON"),
        ("pairs.jsonl", "harbour-001-w0", "harbour-000-w0", "pairs.jsonl, line 2: pair_id 'harbour-000-w0' is already"),
        ("pairs.jsonl", '"negative"', '"wrong"', "pairs.jsonl, line 1, key"),
        ("study.toml", "alphas", "alfas", "study.toml, study.alfas: unknown key"),
        ("study.toml", 'parent = "base"', 'parent = "bose"', "unknown checkpoint 'bose'"),
    ],
)
def test_bad_input_exits_2_with_one_message(home, tmp_path, monkeypatch, capsys, file, old, new, said):
    path = home / file
    path.write_text(path.read_text().replace(old, new, 1))
    assert said in refused(monkeypatch, capsys, "run", str(home), "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "activations").exists()


def test_a_missing_adapter_is_named(home, tmp_path, monkeypatch, capsys):
    path = home / "study.toml"
    path.write_text(path.read_text().replace('data_domain = "boats"', "").replace("adapter-", "gone-"))
    text = path.read_text()
    start = text.index('adapter = "')
    path.write_text(text[:start] + 'adapter = "gone"' + text[text.index("\n", start) :])
    assert "checkpoint 'tuned', adapter: no adapter at" in refused(monkeypatch, capsys, "run", str(home))


def test_an_unwritable_output_folder_is_named(home, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    message = refused(monkeypatch, capsys, "run", str(home), "--out", str(tmp_path / "file" / "run"))
    assert "cannot write here" in message
    assert "--out" in message


def test_a_second_process_on_one_run_folder_is_refused(home, tmp_path, monkeypatch, capsys):
    from activations.artifact import sole_writer

    with sole_writer(tmp_path / "run"):
        message = refused(monkeypatch, capsys, "run", str(home), "--out", str(tmp_path / "run"))
    assert "another process is writing" in message


def test_an_unknown_device_is_refused(home, monkeypatch, capsys):
    assert "--device warp" in refused(monkeypatch, capsys, "capture", str(home), "--device", "warp")


def test_checkpoints_of_another_shape_or_tokenizer_are_refused(home, tmp_path, monkeypatch, capsys):
    def swapped(folder: Path) -> None:
        text = (home / "study.toml").read_text().split("[[checkpoint]]")
        other = f'\nname = "other"\nstage = "sft"\nparent = "base"\nsource = {{ path = "{folder}" }}\n'
        (home / "study.toml").write_text("[[checkpoint]]".join([text[0], text[1], other]))

    wide = tmp_path / "wide"
    save_llama(wide, hidden=64)
    swapped(wide)
    message = refused(monkeypatch, capsys, "run", str(home), "--out", str(tmp_path / "a"))
    assert (
        "checkpoint 'other': has n_layers: 4, d_model: 64, but the lineage's root has n_layers: 4, d_model: 32"
        in message
    )

    save_llama(wide)
    save_tokenizer(wide, extra=("th",))
    message = refused(monkeypatch, capsys, "run", str(home), "--out", str(tmp_path / "b"))
    assert "checkpoint 'other', source: its tokenizer splits text" in message


def test_too_few_scenarios_for_the_folds_are_refused_by_domain(home, tmp_path, monkeypatch, capsys):
    write_lines(home / "pairs.jsonl", [pair(n, "harbour") for n in range(4)])
    message = refused(monkeypatch, capsys, "run", str(home), "--out", str(tmp_path / "run"))
    assert "domain 'harbour' has 4 scenarios, fewer than the 5 folds" in message


def test_text_from_studies_is_escaped_in_the_report(home, tmp_path, monkeypatch):
    rows = [pair(n, d) for d in ("<script>alert(1)</script>", "a & b") for n in range(6)]
    write_lines(home / "pairs.jsonl", rows)
    run = tmp_path / "run"
    assert command(monkeypatch, "run", str(home), "--out", str(run), "-q") == 0
    page = (run / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_compare_needs_no_study_file(home, tiny, adapter, tmp_path, monkeypatch, capsys):
    pairs = str(home / "pairs.jsonl")
    out = str(tmp_path / "run")
    assert command(monkeypatch, "compare", str(tiny), str(adapter), "--pairs", pairs, "--out", out) == 0
    assert "parent → child" in capsys.readouterr().out
    edges = pd.read_csv(tmp_path / "run" / "tables" / "edges.csv")
    assert set(edges.quantity) == {
        *("R_tau", "R_sd", "F", "F_reverse", "cosine", "sigma", "midpoint", "P", "B", "B_nats", "B_pmi", "G", "S"),
        *("F_aligned", "signal", "perplexity", "R_mde", "B_mde"),
    }


def test_compare_measures_the_contrast_it_is_given(tiny, adapter, tmp_path, monkeypatch, capsys):
    rows = [pair(n, d) | {"contrast": "patience"} for d in ("harbour", "orchard") for n in range(6)]
    pairs = write_lines(tmp_path / "pairs.jsonl", rows)
    words = ("compare", str(tiny), str(adapter), "--pairs", str(pairs), "--out", str(tmp_path / "run"))
    assert "contrasts in" in refused(monkeypatch, capsys, *words)
    assert command(monkeypatch, *words, "--contrast", "patience") == 0
    edges = pd.read_csv(tmp_path / "run" / "tables" / "edges.csv")
    assert set(edges.contrast) == {"patience"}


@pytest.mark.parametrize(
    ("parent", "said"), [("./nowhere", "is no folder"), ("embedded:other", "no embedded model 'other'")]
)
def test_compare_refuses_what_it_cannot_load(monkeypatch, capsys, tmp_path, parent, said):
    assert said in refused(monkeypatch, capsys, "compare", parent, "some/child", "--out", str(tmp_path / "r"))


def test_an_exported_direction_is_the_runs_direction(home, tmp_path, monkeypatch, capsys):
    from probes.direction import Direction
    from probes.fit import load_direction

    run = tmp_path / "run"
    for verb in ("capture", "train-probes"):
        assert command(monkeypatch, verb, str(home), "--out", str(run), "-q") == 0
    out = tmp_path / "u.safetensors"
    assert command(monkeypatch, "export", str(run), str(out), "--checkpoint", "tuned", "--layer", "2") == 0
    path = run / "directions" / "tuned.safetensors"
    expected = load_direction(path, "compassion", "pooled", "mass-mean", "blocks.2.hook_resid_post")
    assert Direction.load(out).cosine(expected) == pytest.approx(1.0)
    assert "no layer 9" in refused(monkeypatch, capsys, "export", str(run), str(out), "--layer", "9")
    shutil.rmtree(run)
    assert "no run here" in refused(monkeypatch, capsys, "export", str(run), str(out))


def test_transfer_holds_every_pair_of_slices_and_the_parents_frozen_readers(home, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert command(monkeypatch, "capture", str(home), "--out", str(run), "-q") == 0
    assert command(monkeypatch, "train-probes", str(home), "--out", str(run), "-q", "--jobs", "2") == 0
    transfer, layers = read_table(run / "tables", "transfer"), read_table(run / "tables", "layers")
    own = transfer[transfer.checkpoint == transfer.train_checkpoint]
    assert len(own[own.checkpoint == "base"]) == 6 * 3 * 3  # methods, slices fitted on, slices scored
    frozen = transfer[transfer.checkpoint != transfer.train_checkpoint]
    assert set(frozen.checkpoint) == {"same", "tuned", "less"}
    # A checkpoint of the same weights is read by its parent as by itself.
    keys = ["train_domain", "test_domain", "method"]
    same = own[own.checkpoint == "same"].merge(frozen[frozen.checkpoint == "same"], on=keys, suffixes=("", "_frozen"))
    assert len(same) == 4 * 3 * 3
    np.testing.assert_allclose(same.dprime, same.dprime_frozen, rtol=1e-3, atol=1e-3)
    # The diagonal is what layers.csv says of the band.
    cell = own.query("checkpoint == 'base' and method == 'lda' and train_domain == test_domain == 'pooled'")
    assert np.isfinite(cell.dprime.iloc[0])
    one = tmp_path / "one"
    assert command(monkeypatch, "capture", str(home), "--out", str(one), "-q") == 0
    assert command(monkeypatch, "train-probes", str(home), "--out", str(one), "-q", "--jobs", "1") == 0
    for name in ("layers", "transfer", "reliability", "confounds"):
        assert (run / "tables" / f"{name}.csv").read_bytes() == (one / "tables" / f"{name}.csv").read_bytes(), name
    flips = layers.query("method == 'mass-mean'")
    assert (flips.p_flip_adjusted >= flips.p_flip - 1e-12).all()
    assert layers.query("method != 'mass-mean'").p_flip.isna().all()


def test_confounds_the_two_by_two_and_retold_sets_are_read_by_readers_that_saw_neither(tiny, tmp_path, monkeypatch):
    folder = write_study(tmp_path)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    extra = [pair(n, "general", contrast="tone", scenario_id=f"tone-{n}", pair_id=f"tone-{n}") for n in range(20, 27)]
    extra += [pair(n, "general", contrast="null_x", scenario_id=f"x-{n}", pair_id=f"x-{n}") for n in range(30, 34)]
    for n in range(4):
        for design in ("2x2-warm", "2x2-plain", "matched"):
            extra.append(
                pair(40 + n, "harbour", scenario_id=f"harbour-{n:03d}", pair_id=f"{design}-{n}", design=design)
            )
        about = {"design": "translation", "language": "de", "scenario_id": f"orchard-{n:03d}", "pair_id": f"de-{n}"}
        extra.append(pair(50 + n, "orchard", **about))
    write_lines(folder / "pairs.jsonl", rows + extra)
    (folder / "study.toml").write_text(
        f'[study]\nname = "sets"\npairs = "pairs.jsonl"\nneutral = "neutral.jsonl"\npmi = false\n'
        f'[[checkpoint]]\nname = "base"\nstage = "base"\nsource = {{ path = "{tiny}" }}\n'
    )
    run = tmp_path / "run"
    for verb in ("capture", "train-probes"):
        assert command(monkeypatch, verb, str(folder), "--out", str(run), "-q") == 0
    confounds = read_table(run / "tables", "confounds")
    assert set(confounds.confound) == {"tone", "all", "2x2"}  # a null contrast is no confound
    by = confounds[confounds.layer == 1].set_index(["domain", "confound", "quantity"])
    assert by.loc[("pooled", "tone", "retained"), "value"] == pytest.approx(
        by.loc[("pooled", "all", "retained"), "value"]
    )
    assert by.loc[("harbour", "2x2", "caring"), "n_scenarios"] == 4
    assert by.loc[("pooled", "2x2", "interaction"), "low"] <= by.loc[("pooled", "2x2", "interaction"), "high"]
    assert abs(by.loc[("orchard", "tone", "cosine"), "value"]) < 5 or np.isnan(
        by.loc[("orchard", "tone", "cosine"), "value"]
    )
    transfer = read_table(run / "tables", "transfer")
    assert {"matched", "translation-de"} <= set(transfer.test_domain)
    retold = transfer[transfer.test_domain == "matched"]
    assert set(retold.train_domain) == {"pooled"}
    assert retold.auroc.between(0, 1).all()
