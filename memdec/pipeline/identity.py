"""What names a record and says what it is of."""

from pathlib import Path
from typing import Any

from memdec.artifacts.fingerprint import fingerprint
from memdec.methods.contract import Method
from memdec.methods.registry import METHODS
from memdec.models.exports import read_memory_facts
from memdec.pipeline.job import Job
from memdec.results.record import SCHEMA

_SILENT = ("logger", "methods")
"""Settings that no number of a record depends on."""


def record_fingerprint(job: Job, method: Method) -> str:
    """Return what names a method's record: its artifacts and every setting that can show in it."""
    settings = {key: value for key, value in job.experiment.facts().items() if key not in _SILENT}
    stages = {stage: job.fingerprint(stage) for stage in method.stages}
    return fingerprint({"method": method.name, "settings": settings, "stages": stages})


def record_fingerprints(job: Job) -> list[str]:
    """Return what names the record of each of the experiment's methods."""
    return [record_fingerprint(job, METHODS[name]) for name in job.experiment.methods]


def run_folder(job: Job) -> Path:
    """Return the folder of METHOD/record.json."""
    run = fingerprint(record_fingerprints(job))[:8]
    return job.root / "runs" / f"{job.experiment.name}-{run}"


def describe(job: Job, method: Method) -> dict[str, Any]:
    """Return the fields that a record has before anything is measured."""
    experiment, name = job.experiment, record_fingerprint(job, method)
    return {
        "schema": SCHEMA,
        "id": f"{experiment.name}-{method.name}-s{experiment.seed}-{name[:8]}",
        "experiment": experiment.name,
        "title": experiment.title,
        "table": experiment.table or experiment.name,
        "method": method.name,
        "label": method.label,
        "scale": experiment.scale,
        "seed": experiment.seed,
        "config": _config(job, method),
        "fingerprint": name,
    }


def given_memories(job: Job, method: Method) -> dict[str, Any]:
    """Return what identifies each trained memory that is plugged in, by its folder."""
    return {
        str(path): {"hash": job.hash_of_memory(path), "trained_with": _trained_with(path)}
        for path in job.given_memories(method.stages)
    }


def _config(job: Job, method: Method) -> dict[str, Any]:
    """Return the experiment; where memories are plugged in, with the settings that made them.

    None stands where they differ, and for settings of the memory that none of them states.
    """
    config, given = job.experiment.facts(), job.given_memories(method.stages)
    if not given:
        return config
    made_with = [_trained_with(path) for path in given]
    for section in ("memory_decoder", "datastore", "knn", "trainer"):
        for name in config[section].keys() - {"trained", "alpha"}:
            values = [settings.get(f"{section}.{name}") for settings in made_with]
            if section == "memory_decoder" or any(value is not None for value in values):
                is_one = all(value == values[0] for value in values)
                config[section][name] = values[0] if is_one else None
    return config


def _trained_with(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = read_memory_facts(path).get("trained_with", {})
    return settings
