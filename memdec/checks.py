"""Range checks for configuration values, each with one clear sentence."""

import math
from difflib import get_close_matches
from importlib.util import find_spec

from memdec.errors import ConfigError, MissingExtraError

EXTRAS = {
    "gguf": ("gguf", "accelerate"),
    "hub": ("datasets",),
    "lora": ("peft",),
    "rag": ("bm25s",),
}
"""Packages that an optional extra installs."""

SMALLEST_TEMPERATURE = 1e-6
"""Of kNN; below, float32 has no room for what it divides."""


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `allowed`, naming the near match first."""
    if value in allowed:
        return
    near = get_close_matches(value, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{key} is {value!r}; {hint}allowed: {', '.join(allowed)}.")


def check_at_least(key: str, value: float, least: float) -> None:
    """Raise ConfigError when `value` is below `least`."""
    if not least <= value < math.inf:
        raise ConfigError(f"{key} must be at least {least}, got {value}.")


def check_share(key: str, value: float) -> None:
    """Raise ConfigError unless `value` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{key} must lie in [0, 1], got {value}.")


def check_positive(key: str, value: float) -> None:
    """Raise ConfigError unless `value` is above 0."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{key} must be above 0, got {value}.")


def check_alpha(key: str, value: float | str) -> None:
    """Raise ConfigError unless `value` is a share in [0, 1] or the word validation."""
    if isinstance(value, str):
        if value != "validation":
            raise ConfigError(f"{key} is {value!r}; allowed: a number in [0, 1], or validation.")
    else:
        check_share(key, value)


def check_extra(who: str, extra: str) -> None:
    """Raise MissingExtraError unless the extra's packages are installed."""
    missing = " and ".join(package for package in EXTRAS[extra] if find_spec(package) is None)
    if missing:
        raise MissingExtraError(f"{who} needs {missing}: pip install 'memdec[{extra}]'.")
