"""The number that a sweep looks at, from the records that its trials leave."""

import json
from pathlib import Path
from typing import Any

from memdec.pipeline.sweep_file import Trial
from memdec.pipeline.tracking import summary


def read_metric(trial: Trial, metric: str | None, runs: Path) -> float | None:
    """Return a finished trial's `metric` under its name in W&B, or None when no record has it.

    The trial's records are those in `runs` with its very settings; of several, the latest.
    """
    if metric is None or trial.experiment is None:
        return None
    settings = json.loads(json.dumps(trial.experiment.facts()))
    numbers: dict[str, Any] = {}
    for method in trial.experiment.methods:
        found = [
            record
            for path in runs.glob(f"{trial.experiment.name}-*/{method}/record.json")
            if (record := _read(path)).get("config") == settings and record["status"] == "complete"
        ]
        if found:
            numbers |= summary(max(found, key=lambda record: record["provenance"]["finished"]))
    value = numbers.get(metric)
    return value if isinstance(value, int | float) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
