"""The real `wandb sweep` and `wandb agent` over real `memdec run`s; only the server is a double."""

import json
import re
import subprocess

import pytest
import yaml

from memdec.pipeline.sweep_file import load_sweep

SWEEP = {
    "program": "memdec",
    "method": "grid",
    "metric": {"name": "test/perplexity", "goal": "minimize"},
    # No text of this size has 7,000 rows: that trial fails.
    "parameters": {"knn.k": {"values": [8, 3, 7000]}, "memory_decoder.beta": {"value": 0.5}},
    "command": ["${env}", "memdec", "run", "tiny.yaml", "${args_no_hyphens}"],
}


def start(arguments, folder, environment):
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(arguments, folder, environment, code=0):
    process = start(arguments, folder, environment)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == code, out
    return out


def records(folder):
    found = [json.loads(path.read_text()) for path in folder.glob("artifacts/runs/*/*/record.json")]
    return {
        record["config"]["knn"]["k"]: record
        for record in found
        if record["method"] == "memory_decoder" and record["status"] == "complete"
    }


@pytest.fixture
def swept(double, environment, tiny_experiment, monkeypatch):
    """Two agents at once over three trials; return the folder and the trials we would run."""
    monkeypatch.chdir(tiny_experiment)
    (tiny_experiment / "grid.yaml").write_text(yaml.safe_dump(SWEEP))
    out = run(["wandb", "sweep", "grid.yaml"], tiny_experiment, environment)
    name = re.search(r"wandb agent (\S+)", out)[1]
    agents = [start(["wandb", "agent", name], tiny_experiment, environment) for _ in range(2)]
    said = [agent.communicate(timeout=180)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said  # also when a trial failed
    return tiny_experiment, load_sweep("grid.yaml").trials


def test_two_agents_share_a_sweep(double, swept):
    folder, trials = swept
    runs = {run.arguments["knn.k"]: run for run in double.runs.values()}

    # each point of the grid ran once, with the command that memdec renders for it
    assert len(double.runs) == 3
    assert {run.agent for run in runs.values()} == {"agent0", "agent1"}
    executed = {
        tuple(facts["args"])
        for run in runs.values()
        for facts in run.config["_wandb"]["e"].values()
    }
    assert executed == {trial.command[2:] for trial in trials}

    # a failing trial is marked failed, the others finished
    assert {k: run.state for k, run in runs.items()} == {
        8: "finished",
        3: "finished",
        7000: "failed",
    }

    # settings, training curve and results arrive, and are the record's
    made = records(folder)
    assert set(made) == {3, 8}
    for k, record in made.items():
        assert runs[k].config["knn.k"] == k
        assert runs[k].config["knn.temperature"] == 1
        assert [entry for entry in runs[k].history if "train/loss" in entry]
        for key, value in record["metrics"].items():
            assert runs[k].summary[key] == runs[k].summary[f"memory_decoder/{key}"] == value
        assert runs[k].summary["base/test/perplexity"] > 0
        assert runs[k].summary["record"] == record["id"]

    # stages upstream of k were made by one trial and found by the other
    stages = [{stage["name"]: stage for stage in record["stages"]} for record in made.values()]
    for name in ("tokens", "base_scores", "datastore", "neighbors"):
        assert stages[0][name]["fingerprint"] == stages[1][name]["fingerprint"]
        assert len(list((folder / "artifacts" / name).glob("[!.]*"))) == 1
    for name in ("targets", "memory"):
        assert stages[0][name]["fingerprint"] != stages[1][name]["fingerprint"]


def test_an_offline_run_is_synced_later(double, environment, tiny_experiment):
    command = ["memdec", "run", "tiny.yaml", "logger=wandb", "methods=[base,dapt]"]
    run(command, tiny_experiment, environment | {"WANDB_MODE": "offline"})
    assert not double.runs
    (folder,) = tiny_experiment.glob("wandb/offline-run-*")
    run(["wandb", "sync", str(folder)], tiny_experiment, environment)
    (synced,) = double.runs.values()
    assert synced.state == "finished"
    assert synced.config["model.source"]
    assert synced.summary["test/perplexity"] == synced.summary["dapt/test/perplexity"] > 0
    # every curve, whatever its prefix, is drawn over the training step
    assert any("dapt-train/loss" in entry for entry in synced.history)
    step, curves = synced.config["_wandb"]["m"]  # W&B's numbers: 1 name, 2 pattern, 5 x-axis
    assert (step["1"], curves["2"], curves["5"]) == ("trainer/global_step", "*", 1)


def test_nothing_of_wandb_is_imported_unless_asked_for(environment, tiny_experiment):
    code = (
        "import sys\nfrom memdec.cli import main\n"
        "try:\n    main(['run', 'tiny.yaml'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('wandb' in sys.modules, 'torch' in sys.modules)"
    )
    out = run(["python", "-c", code], tiny_experiment, environment)
    assert out.splitlines()[-1] == "False True"
    assert not (tiny_experiment / "wandb").exists()
