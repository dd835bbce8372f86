"""What a trial of a sweep would make today: its records, and the code that makes them."""

from functools import cache
from pathlib import Path

import memdec
from memdec.artifacts.fingerprint import fingerprint, hash_file
from memdec.artifacts.provenance import source_state
from memdec.errors import MemdecError
from memdec.pipeline.identity import record_fingerprints
from memdec.pipeline.job import Job
from memdec.pipeline.sweep_file import Trial


def trial_identity(trial: Trial, root: Path) -> str | None:
    """Return what changes when the trial's text, models, settings, commit or sources do.

    A trial of another program is known by its command alone. Returns None when something that the
    experiment names cannot be read: the trial itself then says what.
    """
    if trial.experiment is None:
        return trial.id
    try:
        records = record_fingerprints(Job(trial.experiment, root))
    except (MemdecError, OSError):
        return None
    return fingerprint([records, source_state(), _sources()])


@cache
def _sources() -> str:
    folder = Path(memdec.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return fingerprint([[str(file.relative_to(folder)), hash_file(file)] for file in files])
