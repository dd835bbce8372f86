"""Read plain JSON or YAML data into typed dataclasses, naming the field that does not fit."""

import math
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from memdec.errors import DataError

Converter = Callable[[Any], Any]
_WORDS = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


class _Misfit(Exception):  # noqa: N818  (never leaves this module)
    """A value of the wrong shape; the containers around it add their place on the way out."""

    def __init__(self, words: str, *path: str) -> None:
        self.words, self.path = words, list(path)

    def within(self, place: str) -> "_Misfit":
        self.path.insert(0, place)
        return self

    @property
    def field(self) -> str:
        return "".join(self.path).removeprefix(".") or "the content"


def from_plain(kind: Any, value: Any, where: str, strict: bool = False) -> Any:
    """Return `value` as the dataclass (or other type) `kind`.

    `where` opens each message: the file. With `strict`, keys that `kind` lacks are refused;
    without it they are ignored, so that a record may carry more than we read.

    Raises:
        DataError: A field is missing, unknown or of the wrong type.
    """
    try:
        return _converter(kind, strict)(value)
    except _Misfit as misfit:
        raise DataError(f"{where}: {misfit.field} {misfit.words}.") from None


# Built once per type: a record holds ten thousand values, and reports read hundreds of records.
@cache
def _converter(kind: Any, strict: bool) -> Converter:
    if kind is Any:
        return lambda value: value
    if is_dataclass(kind):
        return _dataclass(kind, strict)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _literal(arguments)
    if origin in (UnionType, Union):
        inner = _converter(next(a for a in arguments if a is not NoneType), strict)
        return lambda value: None if value is None else inner(value)
    containers = {dict: _mapping, list: _list, tuple: _tuple}
    if origin in containers:
        return containers[origin]([_converter(argument, strict) for argument in arguments])
    return _number if kind is float else _scalar(kind)


def _dataclass(kind: Any, strict: bool) -> Converter:
    hints = get_type_hints(kind)
    converters = {name: _converter(hint, strict) for name, hint in hints.items()}
    required = [
        f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
    ]

    def convert(value: Any) -> Any:
        given = _check(value, dict, "a mapping")
        for name in given if strict else ():
            if name not in hints:
                raise _Misfit(_unknown(str(name), list(hints)), f".{name}")
        for name in required:
            if name not in given:
                raise _Misfit("is missing", f".{name}")
        facts = {}
        for name, convert_field in converters.items():
            if name in given:
                try:
                    facts[name] = convert_field(given[name])
                except _Misfit as misfit:
                    raise misfit.within(f".{name}") from None
        return kind(**facts)

    return convert


def _mapping(inner: list[Converter]) -> Converter:
    def convert(value: Any) -> Any:
        result = {}
        for key, entry in _check(value, dict, "a mapping").items():
            try:
                result[str(key)] = inner[1](entry)
            except _Misfit as misfit:
                raise misfit.within(f".{key}") from None
        return result

    return convert


def _list(inner: list[Converter]) -> Converter:
    convert_entry = inner[0]

    def convert(value: Any) -> Any:
        result = []
        for entry in _check(value, list, "a list"):
            try:
                result.append(convert_entry(entry))
            except _Misfit as misfit:
                raise misfit.within(f"[{len(result)}]") from None
        return result

    return convert


def _tuple(inner: list[Converter]) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            raise _Misfit(f"must be a list of {len(inner)} values, got {_short(value)}")
        return tuple([convert_entry(entry) for convert_entry, entry in zip(inner, value)])  # noqa: B905

    return convert


def _literal(allowed: tuple[Any, ...]) -> Converter:
    def convert(value: Any) -> Any:
        if value not in allowed:
            raise _Misfit(f"is {_short(value)}; allowed: {', '.join(map(str, allowed))}")
        return value

    return convert


def _number(value: Any) -> Any:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int:
        return float(value)
    raise _Misfit(f"must be {_WORDS[float]}, got {_short(value)}")


def _scalar(kind: type) -> Converter:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise _Misfit(f"must be {_WORDS[kind]}, got {_short(value)}")
        return value

    return convert


def _check(value: Any, kind: type, words: str) -> Any:
    if not isinstance(value, kind):
        raise _Misfit(f"must be {words}, got {_short(value)}")
    return value


def _unknown(name: str, allowed: list[str]) -> str:
    near = get_close_matches(name, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"is an unknown key; {hint}allowed: {', '.join(allowed)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
