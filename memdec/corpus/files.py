"""Read documents from text and JSON lines, plain or gzipped; each mistake is one clear line."""

import glob
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, cast

from memdec.artifacts.files import expand_home
from memdec.errors import DataError

_BLANK_LINES = re.compile(r"\n\s*\n")
_BYTE_ORDER_MARK = "\ufeff"
_GZIP_MAGIC = b"\x1f\x8b"
_FIELDS_SHOWN = 8


def resolve_files(key: str, locator: str) -> list[Path]:
    """Return the file that `locator` names, or the sorted files that match it as a pattern."""
    path = expand_home(locator)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise DataError(
            f"{key} is the folder {path}; give a file, or a pattern such as {path}/*.txt."
        )
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (absolute patterns)
    files = [Path(match) for match in matches if Path(match).is_file()]
    if not files:
        raise DataError(f"{key} is {locator!r}, where there is no file; check the path or pattern.")
    return files


def read_text_files(files: list[Path], document_split: str) -> Iterator[str]:
    r"""Yield the documents of UTF-8 text files: each whole (file) or cut at blank lines.

    A byte order mark is left out and \r\n reads as \n.
    """
    for path in files:
        with _open(path) as file:
            text = _decode(file.read(), path, 0)
        text = text.removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n")
        yield from [text] if document_split == "file" else _BLANK_LINES.split(text)


def read_json_lines(files: list[Path], field: str) -> Iterator[str]:
    """Yield the string `field` of the object on each line; empty lines are passed over."""
    for path in files:
        offset = 0
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                text = _decode(line, path, offset).removeprefix(_BYTE_ORDER_MARK)
                offset += len(line)
                if text.strip():
                    yield _text_of(text.rstrip(), field, f"{path}:{number}")


def describe_fields(field: str, names: list[str]) -> str:
    """Say which near match and which fields there are, and which setting picks one."""
    near = get_close_matches(field, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(names[:_FIELDS_SHOWN]) + (", ..." if len(names) > _FIELDS_SHOWN else "")
    return f"{hint}set corpus.text_field to one of: {shown or '(there is none)'}"


def check_text(text: object, field: str, place: str) -> str:
    """Return `text` when it is a string that UTF-8 can write."""
    if not isinstance(text, str):
        raise DataError(f"{place}: field {field!r} holds {_kind(text)}; it must hold a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: field {field!r} holds half a character (a lone surrogate) at index "
            f"{error.start}; write the whole character or remove it."
        ) from None
    return text


def _text_of(line: str, field: str, place: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place} is not JSON ({error.msg}, column {error.colno}); each line must hold one "
            f"whole object with a field {field!r}."
        ) from None
    if not isinstance(row, dict):
        raise DataError(
            f"{place} holds {_kind(row)}; each line must hold an object with a field {field!r}."
        )
    if field not in row:
        raise DataError(f"{place} has no field {field!r}; {describe_fields(field, list(row))}.")
    return check_text(row[field], field, place)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _decode(data: bytes, path: Path, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte, place = data[error.start], offset + error.start
        raise DataError(
            f"{path} is not UTF-8: byte 0x{byte:02x} at offset {place}; "
            f"convert it, for example with iconv -f latin1 -t utf-8."
        ) from None


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, unzipped when it begins as gzip does."""
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] == _GZIP_MAGIC:
                with gzip.open(file) as unzipped:
                    yield cast(IO[bytes], unzipped)
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); fetch it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
