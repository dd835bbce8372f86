"""A table ready to print: headings, rows and cells with their text."""

from dataclasses import dataclass
from typing import Any

from memdec.results.aggregate import Cell
from memdec.results.record import Record
from memdec.results.specs import Column, TableSpec

PLUS_MINUS = "\u00b1"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """One printed column: ours, or the paper's."""

    label: str
    column: Column
    is_paper: bool = False


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One printed cell: the number, and the text that shows it."""

    text: str
    best: bool = False
    cell: Cell | None = None
    """None in a column of the paper."""
    published: float | None = None

    @property
    def halves(self) -> tuple[str, str]:
        """The number, and what stands behind it: spread, interval, lost runs."""
        number, _, rest = self.text.partition(" ")
        return number, rest


@dataclass(frozen=True, kw_only=True)
class Row:
    """One printed row."""

    group: str
    label: str
    method: str
    """The method behind the row when it is one; it picks the colour."""
    where: dict[str, Any]
    """What picked the row's records."""
    n: str
    cells: list[Printed]

    @property
    def name(self) -> str:
        """The label outside the table: no "+ " for what is added to the base."""
        return self.label.removeprefix("+ ")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table at one scale."""

    spec: TableSpec
    scale: str
    headings: list[Heading]
    rows: list[Row]
    records: list[Record]
    notes: list[str]

    @property
    def measured(self) -> bool:
        """Whether it shows at least one record."""
        return bool(self.records)


def number(value: float | None, digits: int | None) -> str:
    """Print a number, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def cell_text(cell: Cell, digits: int | None) -> str:
    """Print a cell: mean, spread, interval, and how many runs were lost."""
    if cell.mean is None:
        return "failed" if cell.failed else "-"
    text = number(cell.mean, digits)
    if cell.spread is not None:
        text += f" {PLUS_MINUS} {number(cell.spread, digits)}"
    if cell.interval:
        text += f" [{number(cell.interval[0], digits)}, {number(cell.interval[1], digits)}]"
    return f"{text}, {cell.failed} failed" if cell.failed else text
