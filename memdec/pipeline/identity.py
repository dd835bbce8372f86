"""What names a record and says what it is of."""

from typing import Any

from memdec.artifacts.fingerprint import fingerprint
from memdec.methods.contract import Method
from memdec.pipeline.job import Job

RECORD_SCHEMA = 1
_SILENT = ("logger", "methods")
"""Settings that no number of a record depends on."""


def record_fingerprint(job: Job, method: Method) -> str:
    """Return what names a method's record: its artifacts and every setting that can show in it."""
    settings = {key: value for key, value in job.experiment.facts().items() if key not in _SILENT}
    stages = {stage: job.fingerprint(stage) for stage in method.stages}
    return fingerprint({"method": method.name, "settings": settings, "stages": stages})


def describe(job: Job, method: Method) -> dict[str, Any]:
    """Return the fields that a record has before anything is measured."""
    experiment, name = job.experiment, record_fingerprint(job, method)
    return {
        "schema": RECORD_SCHEMA,
        "id": f"{experiment.name}-{method.name}-s{experiment.seed}-{name[:8]}",
        "experiment": experiment.name,
        "title": experiment.title,
        "table": experiment.table or experiment.name,
        "method": method.name,
        "label": method.label,
        "scale": experiment.scale,
        "seed": experiment.seed,
        "config": experiment.facts(),
        "fingerprint": name,
    }
