"""Find and load the records of a folder; bad ones are named and skipped."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memdec.errors import DataError
from memdec.results.record import Record, read_record

RECORD_FILE = "record.json"


def find_records(folder: Path) -> list[Path]:
    """List record files: every record.json of finished runs below `folder`, else its *.json.

    Hidden folders hold unfinished runs and are passed over.
    """
    if folder.is_file():
        return [folder]
    found = sorted(
        path
        for path in folder.rglob(RECORD_FILE)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return found or sorted(path for path in folder.glob("*.json") if path.name[0] != ".")


def load_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Read the records of `folder`, sorted by id; bad ones are named in the second list.

    Raises:
        DataError: `folder` is not there.
    """
    if not folder.exists():
        raise DataError(f"{folder} is not there; run an experiment, then: memdec collect.")
    records: dict[str, Record] = {}
    files: dict[str, Path] = {}
    problems = []
    for path in find_records(folder):
        try:
            with _no_collection():
                record = read_record(path)
        except DataError as error:
            problems.append(str(error))
            continue
        if record.id in records:
            problems.append(
                f"{path}: id {record.id} is already in {files[record.id]}; delete one of the two."
            )
            continue
        records[record.id], files[record.id] = record, path
    return [records[key] for key in sorted(records)], problems


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hold the garbage collector: it would walk all records again and again, 4x the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
