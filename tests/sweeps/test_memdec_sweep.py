"""`memdec sweep` over real `memdec run`s, and the array job that starts agents on a cluster."""

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from memdec.pipeline.identity import run_folder
from memdec.pipeline.job import Job
from memdec.pipeline.sweep_file import load_sweep
from memdec.pipeline.sweep_metric import read_metric
from memdec.pipeline.sweep_state import Status, open_states

ROOT = Path(__file__).parents[2]
SWEEP = {
    "program": "memdec",
    "method": "grid",
    "metric": {"name": "memory_decoder/test/perplexity", "goal": "minimize"},
    "parameters": {"knn.k": {"values": [8, 3, 7000]}},
    "command": ["${env}", "memdec", "run", "tiny.yaml", "${args_no_hyphens}"],
}


def sweep(folder, environment, *options):
    return subprocess.run(
        ["memdec", "sweep", "grid.yaml", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_same_file_without_an_account(environment, tiny_experiment, double, monkeypatch):
    monkeypatch.chdir(tiny_experiment)
    Path("grid.yaml").write_text(yaml.safe_dump(SWEEP))
    done = sweep(tiny_experiment, environment, "--jobs", "2")
    assert done.returncode == 1, done.stderr
    assert "sweep grid: 2 finished, 1 failed" in done.stdout
    refused = r"exit 2: memdec: knn\.k is 7,000 but the training text g(ives|ave)"
    assert re.search(refused, done.stdout)  # by the plan, or later where the text was not read yet
    assert not double.operations  # the server was there, and nobody asked it

    found = [json.loads(p.read_text()) for p in Path("artifacts").glob("runs/*/*/record.json")]
    measured = {
        record["config"]["knn"]["k"]: record["metrics"]["test/perplexity"]
        for record in found
        if record["method"] == "memory_decoder"
    }
    for k in (8, 3):
        line = rf"finished after \d+:\d\d: knn\.k={k} \(memory_decoder/test/perplexity (\S+)\)"
        assert float(re.search(line, done.stdout)[1]) == pytest.approx(measured[k], rel=1e-3)
    best = min(measured, key=measured.get)
    assert re.search(rf"best memory_decoder/test/perplexity: \S+ with knn\.k={best}", done.stdout)
    names = [path.name for path in Path("artifacts/datastore").glob("[!.]*")]
    assert len(names) == 1  # made by one trial, found by the others

    again = sweep(tiny_experiment, environment)
    assert again.returncode == 1
    assert "3 trials, 2 finished earlier" in again.stdout
    assert re.search(rf"best \S+ \S+ with knn\.k={best}", again.stdout)


@pytest.fixture
def reruns(tiny_experiment, monkeypatch):
    """Mark a sweep's trial as finished; return a function that tells whether it would rerun."""
    monkeypatch.chdir(tiny_experiment)
    Path("grid.yaml").write_text(yaml.safe_dump(SWEEP | {"parameters": {"seed": {"value": 4}}}))
    loaded = load_sweep("grid.yaml")

    def open_state():
        (state,) = open_states(loaded, tiny_experiment, tiny_experiment / "artifacts")
        return state

    state = open_state()
    state.open_log().close()
    state.start()
    state.end(0)
    return lambda: open_state().status is not Status.EARLIER


def test_a_finished_trial_is_not_run_again(reruns):
    assert not reruns()


def test_an_edited_text_makes_a_finished_trial_run_again(reruns):
    text = Path("train.txt").read_text()
    Path("train.txt").write_text(text + " More.")
    assert reruns()
    Path("train.txt").write_text(text)
    assert not reruns()
    Path("train.txt").unlink()
    assert reruns()  # and says what is missing


@pytest.mark.parametrize("change", ["commit", "edit"])
def test_other_code_makes_a_finished_trial_run_again(reruns, monkeypatch, change):
    if change == "commit":
        state = ("f" * 40, False)
        monkeypatch.setattr("memdec.pipeline.sweep_identity.source_state", lambda: state)
    else:
        monkeypatch.setattr("memdec.pipeline.sweep_identity._sources", lambda: "other")
    assert reruns()


def test_a_wrong_sweep_is_one_line_and_exit_code_2(environment, tiny_experiment):
    wrong = SWEEP | {"parameters": {"knn.kk": {"values": [3]}}}
    (tiny_experiment / "grid.yaml").write_text(yaml.safe_dump(wrong))
    done = sweep(tiny_experiment, environment)
    assert done.returncode == 2
    assert done.stderr.startswith("memdec: grid.yaml: command line: unknown key 'knn.kk'; did you")
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert not (tiny_experiment / "artifacts").exists()


def test_the_metric_is_that_of_the_records_of_the_trial(tiny_experiment, monkeypatch):
    tmp_path = tiny_experiment
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(yaml.safe_dump(SWEEP | {"parameters": {"seed": {"value": 4}}}))
    (trial,) = load_sweep("grid.yaml").trials
    own = run_folder(Job(trial.experiment, tmp_path))
    other = run_folder(Job(replace(trial.experiment, seed=5), tmp_path))

    def write(folder, method, value, status="complete"):
        metrics = {"test/perplexity": value}
        record = {"id": "x", "method": method, "alpha": None, "status": status, "metrics": metrics}
        path = folder / method / "record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))

    write(other, "memory_decoder", 2.0)
    assert read_metric(trial, "test/perplexity", tmp_path) is None
    write(own, "base", 9.0)
    write(own, "memory_decoder", 1.0, "failed")
    assert read_metric(trial, "memory_decoder/test/perplexity", tmp_path) is None
    (own / "memory_decoder" / "record.json").write_text("{")
    assert read_metric(trial, "memory_decoder/test/perplexity", tmp_path) is None
    write(own, "memory_decoder", 4.0)
    assert read_metric(trial, "test/perplexity", tmp_path) == 4.0  # the last method of the list
    assert read_metric(trial, "base/test/perplexity", tmp_path) == 9.0
    assert read_metric(trial, "train/loss", tmp_path) is None
    assert read_metric(trial, None, tmp_path) is None
    Path("test.txt").write_text("Another text.")
    assert read_metric(trial, "test/perplexity", tmp_path) is None


AGENT = """#!/bin/bash
echo "$@ in $PWD with $MEMDEC_ARTIFACTS" >> said.txt
if [ -f sleeps ]; then
  trap 'echo stopped >> said.txt; exit 3' TERM
  sleep 30 & wait
fi
"""


@pytest.fixture
def batch(tmp_path):
    """Return a function that starts the array job as Slurm would, with a stand-in for wandb."""
    (tmp_path / "wandb").write_text(AGENT)
    (tmp_path / "wandb").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    environment.pop("MEMDEC_ARTIFACTS", None)

    def start(*arguments):
        command = ["bash", ROOT / "sweeps" / "slurm.sbatch", *arguments]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def test_an_array_task_runs_one_trial(batch, tmp_path):
    assert batch("me/memdec/abc").wait(timeout=20) == 0
    said = (tmp_path / "said.txt").read_text()
    expected = f"agent --count 1 --forward-signals me/memdec/abc in {tmp_path}"
    assert said == f"{expected} with {tmp_path}/artifacts\n"


def test_an_array_task_without_a_sweep_says_what_it_wants(batch):
    _, error = (task := batch()).communicate(timeout=20)
    assert task.returncode == 1
    assert "give the sweep as ENTITY/PROJECT/ID" in error


def test_the_time_limit_reaches_the_agent(batch, tmp_path):
    (tmp_path / "sleeps").touch()
    task = batch("me/memdec/abc")
    while not (tmp_path / "said.txt").exists():
        time.sleep(0.05)
    time.sleep(0.3)  # the stand-in sets its trap right after it has written
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=20) == 3
    assert (tmp_path / "said.txt").read_text().endswith("stopped\n")
