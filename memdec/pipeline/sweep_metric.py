"""The number that a sweep looks at, from the records that its trials leave."""

from pathlib import Path
from typing import Any

from memdec.artifacts.files import read_json
from memdec.errors import MemdecError
from memdec.pipeline.sweep_file import Trial
from memdec.pipeline.sweep_identity import record_fingerprints
from memdec.pipeline.tracking import summary


def read_metric(trial: Trial, metric: str | None, root: Path) -> float | None:
    """Return a finished trial's `metric` under its name in W&B, or None when no record has it.

    The trial's records are those below the artifacts' `root` that are named as a run would name
    them now: by its settings and the content of its text and models. Of several, the latest.
    """
    if metric is None or trial.experiment is None:
        return None
    try:
        names = record_fingerprints(trial.experiment, root)
    except (MemdecError, OSError):
        return None
    numbers: dict[str, Any] = {}
    for method, name in names.items():
        found = [
            record
            for path in root.glob(f"runs/{trial.experiment.name}-*/{method}/record.json")
            if (record := read_json(path)).get("fingerprint") == name
            and record["status"] == "complete"
        ]
        if found:
            numbers |= summary(max(found, key=lambda record: record["provenance"]["finished"]))
    value = numbers.get(metric)
    return value if isinstance(value, int | float) else None
