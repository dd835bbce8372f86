"""Sweep files: the grid, and everything that is refused before the first trial."""

import pytest
import yaml

from memdec.errors import ConfigError
from memdec.pipeline.sweep_file import expand, load_sweep

EXPERIMENT = "name: tiny\nscale: smoke\n"
GOOD = {
    "program": "memdec",
    "method": "grid",
    "metric": {"name": "test/perplexity", "goal": "minimize"},
    "parameters": {"seed": {"values": [0, 1, 2]}, "memory_decoder.beta": {"values": [0.0, 0.5]}},
    "command": ["${env}", "memdec", "run", "tiny.yaml", "${args_no_hyphens}"],
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)

    def write_sweep(**changes):
        content = {key: value for key, value in (GOOD | changes).items() if value != "drop"}
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content))
        return "grid.yaml"

    return write_sweep


def test_the_grid_is_every_combination_once(write):
    sweep = load_sweep(write())
    assert [tuple(trial.parameters.values()) for trial in sweep.trials] == [
        (0.0, 0),
        (0.0, 1),
        (0.0, 2),
        (0.5, 0),
        (0.5, 1),
        (0.5, 2),
    ]
    assert sweep.trials[3].command == (
        "/usr/bin/env",
        "memdec",
        "run",
        "tiny.yaml",
        "memory_decoder.beta=0.5",
        "seed=0",
    )
    assert sweep.trials[3].experiment.memory_decoder.beta == 0.5
    assert sweep.name == "grid"
    assert sweep.metric == "test/perplexity"


def test_names_are_sorted_as_wandb_sweep_stores_them():
    points = expand({"b": {"values": [1, 2]}, "a": {"values": ["x", "y"]}})
    assert list(map(list, points)) == [["a", "b"]] * 4
    assert [tuple(point.values()) for point in points] == [("x", 1), ("x", 2), ("y", 1), ("y", 2)]


def test_only_differing_parameters_name_a_trial(write):
    parameters = {"knn.k": {"value": 8}, "seed": {"values": [0, 1]}}
    assert load_sweep(write(parameters=parameters)).varied == ["seed"]


def test_a_trials_id_follows_the_experiment_file_too(write, tmp_path):
    before = [trial.id for trial in load_sweep(write()).trials]
    assert len(set(before)) == 6
    assert [trial.id for trial in load_sweep(write()).trials] == before
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT + "title: another\n")
    after = [trial.id for trial in load_sweep(write()).trials]
    assert not set(before) & set(after)


def test_run_cap_cuts_the_grid(write):
    assert len(load_sweep(write(run_cap=4)).trials) == 4


def test_another_program_is_expanded_but_not_checked(write):
    sweep = load_sweep(write(command=["python", "train.py", "${args}"]))
    assert sweep.trials[0].experiment is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, "parameters is missing"),
        ({}, "parameters is missing"),
        ({"memory_decoder": {"parameters": {"beta": {"value": 1}}}}, r"use.*memory_decoder\.beta"),
        ({"memory_decoder": {"value": {"beta": 0.5}}}, r"nested value.*memory_decoder\.beta"),
        ({"seed": {"values": [{"x": 1}]}}, r"nested value.*seed\.x"),
        ({"seed": 3}, r"must be `value: X`"),
        ({"seed": {}}, "gives nothing"),
        ({"seed": {"values": []}}, "at least one value"),
        ({"seed": {"values": 3}}, "must be a list"),
        ({"seed": {"value": 1, "values": [1]}}, "value or values only"),
        ({"seed": {"min": 0, "max": 9}}, "use `wandb agent`"),
        ({"seed": {"values": [1, 2, 1]}}, "lists 1 twice"),
        ({"seed": {"value": None}}, "empty value"),
        ({3: {"value": 1}}, "must be text"),
    ],
)
def test_refused_parameters(parameters, message):
    with pytest.raises(ConfigError, match=message) as caught:
        expand(parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "random"}, r"method random .*`wandb agent`"),
        ({"method": "bayes"}, r"method bayes .*`wandb agent`"),
        ({"method": "drop"}, "write method: grid"),
        ({"method": "gird"}, "write method: grid"),
        ({"command": "drop"}, "command is missing"),
        ({"command": ["memdec", "run", "tiny.yaml", "${arg}"]}, "unknown macro"),
        ({"command": ["memdec", "run", "no.yaml", "${args}"]}, "no.yaml is not a file"),
        ({"command": ["memdec", "run", "${args}"]}, "names no experiment"),
        (
            {"command": ["memdec", "run", "tiny.yaml", "b.yaml", "${args}"]},
            "'b.yaml' is not of the form",
        ),
        ({"parameters": {"memory_decoder.betta": {"value": 0.5}}}, "did you mean beta"),
        ({"parameters": {"memory_decoder.beta": {"values": [0.5, "half"]}}}, "half"),
        ({"parameters": {"memory_decoder.beta": {"values": [0.5, 1.5]}}}, r"must lie in \[0, 1\]"),
        ({"parameters": {"seed": {"values": [1, 1.5]}}}, r"seed.*1\.5"),
        ({"paramters": {}}, "did you mean parameters"),
        ({"run_cap": 0}, "run_cap must be"),
        ({"metric": "loss"}, "metric must hold a name"),
    ],
)
def test_refused_files(write, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_sweep(write(**changes))
    assert str(caught.value).startswith("grid.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00"])
def test_refused_text(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml: ") as caught:
        load_sweep(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"no-such\.yaml: not a file"):
        load_sweep("no-such.yaml")


def test_numbers_are_read_as_wandb_reads_them(write):
    """YAML 1.1 reads 1e-4 as text; the command must hold it as the agent would write it."""
    with open(write(), "a") as file:  # noqa: PTH123
        file.write("description: x\n")
    text = yaml.safe_dump(GOOD | {"parameters": {}}).replace(
        "parameters: {}", "parameters: {trainer.learning_rate: {values: [1e-4, 2.5e-5, 0.00001]}}"
    )
    with open("rates.yaml", "w") as file:  # noqa: PTH123
        file.write(text)
    words = [trial.command[-1].partition("=")[2] for trial in load_sweep("rates.yaml").trials]
    assert words == ["1e-4", "2.5e-05", "1e-05"]
    rates = [trial.experiment.trainer.learning_rate for trial in load_sweep("rates.yaml").trials]
    assert rates == [1e-4, 2.5e-5, 1e-5]
