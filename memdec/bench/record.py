"""The record of a machine's benchmarks: plain JSON, each entry with its own provenance."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memdec.artifacts.files import write_text
from memdec.artifacts.provenance import hardware, provenance
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Outcome
from memdec.errors import ConfigError, DataError

SCHEMA = 1


def make_entry(
    config: BenchConfig, outcome: Outcome, ceiling: dict[str, float], others_cpu_share: float
) -> dict[str, Any]:
    """Return one benchmark's part of the record."""
    return {
        "config": asdict(config),
        "ceiling": ceiling,
        "others_cpu_share": others_cpu_share,
        "figures": [figure.to_json(ceiling["gemm_gflops"]) for figure in outcome.figures],
        "checks": [check.to_json() for check in outcome.checks],
        "grids": [asdict(grid) for grid in outcome.grids],
        "notes": outcome.notes,
        "provenance": provenance(),
    }


def is_correct(entry: dict[str, Any]) -> bool:
    """Tell whether all checks passed."""
    return all(check["passed"] for check in entry["checks"])


def record_file(folder: Path) -> Path:
    """Return where this machine's record stands in a folder.

    Raises:
        ConfigError: `folder` looks like a file.
    """
    if folder.suffix or folder.is_file():
        raise ConfigError(
            f"--output is {folder}; give a folder, such as reports/bench; the file in it is "
            "named after the machine."
        )
    return folder / f"{_slug()}.json"


def update_record(file: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Write entries into this machine's record; other benchmarks there stay as they are."""
    fresh: dict[str, Any] = {"schema": SCHEMA, "benchmarks": {}}
    record = read_record(file) if file.exists() else fresh
    record["hardware"] = hardware()
    record["benchmarks"] |= entries
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_record(file: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        DataError: It is broken or of another schema.
    """
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if record["schema"] == SCHEMA and record["benchmarks"].keys() >= set():
            return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DataError(f"{file} is no record of benchmarks of schema {SCHEMA}; move it away.")


def _slug() -> str:
    facts = hardware()
    name = facts["gpu"] or f"{facts['cpu']} {facts['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("(r)", "").replace("(tm)", "")).strip(
        "-"
    )
