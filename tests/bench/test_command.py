"""`memdec bench`: what it refuses, its record and its page."""

import json

import pytest

from memdec.bench import command, record
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Figure, Goal, Grid, Outcome
from memdec.bench.record import read_record, record_file, update_record
from memdec.bench.registry import BENCHMARKS, check_names
from memdec.cli import main
from memdec.errors import ConfigError, DataError


def outcome(difference=0.0):
    goal = Goal(number=2, limit=0.6)
    made = Figure(
        name="search [batch]", unit="s", ours=3.0, plain=4.0, plain_is="slow", goals=(goal,)
    )
    check = Check(what="difference", value=difference, limit=1e-6)
    grid = Grid(title="measured", columns=("stage", "N"), rows=(("encode", 1500),))
    return Outcome(figures=[made], checks=[check], grids=[grid], notes=["a note"])


@pytest.fixture
def ran(monkeypatch):
    """Stand-ins for the benchmarks; the names that were run."""
    names = []

    def run(name, config):
        names.append(name)
        return outcome(difference=1.0 if name == "alpha" else 0.0)

    monkeypatch.setattr(command, "run_benchmark", run)
    monkeypatch.setattr(
        "memdec.bench.clock.ceiling",
        lambda device: dict.fromkeys(("gemm_gflops", "copy_gb_per_s"), 100.0),
    )
    return names


def test_no_name_means_all_and_a_name_counts_once():
    assert check_names([]) == list(BENCHMARKS)
    assert check_names(["loss", "alpha", "loss"]) == ["loss", "alpha"]


def test_an_unknown_name_is_refused_before_anything_runs(ran, config):
    with pytest.raises(ConfigError, match=r"'serch'; did you mean 'search'\? allowed: targets, "):
        command.run_bench(["alpha", "serch"], config)
    assert ran == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rows": 8207}, "--rows must be at least 8,208"),
        ({"repeats": 0}, "--repeats must be at least 1"),
        ({"keys": "nowhere.npy"}, "--keys nowhere.npy is not there"),
        ({"model": "nowhere"}, "--model nowhere is not there"),
    ],
)
def test_a_bad_size_or_path_is_refused(settings, words):
    with pytest.raises((ConfigError, DataError), match=words):
        BenchConfig(**settings)


def test_too_few_keys_are_refused(config, tmp_path):
    import numpy as np

    from memdec.bench.inputs import make_keys

    np.save(tmp_path / "keys.npy", np.zeros((5, 36), np.float16))
    few = BenchConfig(**vars(config) | {"keys": str(tmp_path / "keys.npy")})
    with pytest.raises(DataError, match=r"\[5, 36\] but --rows asks for 480 rows"):
        make_keys(few)


def test_a_file_as_output_is_refused(ran, config, tmp_path):
    with pytest.raises(ConfigError, match="give a folder"):
        command.run_bench(["loss"], config, tmp_path / "record.json")
    assert ran == []


def test_a_gpu_that_is_not_there_is_refused(ran, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit) as left:
        main(["bench", "alpha", "--device", "cuda"])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert ran == []


def test_the_record_keeps_what_was_measured_before(ran, config, tmp_path, capsys):
    assert command.run_bench(["loss"], config, tmp_path) == 0
    assert command.run_bench(["growth"], config, tmp_path) == 0
    file = record_file(tmp_path)
    found = read_record(file)
    assert found["schema"] == 1
    assert set(found["benchmarks"]) == {"loss", "growth"}
    entry = found["benchmarks"]["loss"]
    assert entry["config"] == vars(config)
    assert entry["figures"][0]["goals"][0]["missed_by"] == pytest.approx(0.25)
    assert found["hardware"] == entry["provenance"]["hardware"]
    page = (tmp_path / "README.md").read_text()
    assert page.index("### loss") < page.index("### growth")
    assert "| search [batch] | 3 s | 4 s | 0.750 | slow | 2: ratio <= 0.6 MISSED by 25% |" in page
    assert "| encode | 1,500 |" in page
    assert ("Not run on a GPU" in page) == (found["hardware"]["gpu"] is None)
    assert "search [batch]" in capsys.readouterr().out  # rich would take [N] for markup


def test_a_wrong_number_ends_with_exit_code_1_and_stays_on_record(ran, tmp_path, config, capsys):
    assert command.run_bench(["alpha", "loss"], config, tmp_path) == 1
    assert ran == ["alpha", "loss"]
    assert not read_record(record_file(tmp_path))["benchmarks"]["alpha"]["checks"][0]["passed"]
    assert "check WRONG: difference 1 (<= 1e-06)" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 2, "benchmarks": {}}'])
def test_a_strange_record_is_not_overwritten(text, tmp_path):
    file = tmp_path / "machine.json"
    file.write_text(text)
    with pytest.raises(DataError, match="no record of benchmarks"):
        update_record(file, {})
    assert file.read_text() == text


def test_the_machine_names_the_file(monkeypatch, tmp_path):
    facts = {"cpu": "AMD EPYC(TM) 7", "cores": 2, "memory_gib": 8, "gpu": None}
    monkeypatch.setattr(record, "hardware", lambda: facts)
    assert record_file(tmp_path).name == "amd-epyc-7-2-cores.json"
    monkeypatch.setattr(record, "hardware", lambda: facts | {"gpu": "1x NVIDIA H200"})
    assert record_file(tmp_path).name == "1x-nvidia-h200.json"


def test_the_verb_hands_its_options_on(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(command, "run_bench", lambda *arguments: calls.append(arguments) or 0)
    with pytest.raises(SystemExit) as left:
        main(["bench", "loss", "--rows", "9000", "--repeats", "2", "--output", str(tmp_path)])
    assert left.value.code == 0
    assert calls == [(["loss"], BenchConfig(rows=9000, repeats=2), tmp_path)]


def test_committed_records_are_readable():
    from pathlib import Path

    for file in Path(__file__).parents[2].glob("reports/bench/*.json"):
        text = file.read_text()
        assert read_record(file)["benchmarks"].keys() <= BENCHMARKS.keys()
        assert json.loads(text)["hardware"]
        assert "/tmp/" not in text
