"""Read a W&B sweep file: check it, expand its grid and render each trial's command."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from memdec.artifacts.fingerprint import fingerprint
from memdec.errors import ConfigError
from memdec.pipeline.experiment import Experiment, load_experiment
from memdec.pipeline.sweep_command import (
    Parameters,
    check_command,
    experiment_arguments,
    render,
)

# The keys of W&B's schema that mean something for a grid.
KEYS = (
    "command",
    "description",
    "entity",
    "method",
    "metric",
    "name",
    "parameters",
    "program",
    "project",
    "run_cap",
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the grid."""

    parameters: Parameters
    """Flat dotted names in alphabetical order, as W&B stores them."""
    command: tuple[str, ...]
    """What is executed, word by word."""
    experiment: Experiment | None
    """What `memdec run` would make of it; None when the command runs another program."""
    id: str
    """Eight hex digits over the command and the experiment's resolved settings."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A checked sweep file."""

    path: Path
    name: str
    """The file's name without its ending."""
    metric: str | None
    """The record's metric that the sweep looks at, such as test/perplexity."""
    minimize: bool
    """Whether a smaller one is better."""
    trials: tuple[Trial, ...]

    @property
    def varied(self) -> list[str]:
        """Names of the parameters that differ between trials."""
        names = self.trials[0].parameters
        return [
            name
            for name in names
            if any(trial.parameters[name] != names[name] for trial in self.trials)
        ]


def load_sweep(path: Path | str) -> Sweep:
    """Read and check a sweep file, down to every trial's experiment.

    Raises:
        ConfigError: With one sentence that starts with the file's path.
    """
    path = Path(path)
    try:
        return _build(path, _read(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def expand(parameters: Any) -> list[Parameters]:
    """Return every point of the grid; the first name alphabetically varies slowest.

    Raises:
        ConfigError: A parameter that is nested, empty, repeated, a range, or not plain values.
    """
    if not isinstance(parameters, dict) or not parameters:
        raise ConfigError("parameters is missing; give each one `value: X` or `values: [X, Y]`.")
    names = sorted(parameters, key=str)
    choices = [_choices(name, parameters[name]) for name in names]
    return [dict(zip(names, point, strict=True)) for point in product(*choices)]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError("not a file; give the path of a sweep's YAML file.")
    try:
        # The loader that `wandb sweep` uses, so that values are read alike (1e-4 stays text).
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ConfigError("must hold `key: value` lines (method, parameters, command).")
    for key in content:
        if key not in KEYS:
            raise ConfigError(_unknown(str(key)))
    return content


def _build(path: Path, content: dict[str, Any]) -> Sweep:
    _check_method(content.get("method"))
    program = content.get("program")
    command = check_command(content.get("command"), program)
    points = expand(content.get("parameters"))
    trials = [_trial(command, point, program) for point in points[: _run_cap(content)]]
    metric, minimize = _metric(content.get("metric", {}))
    return Sweep(path=path, name=path.stem, metric=metric, minimize=minimize, trials=tuple(trials))


def _trial(command: list[str], parameters: Parameters, program: str | None) -> Trial:
    rendered = render(command, parameters, program)
    arguments = experiment_arguments(rendered)
    experiment = None if arguments is None else _experiment(arguments)
    identity = fingerprint([rendered, experiment.facts() if experiment else None])[:8]
    return Trial(parameters=parameters, command=tuple(rendered), experiment=experiment, id=identity)


def _experiment(arguments: list[str]) -> Experiment:
    paths = [word for word in arguments if "=" not in word and not word.startswith("-")]
    if not paths:
        raise ConfigError("command names no experiment after `memdec run`; put its path there.")
    return load_experiment(paths[0], [word for word in arguments if word is not paths[0]])


def _choices(name: Any, spec: Any) -> list[Any]:
    if not isinstance(name, str):
        raise ConfigError(f"parameter name {name!r} must be text, such as memory_decoder.beta.")
    if not isinstance(spec, dict):
        raise ConfigError(f"parameter {name} must be `value: X` or `values: [X, Y]`, got {spec!r}.")
    if "parameters" in spec:
        raise ConfigError(
            f"parameter {name} is nested, which reaches the command as one dictionary; "
            f"use flat dotted names: {_flat_names(name, spec['parameters'])}."
        )
    if set(spec) == {"value"}:
        values = [spec["value"]]
    elif set(spec) == {"values"}:
        values = spec["values"]
    else:
        raise ConfigError(
            f"parameter {name} gives {', '.join(map(str, spec)) or 'nothing'}; a grid takes value "
            "or values only (ranges are drawn by the W&B server: use `wandb agent`)."
        )
    if not isinstance(values, list) or not values:
        raise ConfigError(f"parameter {name}: values must be a list with at least one value.")
    for index, value in enumerate(values):
        _check_value(name, value)
        if value in values[:index]:
            raise ConfigError(f"parameter {name} lists {value!r} twice; remove one.")
    return values


def _check_value(name: str, value: Any) -> None:
    if isinstance(value, dict):
        raise ConfigError(
            f"parameter {name} has the nested value {value!r}; use flat dotted names: "
            f"{_flat_names(name, value)}."
        )
    if value is None:
        raise ConfigError(f"parameter {name} has an empty value; it would reach memdec as `None`.")
    plain = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in plain):
        raise ConfigError(f"parameter {name} has {value!r}; use text, numbers, true or false.")


def _check_method(method: Any) -> None:
    if method == "grid":
        return
    if method in ("random", "bayes"):
        raise ConfigError(
            f"method {method} is drawn by the W&B server: run it with `wandb sweep` and "
            "`wandb agent`, or write method: grid."
        )
    raise ConfigError(f"method is {method!r}; write method: grid (random, bayes: `wandb agent`).")


def _metric(metric: Any) -> tuple[str | None, bool]:
    goal = metric.get("goal", "minimize") if isinstance(metric, dict) else None
    if goal not in ("minimize", "maximize"):
        raise ConfigError("metric must hold a name and the goal minimize or maximize.")
    return metric.get("name"), goal == "minimize"


def _run_cap(content: dict[str, Any]) -> int | None:
    cap = content.get("run_cap")
    if cap is None or (type(cap) is int and cap > 0):
        return cap
    raise ConfigError(f"run_cap must be a whole number above 0, got {cap!r}.")


def _flat_names(name: str, inner: Any) -> str:
    names: Iterable[Any] = inner if isinstance(inner, dict) and inner else ["KEY"]
    return ", ".join(f"{name}.{key}" for key in names)


def _unknown(key: str) -> str:
    near = get_close_matches(key, KEYS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key {key!r}; {hint}a grid uses: {', '.join(KEYS)}."
