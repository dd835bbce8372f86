"""The rendered command is what wandb's own agent would execute."""

import os

import pytest

from memdec.errors import ConfigError
from memdec.pipeline.sweep_command import (
    ARGUMENT_MACROS,
    MACROS,
    check_command,
    experiment_arguments,
    render,
)

PARAMETERS = [
    {"memory_decoder.beta": 0.5, "seed": 1},
    {"trainer.learning_rate": 1e-05, "knn.temperature": 16.0, "knn.k": 1024},
    {"a.on": True, "a.off": False, "prompt": "two words = one", "text_rate": "1e-4"},
    {"methods": ["base", "knn_lm"], "knn_lm.temperatures": [1.0, 2], "empty": ""},
]
COMMANDS = [
    ["${env}", "memdec", "run", "experiments/demo.yaml", "${args_no_hyphens}"],
    ["${env}", "${interpreter}", "${program}", "${args}"],
    ["${interpreter}", "-m", "memdec.cli", "run", "x-${envvar:MEMDEC_TEST}.yaml", "${args}", 3],
    *(["before", f"${{{name}}}", "after"] for name in ARGUMENT_MACROS),
]


class _CapturedError(Exception):
    pass


@pytest.fixture
def agent_command(monkeypatch, tmp_path):
    """Return a function that asks wandb's Agent what it would execute."""
    from wandb import wandb_agent

    def capture(command, env, forward_signals):
        raise _CapturedError(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", capture)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them; undo that
        monkeypatch.setenv(name, "unset")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))

    def ask(command, parameters, program):
        agent = object.__new__(wandb_agent.Agent)
        agent._sweep_command = list(command)
        agent._function = None
        agent._in_jupyter = agent._forward_signals = False
        args = {name: {"value": value} for name, value in parameters.items()}
        with pytest.raises(_CapturedError) as caught:
            agent._command_run({"run_id": "r", "program": program, "args": args})
        return caught.value.args[0]

    return ask


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_rendering_equals_the_agents(agent_command, monkeypatch, command, parameters):
    monkeypatch.setenv("MEMDEC_TEST", "demo")
    ours = render(check_command(command, "train.py"), parameters, "train.py")
    assert ours == agent_command(command, parameters, "train.py")


def test_every_known_macro_is_one_the_agent_fills(agent_command):
    for name in MACROS:
        filled = agent_command(["a", f"${{{name}}}"], {"x": 1}, "train.py")
        assert len(filled) > 1, name


def test_the_agent_drops_what_we_refuse(agent_command):
    """The reason for the refusal: the agent runs the same command for every trial."""
    command = ["memdec", "run", "e.yaml", "${args_no_hyphen}"]
    assert agent_command(command, {"seed": 1}, None) == ["memdec", "run", "e.yaml"]
    with pytest.raises(ConfigError, match=r"unknown macro.*did you mean \$\{args_no_hyphens\}"):
        check_command(command, None)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (None, "command is missing"),
        ([], "must be a list"),
        ("memdec run e.yaml ${args}", "must be a list"),
        (["memdec", "run", "e.yaml"], "never uses the parameters"),
        (["memdec", {"run": 1}, "${args}"], "must be plain text"),
        (["memdec", "run", "${program}", "${args}"], "has no program"),
        (["memdec", "run", "--x=${args}"], "mixes a macro with text"),
        (["memdec", "run", "e.yaml", "${args_json_file}"], "unknown macro"),
        (["memdec", "run", "seed=${seed}", "${args}"], "unknown macro"),
        (["memdec", "${envvar:MEMDEC_NO_SUCH}", "${args}"], "MEMDEC_NO_SUCH is not set"),
    ],
)
def test_refused_commands(command, message):
    assert "MEMDEC_NO_SUCH" not in os.environ
    with pytest.raises(ConfigError, match=message) as caught:
        check_command(command, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rendered", "expected"),
    [
        (["/usr/bin/env", "memdec", "run", "e.yaml", "a=1"], ["e.yaml", "a=1"]),
        (["/opt/bin/memdec", "run", "e.yaml"], ["e.yaml"]),
        (["python", "-m", "memdec.cli", "run", "e.yaml"], ["e.yaml"]),
        (["torchrun", "-m", "memdec.cli", "run", "e.yaml"], ["e.yaml"]),
        (["python", "memdec.cli", "run", "e.yaml"], None),
        (["python", "train.py", "run"], None),
        (["run"], None),
    ],
)
def test_the_experiment_follows_memdec_run(rendered, expected):
    assert experiment_arguments(rendered) == expected
