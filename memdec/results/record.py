"""The record of one method in one run: the only source of our numbers."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from memdec.artifacts.files import write_text
from memdec.errors import DataError
from memdec.results.typed import from_plain

SCHEMA = 1
SCALES = ("paper", "small", "smoke")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What experiments and tables are called: files carry these names."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """One scored token of test text; natural log-probabilities, probabilities in the tops."""

    text: str
    lm: float
    mixture: float
    lm_top: list[tuple[str, float]] = field(default_factory=list)
    memory_top: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A stretch of a test document with what each model thought of its tokens."""

    tokens: list[Token]
    document: int = 0


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One prompt and its two greedy continuations."""

    prompt: str
    base: str
    adapted: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the run: what it cost, and whether it was there already."""

    name: str
    seconds: float
    bytes: int = 0
    reused: bool = False
    fingerprint: str = ""
    commit: str = ""
    dirty: bool = False
    """Made by sources that were edited since that commit."""


@dataclass(frozen=True, kw_only=True)
class Plugged:
    """A trained memory that was plugged in."""

    hash: str
    """Of the content of its export."""
    trained_with: dict[str, Any] = field(default_factory=dict)
    """Settings that it and its targets follow from, by their dotted keys."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where, when and with what the numbers were made."""

    commit: str
    dirty: bool
    command: str
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one method left behind; `record.json` may hold more."""

    schema: int
    id: str
    experiment: str
    table: str
    method: str
    scale: Literal["smoke", "small", "paper"]
    seed: int
    config: dict[str, Any]
    fingerprint: str
    status: Literal["complete", "failed"]
    provenance: Provenance
    title: str = ""
    label: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    alpha: float | None = None
    tuned: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    """Columns of equal length; null stands where a value is infinite (alpha 1 of a kNN-LM)."""
    examples: list[Example] = field(default_factory=list)
    generation: Generation | None = None
    budget: dict[str, float] = field(default_factory=dict)
    memories: dict[str, Plugged] = field(default_factory=dict)
    """Trained memories that were plugged in, by their folders."""
    stages: list[Stage] = field(default_factory=list)
    error: str | None = None

    @property
    def name(self) -> str:
        """The method's name for people."""
        return self.label or self.method

    @property
    def topic(self) -> str:
        """The experiment's name for people."""
        return self.title or self.experiment

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "complete"


def parse_record(facts: Any, where: str) -> Record:
    """Check plain `facts` and return the record; `where` names their file in messages.

    Raises:
        DataError: A newer schema, or a field that is missing, of the wrong type or inconsistent.
    """
    schema = facts.get("schema") if isinstance(facts, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise DataError(
            f"{where}: schema {schema} is newer than {SCHEMA}, the newest that this memdec reads; "
            "upgrade memdec."
        )
    record: Record = from_plain(Record, facts, where)
    _check(record, where)
    return record


def read_record(path: Path) -> Record:
    """Read and check one record file."""
    return parse_record(read_facts(path), str(path))


def read_facts(path: Path) -> Any:
    """Read a record file as plain data, refusing what is not strict JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}.") from None


def write_plain(facts: Any, path: Path) -> None:
    """Write plain `facts` as JSON with one fixed layout, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _check(record: Record, where: str) -> None:
    if record.schema < 1:
        raise DataError(f"{where}: schema is {record.schema}; allowed: 1.")
    for key in ("id", "experiment", "table", "method"):
        if not NAME.fullmatch(getattr(record, key)):
            raise DataError(
                f"{where}: {key} is {getattr(record, key)!r}; it names files: use letters, digits, "
                "dot, dash and underscore."
            )
    if record.complete and not record.metrics:
        raise DataError(f"{where}: metrics is empty, but status is complete.")
    if not record.complete and not record.error:
        raise DataError(f"{where}: error is missing, but status is failed.")
    if record.alpha is not None and not 0 <= record.alpha <= 1:
        raise DataError(f"{where}: alpha must lie in [0, 1], got {record.alpha}.")
    for key, (low, high) in record.intervals.items():
        if low > high:
            raise DataError(
                f"{where}: intervals.{key} must run from low to high, got {low}, {high}."
            )
    for key, columns in record.curves.items():
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{where}: curves.{key} has columns of unequal length: {lengths}.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null where a curve is infinite")
