"""Gather the records of finished runs into the tracked folder of results."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memdec.errors import DataError
from memdec.results.loading import RECORD_FILE, find_records
from memdec.results.record import Record, parse_record, read_facts, read_record, write_plain

RECORDS = Path("reports/records")


@dataclass(kw_only=True)
class Collected:
    """What `collect` did, by record id; any problem makes the exit status 2."""

    copied: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def collect(
    sources: Sequence[Path], destination: Path = RECORDS, allow_dirty: bool = False
) -> Collected:
    """Copy each finished record under `sources` to `destination`/ID.json.

    A record that cannot be read, comes from edited sources (unless `allow_dirty`) or differs from
    one of the same id is named in `problems` and left out. A failed record gives way to a complete
    one of the same id.

    Raises:
        DataError: A source is not there, or the sources hold no record at all.
    """
    result = Collected()
    found = []
    for source in sources:
        if not source.exists():
            raise DataError(f"{source} is not there; give a run folder or a {RECORD_FILE}.")
        found += find_records(source)
    if not found:
        places = ", ".join(map(str, sources))
        raise DataError(f"no {RECORD_FILE} under {places}; run first: memdec run EXPERIMENT.")
    for path in found:
        try:
            record_id, copied = _place(path, destination, allow_dirty)
            (result.copied if copied else result.unchanged).append(record_id)
        except DataError as error:
            result.problems.append(str(error))
    return result


def _place(path: Path, destination: Path, allow_dirty: bool) -> tuple[str, bool]:
    """Copy one record; return its id and whether anything was written."""
    facts = read_facts(path)
    record = parse_record(facts, str(path))
    if record.provenance.dirty and not allow_dirty:
        raise DataError(
            f"{path}: made from edited sources ({_edited(record)}); commit, remove the artifacts "
            "that they made and run again, or pass --allow-dirty."
        )
    target = destination / f"{record.id}.json"
    if target.exists():
        kept = read_record(target)
        overtaken = record.complete and not kept.complete
        if not overtaken and _result(kept) != _result(record):
            raise DataError(
                f"{path}: differs from {target}, which has the same id; delete the one that is "
                "wrong."
            )
        if not overtaken:
            return record.id, False
    write_plain(facts, target)
    return record.id, True


def _edited(record: Record) -> str:
    stages = [f"{stage.name}/{stage.fingerprint}" for stage in record.stages if stage.dirty]
    return ", ".join(stages) or "the run itself"


def _result(record: Record) -> tuple[Any, ...]:
    """Return what must agree; seconds and provenance differ each time a run is repeated."""
    return record.fingerprint, record.status, record.metrics, record.alpha, record.tuned
