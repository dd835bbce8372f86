"""Each benchmark runs, is correct, and leaves a well-formed part of the record. No time counts."""

import json
import math

import pytest

from memdec.bench import startup
from memdec.bench.record import is_correct, make_entry
from memdec.bench.registry import run_benchmark

CEILING = {"gemm_gflops": 100.0, "copy_gb_per_s": 10.0}
GOALS = {"targets": {1}, "search": {2}, "loss": {3}, "encode": {4}, "alpha": {5}, "startup": {7}}


def check_entry(name, entry):
    assert is_correct(entry), entry["checks"]
    assert {goal["goal"] for f in entry["figures"] for goal in f["goals"]} == GOALS.get(name, set())
    for figure in entry["figures"]:
        assert figure["ours"] > 0
        assert figure["plain"] > 0
        assert figure["plain_is"]
        assert figure["ratio"] == pytest.approx(figure["ours"] / figure["plain"])
        for goal in figure["goals"]:
            assert goal["reached"] == (goal["missed_by"] == 0)
    assert {"commit", "dirty", "versions", "hardware"} <= entry["provenance"].keys()
    json.dumps(entry, allow_nan=False)


@pytest.mark.parametrize("name", ["targets", "loss", "encode", "alpha"])
def test_a_benchmark_runs(name, config, in_process):
    outcome = run_benchmark(name, config)
    assert len(outcome.figures) == {"loss": 7, "targets": 3}.get(name, 1)
    assert outcome.checks
    check_entry(name, make_entry(config, outcome, CEILING, 0.25))


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_loss(config):
    outcome = run_benchmark("compiled", config)
    check_entry("compiled", make_entry(config, outcome, CEILING, 0.25))
    assert len(outcome.figures) == len(outcome.checks) == 1


def test_without_a_compiler_nothing_is_compiled(config, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    outcome = run_benchmark("compiled", config)
    assert not outcome.figures
    assert "no C++ compiler" in outcome.notes[0]


def test_search_runs_each_side_in_its_own_process(config):
    outcome = run_benchmark("search", config)
    assert [figure.unit for figure in outcome.figures] == ["s", "bytes"]
    assert outcome.figures[0].num_flops == 480 * 480 * 36
    check_entry("search", make_entry(config, outcome, CEILING, 0.25))


def test_startup_runs_the_real_command_line(config, monkeypatch, tmp_path):
    monkeypatch.setattr(startup, "PLAIN", (startup.sys.executable, "-c", ""))  # no torch: quick
    monkeypatch.chdir(tmp_path)  # no records, no finished run
    outcome = run_benchmark("startup", config)
    names = [figure.name for figure in outcome.figures]
    assert names == ["memdec --help", "memdec plan", "memdec report"]
    assert "not finished" in outcome.notes[0]
    check_entry("startup", make_entry(config, outcome, CEILING, 0.25))


def test_growth_measures_four_sizes_and_extends_them(config):
    outcome = run_benchmark("growth", config)
    assert len(outcome.figures) == 2
    check_entry("growth", make_entry(config, outcome, CEILING, 0.25))
    measured, extended = outcome.grids
    assert [row[:2] for row in measured.rows] == [
        ("encode", 48),
        *(("search", n) for n in (60, 120, 240, 480)),
        *(("targets", n) for n in (60, 120, 240, 480)),
    ]
    # rows i32 and distances f32, and two .npy headers
    assert [row[3] for row in measured.rows[1:5]] == [n * 13 * 8 + 256 for n in (60, 120, 240, 480)]
    names = ["encode", "search", "targets", "search, ivf_pq"]
    assert [row[0] for row in extended.rows] == names
    assert all(math.isfinite(x) for row in extended.rows for x in row[3:])


def test_a_rate_stands_beside_the_ceiling(config, in_process):
    outcome = run_benchmark("loss", config)
    entry = make_entry(config, outcome, CEILING, 0.25)
    figure = entry["figures"][1]  # the head alone, V 700: forward and two products backward
    assert figure["gflops"] == pytest.approx(6 * 32 * 36 * 700 / figure["ours"] / 1e9)
    assert figure["share_of_gemm_ceiling"] == pytest.approx(figure["gflops"] / 100)
