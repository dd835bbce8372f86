"""Fingerprints: an artifact is named by what made it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from memdec.artifacts.files import read_json, write_text

HEX_DIGITS = 16


def fingerprint(facts: Any) -> str:
    """Hash plain JSON facts to 16 hex digits; dictionary order does not matter."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HEX_DIGITS]


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileHashes:
    """Content hashes of the user's own files, remembered by path, size and modification time."""

    def __init__(self, cache_file: Path) -> None:
        self._cache_file = cache_file
        self._known: dict[str, str] = read_json(cache_file)  # a torn one costs more hashing

    def file(self, path: Path) -> str:
        """Return the sha256 of `path`, read again only when its size or time changed."""
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = hash_file(path)
            self._save()
        return self._known[key]

    def folder(self, path: Path, suffixes: tuple[str, ...]) -> str:
        """Return one hash over the files of `path` (not below it) with these suffixes."""
        files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in suffixes)
        return fingerprint([[p.name, self.file(p)] for p in files])

    def _save(self) -> None:
        self._cache_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._cache_file, json.dumps(self._known))
