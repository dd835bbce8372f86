"""Read plain JSON or YAML data into typed dataclasses, naming the field that does not fit."""

import math
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from memdec.errors import DataError

_WORDS = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


def from_plain(kind: Any, value: Any, where: str, strict: bool = False) -> Any:
    """Return `value` as the dataclass (or other type) `kind`.

    `where` opens each message: the file. With `strict`, keys that `kind` lacks are refused;
    without it they are ignored, so that a record may carry more than we read.

    Raises:
        DataError: A field is missing, unknown or of the wrong type.
    """
    return _Reader(where, strict).convert(kind, value, "")


@dataclass(frozen=True)
class _Reader:
    where: str
    strict: bool

    def convert(self, kind: Any, value: Any, field: str) -> Any:
        if kind is Any:
            return value
        if is_dataclass(kind):
            return self._dataclass(kind, value, field)
        readers = {
            UnionType: self._optional,
            Union: self._optional,
            Literal: self._literal,
            dict: self._mapping,
            list: self._list,
            tuple: self._tuple,
        }
        origin = get_origin(kind)
        if origin in readers:
            return readers[origin](get_args(kind), value, field)
        return self._scalar(kind, value, field)

    def _dataclass(self, kind: Any, value: Any, field: str) -> Any:
        hints = _hints(kind)
        given = self._check(value, dict, "a mapping", field or "the content")
        if self.strict:
            self._refuse_unknown(given, list(hints), field)
        for name in _required(kind):
            if name not in given:
                raise DataError(f"{self.where}: {_join(field, name)} is missing.")
        return kind(
            **{
                name: self.convert(hint, given[name], _join(field, name))
                for name, hint in hints.items()
                if name in given
            }
        )

    def _refuse_unknown(self, given: dict[Any, Any], allowed: list[str], field: str) -> None:
        unknown = [str(key) for key in given if key not in allowed]
        if unknown:
            near = get_close_matches(unknown[0], allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"{self.where}: unknown key {_join(field, unknown[0])!r}; {hint}"
                f"allowed: {', '.join(allowed)}."
            )

    def _optional(self, kinds: tuple[Any, ...], value: Any, field: str) -> Any:
        if value is None and NoneType in kinds:
            return None
        return self.convert(next(kind for kind in kinds if kind is not NoneType), value, field)

    def _literal(self, allowed: tuple[Any, ...], value: Any, field: str) -> Any:
        if value not in allowed:
            raise DataError(
                f"{self.where}: {field} is {_short(value)}; allowed: {', '.join(allowed)}."
            )
        return value

    def _mapping(self, kinds: tuple[Any, ...], value: Any, field: str) -> Any:
        entries = self._check(value, dict, "a mapping", field)
        return {
            str(key): self.convert(kinds[1], entry, _join(field, key))
            for key, entry in entries.items()
        }

    def _list(self, kinds: tuple[Any, ...], value: Any, field: str) -> Any:
        entries = self._check(value, list, "a list", field)
        return [
            self.convert(kinds[0], entry, f"{field}[{index}]")
            for index, entry in enumerate(entries)
        ]

    def _tuple(self, kinds: tuple[Any, ...], value: Any, field: str) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise DataError(
                f"{self.where}: {field} must be a list of {len(kinds)} values, got {_short(value)}."
            )
        return tuple(
            self.convert(kind, entry, f"{field}[{index}]")
            for index, (kind, entry) in enumerate(zip(kinds, value, strict=True))
        )

    def _scalar(self, kind: Any, value: Any, field: str) -> Any:
        fits = isinstance(value, (int, float) if kind is float else kind)
        if isinstance(value, bool) and kind is not bool:
            fits = False
        if fits and kind is float:
            fits = math.isfinite(value)
        if not fits:
            raise DataError(f"{self.where}: {field} must be {_WORDS[kind]}, got {_short(value)}.")
        return float(value) if kind is float else value

    def _check(self, value: Any, kind: type, words: str, field: str) -> Any:
        if not isinstance(value, kind):
            raise DataError(f"{self.where}: {field} must be {words}, got {_short(value)}.")
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(field: str, name: Any) -> str:
    return f"{field}.{name}" if field else str(name)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _required(kind: Any) -> list[str]:
    return [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
