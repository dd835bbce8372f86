"""Records as one table of pandas, for questions that no table of the report answers."""

from pathlib import Path

import pandas as pd

from memdec.errors import DataError
from memdec.results.loading import load_records

_LEFT_OUT = ("curves", "examples", "generation", "memories", "stages")


def records_frame(folder: str | Path = "reports/records") -> pd.DataFrame:
    """Return one row for each record below `folder`, with its id as index.

    Columns are dotted keys, such as `config.memory_decoder.beta`, `metrics.test/perplexity`,
    `budget.seconds` and `provenance.commit`; what a record lacks is missing there. Curves,
    examples, continuations, plugged memories and stages are left out.

    Raises:
        DataError: `folder` is not there, holds no record, or one that is unsound.
    """
    records, problems = load_records(Path(folder))
    if problems:
        raise DataError(problems[0])
    if not records:
        raise DataError(f"{folder}: no records; run an experiment, then: memdec collect.")
    rows = [vars(record) | {"provenance": vars(record.provenance)} for record in records]
    kept = [{key: row[key] for key in row if key not in _LEFT_OUT} for row in rows]
    return pd.json_normalize(kept).set_index("id")
