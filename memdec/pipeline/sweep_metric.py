"""The number that a sweep looks at, from the records that its trials leave."""

from pathlib import Path
from typing import Any

from memdec.artifacts.files import read_json
from memdec.errors import MemdecError
from memdec.pipeline.identity import run_folder
from memdec.pipeline.job import Job
from memdec.pipeline.sweep_file import Trial
from memdec.pipeline.tracking import summary


def read_metric(trial: Trial, metric: str | None, root: Path) -> float | None:
    """Return a finished trial's `metric` under its name in W&B, or None when no record has it.

    The trial's records are where a run would now put them: in a folder below the artifacts' `root`
    that is named by its settings and the content of its text and models.
    """
    if metric is None or trial.experiment is None:
        return None
    try:
        folder = run_folder(Job(trial.experiment, root))
    except (MemdecError, OSError):
        return None
    numbers: dict[str, Any] = {}
    for method in trial.experiment.methods:
        record = read_json(folder / method / "record.json")
        if record.get("status") == "complete":
            numbers |= summary(record)
    value = numbers.get(metric)
    return value if isinstance(value, int | float) else None
