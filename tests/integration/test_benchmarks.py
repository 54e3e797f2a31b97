"""The benchmarks run, agree with what they are compared with, and say what their documentation promises."""

import numpy as np

from activations.packing import RowPlan
from benchmarks import capture, inference, report, steering, store


def test_the_ways_the_capture_benchmark_compares_find_equal_residuals():
    task = capture.Task(2)
    reference = capture.run_with_cache(task, task.in_file_order, log_probs=True, stop=False)
    plan = RowPlan(row_budget=256, rows_per_batch=2)
    for found in (
        capture.ours(task, "float32", plan, log_probs=True),
        capture.run_with_cache(task, task.by_length, log_probs=False, stop=True),
    ):
        difference = np.linalg.norm(found - reference, axis=-1) / np.linalg.norm(reference, axis=-1)
        assert difference.max() <= 1e-4
    unique, blocks, head = capture.work(task)
    assert unique < sum(len(t.ids) for t in task.tokens)
    assert 0 < head < blocks


def test_the_store_benchmark_reads_what_it_wrote():
    found = store.measure(texts=200, sites=3, width=64)
    assert found["slice_mb"] == 200 * 64 * 4 / 1e6
    assert found["ratio"] > 0


def test_the_inference_benchmark_times_the_real_path_and_agrees_with_scikit_learn(tmp_path):
    path = inference.make(tmp_path, sites=2, domains=2, scenarios=12, width=16)
    found = inference.grids(path, 1) | inference.flips(path, 1)
    assert found["permutation_tests"] == 4
    assert min(found.values()) > 0
    beside = inference.beside_sklearn(40)
    assert beside["sklearn_ratio"] > 20
    assert beside["p_value_max_difference"] <= 1.6 * beside["p_value_monte_carlo_99"]


def test_the_ways_the_steering_benchmark_compares_find_equal_log_probs():
    task = capture.Task(1)
    u = steering.some_direction(task)
    reference = steering.run_with_hooks(task, u)
    found = steering.ours(task, u, "float32")
    np.testing.assert_allclose(found, reference, atol=1e-3)
    assert np.ptp(reference, axis=0).min() > 1e-2  # the doses do something
    assert steering.slopes(task, u).shape == (steering.CONTROLS, len({t.scenario_id for t in task.texts}))


def test_the_report_benchmark_measures_the_real_report(tmp_path):
    found = report.measure(checkpoints=3, domains=2, layers=5, keep=tmp_path)
    assert found["html_mb"] == round((tmp_path / "report.html").stat().st_size / 1e6, 2) > 0
    assert found["seconds"] > 0
