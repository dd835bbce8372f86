"""Published numbers, typed by hand with their source; never mixed into our columns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from memdec.errors import DataError
from memdec.results.typed import from_plain


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper; rows and columns are keys that specs refer to."""

    id: str
    title: str
    source: str
    """Where the numbers stand, as a reader can look them up."""
    certainty: str
    """P: both versions of the full text; P1, P2: only that version; X: computed by us."""
    metric: str
    columns: list[str]
    rows: dict[str, list[float | None]]
    """Key of a row -> one number per column; null where the paper prints none."""
    notes: list[str] = field(default_factory=list)

    def value(self, row: str, column: str) -> float | None:
        """Return the published number, or None where there is none."""
        if row not in self.rows or column not in self.columns:
            return None
        return self.rows[row][self.columns.index(column)]


def published(tables: dict[str, PaperTable], table: str, row: str, column: str) -> float | None:
    """Return the number at `row` (or TABLE:ROW) and `column`, or None where there is none."""
    other, colon, key = row.rpartition(":")
    found = tables.get(other if colon else table)
    return found.value(key, column) if found else None


def load_paper(folder: Path | None) -> dict[str, PaperTable]:
    """Read every table of `folder`, by id.

    Raises:
        DataError: A file does not have the shape above.
    """
    tables = {}
    for path in sorted(folder.glob("*.yaml")) if folder else []:
        table: PaperTable = from_plain(PaperTable, read_yaml(path), str(path), strict=True)
        for key, numbers in table.rows.items():
            if len(numbers) != len(table.columns):
                raise DataError(
                    f"{path}: rows.{key} has {len(numbers)} numbers for {len(table.columns)} "
                    "columns."
                )
        tables[table.id] = table
    return tables


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain data."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a readable YAML file: {' '.join(str(error).split())}"
        ) from None
