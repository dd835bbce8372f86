"""What figures share: the rows that they draw, with records, names and styles."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from memdec.results.printed import Printed, Row, Table
from memdec.results.record import Record
from memdec.results.svg import NUM_STYLES, Chart, style_of


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawing with its words."""

    name: str
    kind: str
    """dots, curve, alpha, ...; panels for several curves in one."""
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row's record in a figure of one experiment."""

    label: str
    style: str
    group: str
    record: Record


def runs_of(table: Table) -> list[list[Run]]:
    """Return each experiment's rows with their complete records of one seed.

    The seed is the lowest of those that most rows have.
    """
    found = []
    for experiment in sorted({record.experiment for record in table.records if record.complete}):
        rows, by_seed = rows_with_runs(table, lambda row: row.cells, experiment)
        counts = Counter(seed for runs in by_seed for seed in runs)
        seed = min(counts, key=lambda seed: (-counts[seed], seed))
        labels = zip(rows, by_seed, names_of(rows), styles_of(rows), strict=True)
        found.append(
            [
                Run(label=label, style=style, group=row.group, record=runs[seed])
                for row, runs, label, style in labels
                if seed in runs
            ]
        )
    return found


def rows_with_runs(
    table: Table, cells_of: Callable[[Row], Iterable[Printed]], experiment: str = ""
) -> tuple[list[Row], list[dict[int, Record]]]:
    """Return the rows with complete records in some cells, and those by seed (lowest id)."""
    complete = [
        record
        for record in sorted(table.records, key=lambda record: record.id, reverse=True)
        if record.complete and experiment in ("", record.experiment)
    ]
    rows, by_seed = [], []
    for row in table.rows:
        ids = {i for printed in cells_of(row) if printed.cell for i in printed.cell.ids}
        if runs := {record.seed: record for record in complete if record.id in ids}:
            rows.append(row)
            by_seed.append(runs)
    return rows, by_seed


def names_of(rows: list[Row]) -> list[str]:
    """Name rows, with their groups where there are several."""
    several = len({row.group for row in rows}) > 1
    return [f"{row.group if several else ''} {row.name}".strip() for row in rows]


def styles_of(rows: list[Row]) -> list[str]:
    """Give each row its method's style, and where several share a method the free ones."""
    styles = [style_of(row.method) for row in rows]
    free = [style for n in range(1, NUM_STYLES + 1) if (style := f"s{n}") not in styles]
    again = [place for place, style in enumerate(styles) if style in styles[:place]]
    for number, place in enumerate(again):
        styles[place] = free[number % len(free)]
    return styles


def figure_of(table: Table, kind: str, words: str, chart: Chart, caption: str) -> Figure:
    """Return a chart of a table as the figure that the report shows."""
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    name = "-".join(filter(None, [table.spec.name, table.scale, kind, slug]))
    return Figure(name=name, kind=kind, title=chart.title, caption=caption, svg=chart.svg())
