"""Records as one table of pandas, for questions that no table of the report answers."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from memdec.errors import DataError
from memdec.results.loading import load_records

_EMPTY: dict[str, Any] = {
    "curves": {},
    "examples": [],
    "generation": None,
    "memories": {},
    "stages": [],
}


def records_frame(folder: str | Path = "reports/records") -> pd.DataFrame:
    """Return one row for each record below `folder`, with its id as index.

    Columns are dotted keys, such as `config.memory_decoder.beta`, `metrics.test/perplexity`,
    `budget.seconds` and `provenance.commit`; what a record lacks is NaN. Curves, examples and
    stages are left out.

    Raises:
        DataError: `folder` is not there, holds no record, or one that is unsound.
    """
    records, problems = load_records(Path(folder))
    if problems:
        raise DataError(problems[0])
    if not records:
        raise DataError(f"{folder}: no records; run an experiment, then: memdec collect.")
    # emptied first: to copy the curves and examples of all records takes seconds
    rows = [asdict(replace(record, **_EMPTY)) for record in records]
    return pd.json_normalize(rows).set_index("id").drop(columns=[*_EMPTY], errors="ignore")
