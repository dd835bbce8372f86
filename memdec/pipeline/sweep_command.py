"""Render a sweep file's command for one trial, exactly as `wandb agent` does."""

import json
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from memdec.errors import ConfigError

Parameters = dict[str, Any]

# Macros that carry the parameters, and the rest; `wandb agent` drops an unknown one in silence.
ARGUMENT_MACROS = (
    "args",
    "args_no_hyphens",
    "args_no_equals",
    "args_no_boolean_flags",
    "args_json",
    "args_append_hydra",
    "args_override_hydra",
)
MACROS = ("env", "interpreter", "program", *ARGUMENT_MACROS)
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def check_command(command: Any, program: str | None) -> list[str]:
    """Return the `command` of a sweep file as strings, each macro known and standing alone.

    Raises:
        ConfigError: No command, not a list, an unknown or embedded macro, or no parameters in it.
    """
    if command is None:
        raise ConfigError(
            "command is missing; list one, such as ${env}, memdec, run, EXPERIMENT, "
            "${args_no_hyphens}."
        )
    if not isinstance(command, list) or not command:
        raise ConfigError("command must be a list, one argument an element (`- memdec`, `- run`).")
    chunks = [_text(chunk) for chunk in command]
    for chunk in chunks:
        _check_macro(chunk)
    if "${program}" in chunks and not program:
        raise ConfigError("command uses ${program} but the sweep file has no program.")
    if not any(chunk == f"${{{name}}}" for chunk in chunks for name in ARGUMENT_MACROS):
        raise ConfigError(
            "command never uses the parameters, so every trial would be the same run; "
            "add ${args_no_hyphens}."
        )
    return chunks


def render(command: Sequence[str], parameters: Parameters, program: str | None) -> list[str]:
    """Fill the macros of a checked command with one trial's parameters."""
    values = _macro_values(parameters) | {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [program or ""],
    }
    rendered: list[str] = []
    for chunk in command:
        text = VARIABLE.sub(lambda match: os.environ[match[1]], chunk)
        whole = text.startswith("${") and text.endswith("}")
        rendered += values[text[2:-1]] if whole else [text]
    return rendered


def experiment_arguments(rendered: Sequence[str]) -> list[str] | None:
    """Return what follows `memdec run` (or `-m memdec run`), or None for another program."""
    for index in range(1, len(rendered)):
        if rendered[index] != "run":
            continue
        caller = rendered[index - 1]
        as_module = index > 1 and rendered[index - 2] == "-m" and caller == "memdec.cli"
        if PurePath(caller).name == "memdec" or as_module:
            return list(rendered[index + 1 :])
    return None


def _macro_values(parameters: Parameters) -> dict[str, list[str]]:
    pairs = [f"{name}={value}" for name, value in parameters.items()]
    flags: list[str] = []
    for name, value in parameters.items():
        if not isinstance(value, bool):
            flags.append(f"--{name}={value}")
        elif value:
            flags.append(f"--{name}")
    return {
        "args": [f"--{pair}" for pair in pairs],
        "args_no_hyphens": pairs,
        "args_no_equals": [
            part for name, value in parameters.items() for part in (f"--{name}", str(value))
        ],
        "args_no_boolean_flags": flags,
        "args_json": [json.dumps(parameters)],
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
    }


def _text(chunk: Any) -> str:
    if isinstance(chunk, str | int | float):
        return str(chunk)
    raise ConfigError(f"command holds {chunk!r}; every element must be plain text.")


def _check_macro(chunk: str) -> None:
    for name in VARIABLE.findall(chunk):
        if name not in os.environ:
            raise ConfigError(f"command uses ${{envvar:{name}}} but {name} is not set; export it.")
    rest = VARIABLE.sub("", chunk)
    if "${" not in rest:
        return
    name = rest.removeprefix("${").removesuffix("}")
    if rest == f"${{{name}}}" and name in MACROS:
        return
    if any(f"${{{macro}}}" in rest for macro in MACROS):
        raise ConfigError(
            f"command element {chunk!r} mixes a macro with text; a macro is filled in only when "
            "it is an element of its own."
        )
    near = get_close_matches(name, MACROS, n=1)
    hint = f"did you mean ${{{near[0]}}}? " if near else ""
    raise ConfigError(
        f"command holds the unknown macro {chunk}; {hint}known: {', '.join(MACROS)}, envvar:NAME."
    )
