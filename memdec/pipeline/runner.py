"""Run an experiment: all stages of all its methods, one record each, one table at the end."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memdec.artifacts.files import read_json, write_text
from memdec.artifacts.provenance import now, provenance, source_state
from memdec.errors import ConfigError, MemdecError
from memdec.methods.contract import Method
from memdec.methods.registry import METHODS
from memdec.pipeline.experiment import Experiment
from memdec.pipeline.identity import describe, run_folder
from memdec.pipeline.job import Job
from memdec.pipeline.plan import check_room, make_plan
from memdec.pipeline.preflight import check_devices, check_models
from memdec.pipeline.shards import Shard
from memdec.pipeline.stages import STAGES, stages_of

Record = dict[str, Any]


@dataclass(frozen=True)
class RunResult:
    """What a run left."""

    folder: Path
    """Holds METHOD/record.json."""
    records: list[Record]


def run_experiment(experiment: Experiment, root: Path, rank: int = 0) -> RunResult | None:
    """Make what is missing and return the records of all methods.

    Under torchrun or a Lightning strategy every process runs this; those with a rank above 0 only
    help to train and return None.

    Raises:
        MemdecError: A mistake of the user's, before or during the work; nothing is half-written.
    """
    job, methods = _open(experiment, root, rank)
    folder = run_folder(job)
    _check(job, stages_of(experiment, methods))
    if rank > 0:
        for stage in job.required(stages_of(experiment, methods)):
            if STAGES[stage].collective:
                job.artifact(stage)
        return None
    records = [_record(job, method, folder / method.name / "record.json") for method in methods]
    return RunResult(folder, records)


def run_shard(experiment: Experiment, root: Path, shard: Shard) -> list[str]:
    """Make one shard of encoding, search and targets, as far as the other shards allow.

    Returns what there is to say: the stages done, and which shards the next one waits for.

    Raises:
        MemdecError: As for `run_experiment`, or the methods have no such stage.
    """
    job, methods = _open(experiment, root, rank=0)
    stages = stages_of(experiment, methods)
    _check(job, stages)
    needed = job.required(stages)
    lines = []
    for name in (name for name in needed if STAGES[name].merge):
        missing = job.shard(name, shard)
        if missing:
            names = ", ".join(map(str, missing))
            lines.append(f"{name}: has {shard}, waits for {names}; run this again then")
            break
        lines.append(f"{name}: complete")
    if not lines:
        raise ConfigError(
            "--shard: no stage of these methods is made in parts (those of kNN targets and of "
            "kNN-LM are); run without it."
        )
    return lines


def _open(experiment: Experiment, root: Path, rank: int) -> tuple[Job, list[Method]]:
    source_state()  # remembered now: the sources may change while a long stage runs
    methods = [METHODS[name] for name in experiment.methods]
    for method in methods:
        method.check()
    return Job(experiment, root, rank), methods


def _check(job: Job, stages: tuple[str, ...]) -> None:
    """Refuse what cannot end well, before anything is made (but a converted base)."""
    check_room(job, make_plan(job, stages))
    required = job.required(stages)
    check_devices(job, required)
    check_models(job, required)


def _record(job: Job, method: Method, path: Path) -> Record:
    if found := _finished(path):
        return found
    started = now()
    try:
        from memdec.pipeline.evaluate import evaluate

        record = evaluate(job, method, started)
        _write(path, record)
    except MemdecError:
        raise
    except Exception as error:
        _write(path, _failure(job, method, started, error))
        raise
    return record


def _finished(path: Path) -> Record | None:
    """Return a complete record of this very code; another is made anew from the artifacts."""
    record, (commit, dirty) = read_json(path), source_state()
    made = record.get("provenance", {})
    made_here = made.get("commit") == commit and not made["dirty"] and not dirty
    return record if made_here and record["status"] == "complete" else None


def _write(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def _failure(job: Job, method: Method, started: str, error: Exception) -> Record:
    return describe(job, method) | {
        "metrics": {},
        "provenance": provenance() | {"started": started, "finished": now()},
        "status": "failed",
        "error": f"{type(error).__name__}: {_first_line(error)}".removesuffix(": "),
    }


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
