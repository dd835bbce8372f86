"""From a spec and records to tables that are ready to print."""

from dataclasses import dataclass, replace

from memdec.results.aggregate import Cell, aggregate, split_variants
from memdec.results.footer import notes_of, rivals_ahead
from memdec.results.paper import PaperTable, published
from memdec.results.printed import Heading, Printed, Row, Table, cell_text, number
from memdec.results.record import SCALES, Record
from memdec.results.specs import PERPLEXITY, Column, Selector, TableSpec, expand, matches

BITS_PER_BYTE = "test/bits_per_byte"


def build_tables(
    spec: TableSpec, records: list[Record], paper: dict[str, PaperTable]
) -> list[Table]:
    """Return one table per scale: those with records, and the paper's when it printed numbers."""
    owned = [record for record in records if spec.owns(record)]
    found = {record.scale for record in owned}
    scales = [s for s in SCALES if s in found or (s == "paper" and spec.paper)]
    return [
        _build(spec, [record for record in owned if record.scale == scale], scale, paper)
        for scale in scales or ["small"]
    ]


def generic_spec(records: list[Record], described: TableSpec | None = None) -> TableSpec:
    """Return the spec for records of one table that `described` does not show, if it is there."""
    experiments = sorted({record.experiment for record in records})
    titles = sorted({record.title for record in records if record.title})
    name = records[0].table
    title = titles[0] if len(titles) == 1 else name
    return TableSpec(
        name=f"{name}-other" if described else name,
        title=f"{described.title}: other records" if described else title,
        where={"table": name},
        groups=[Selector(by="experiment")] if len(experiments) > 1 else [Selector()],
        columns=[
            Column(label="Test perplexity", interval=True),
            Column(label="Validation perplexity", metric="validation/perplexity"),
            Column(label="Bits per byte", metric=BITS_PER_BYTE, digits=3),
            Column(label="alpha", metric="alpha", better="none"),
            Column(
                label="Parameters (M)",
                metric="budget.parameters",
                better="none",
                digits=1,
                factor=1e-6,
            ),
            Column(label="Seconds", metric="budget.seconds", better="none", digits=0),
        ],
        page=True,
    )


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What all rows of one table share."""

    spec: TableSpec
    headings: list[Heading]
    paper: dict[str, PaperTable]
    """Empty at other scales than the paper's, where its numbers compare with nothing."""


def _build(
    spec: TableSpec, records: list[Record], scale: str, paper: dict[str, PaperTable]
) -> Table:
    paper = {key: paper[key] for key in spec.paper_tables} if scale == "paper" else {}
    headings = _headings(spec, records, scale, bool(paper))
    layout = _Layout(spec=spec, headings=headings, paper=paper)
    rows: list[Row] = []
    for group in expand(spec.groups, records, scale):
        in_group = [record for record in records if matches(record, group.where)]
        block: list[Row] = []
        for selector in expand(spec.rows, in_group, scale):
            block += _rows(layout, group, selector, in_group)
        rows += _with_best(block, headings)
    shown = {i for row in rows for printed in row.cells if printed.cell for i in printed.cell.ids}
    records = [record for record in records if record.id in shown]
    has_intervals = any(heading.column.interval for heading in headings)
    notes = notes_of(records, list(paper.values()), has_intervals, spec.metric)
    if spec.metric == PERPLEXITY:
        notes = rivals_ahead(rows, headings) + notes
    return Table(spec=spec, scale=scale, headings=headings, rows=rows, records=records, notes=notes)


def _headings(
    spec: TableSpec, records: list[Record], scale: str, with_paper: bool
) -> list[Heading]:
    headings = []
    for given in expand(spec.columns, records, scale):
        column = replace(
            given,
            metric=given.metric or spec.metric,
            better=given.better or spec.better,
            digits=spec.digits if given.digits is None else given.digits,
        )
        headings.append(Heading(label=column.label, column=column))
        if spec.bits_per_byte and not column.average and column.metric == spec.metric:
            bits = replace(column, metric=BITS_PER_BYTE, digits=3, paper="")
            headings.append(Heading(label=f"{column.label} bits/byte", column=bits))
        if with_paper and column.paper:
            label = f"paper: {column.label}"
            headings.append(Heading(label=label, column=column, is_paper=True))
    return headings


def _rows(layout: _Layout, group: Selector, selector: Selector, records: list[Record]) -> list[Row]:
    """Return one row, or one per variant when settings differ between its records."""
    chosen = [record for record in records if matches(record, selector.where)]
    method = str(selector.where.get("method") or group.where.get("method", ""))
    key = " ".join(filter(None, [group.paper, selector.paper or method]))
    variants: dict[str, dict[str, Record]] = {}
    for heading in layout.headings:
        if heading.column.average:  # no records of its own: it would match all columns'
            continue
        in_cell = [record for record in chosen if matches(record, heading.column.where)]
        for words, members in split_variants(in_cell, layout.spec.metric) if in_cell else []:
            variants.setdefault(words, {}).update({record.id: record for record in members})
    rows = []
    for words, by_id in (variants or {"": {}}).items():
        members = [by_id[record_id] for record_id in sorted(by_id)]
        cells = [_print(layout, heading, members, key) for heading in layout.headings]
        label = selector.label or method
        rows.append(
            Row(
                group=group.label,
                label=f"{label} ({words})" if words else label,
                method=method,
                where={**group.where, **selector.where},
                n=_count(cells),
                cells=_with_average(cells, layout.headings),
            )
        )
    return rows


def _print(layout: _Layout, heading: Heading, records: list[Record], key: str) -> Printed:
    column = heading.column
    if heading.is_paper:
        value = published(layout.paper, layout.spec.paper, key, column.paper)
        return Printed(text=_as_published(value, column.digits), published=value)
    if column.average:
        return Printed(text="-", cell=Cell())
    cell = aggregate([r for r in records if matches(r, column.where)], column)
    return Printed(text=cell_text(cell, column.digits), cell=cell)


def _as_published(value: float | None, digits: int | None) -> str:
    """Print no digit that the paper does not, but two at least."""
    typed = len(str(value).partition(".")[2])
    return number(value, min(digits or 0, max(2, typed)))


def _with_average(cells: list[Printed], headings: list[Heading]) -> list[Printed]:
    result = list(cells)
    for index, heading in enumerate(headings):
        if heading.is_paper or not heading.column.average:
            continue
        left = [
            printed.cell.mean if printed.cell else None
            for printed, other in zip(cells[:index], headings[:index], strict=True)
            if not other.is_paper and other.column.metric == heading.column.metric
        ]
        numbers = [mean for mean in left if mean is not None]
        if numbers and len(numbers) == len(left):
            cell = Cell(mean=sum(numbers) / len(numbers))
            result[index] = Printed(text=cell_text(cell, heading.column.digits), cell=cell)
    return result


def _count(cells: list[Printed]) -> str:
    """Print the number of finished seeds, as a range when the columns differ."""
    counts = {printed.cell.n for printed in cells if printed.cell and printed.cell.n}
    if not counts:
        return "-"
    return str(max(counts)) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def _with_best(rows: list[Row], headings: list[Heading]) -> list[Row]:
    """Mark the best printed number of each of our columns, ties and all, among two rows or more."""
    best: dict[int, str] = {}
    for index, heading in enumerate(headings):
        means = [row.cells[index].cell.mean for row in rows if row.cells[index].cell]  # type: ignore[union-attr]
        numbers = [mean for mean in means if mean is not None]
        if len(numbers) > 1 and heading.column.better != "none" and not heading.is_paper:
            choose = min if heading.column.better == "lower" else max
            best[index] = number(choose(numbers), heading.column.digits)
    return [
        replace(
            row,
            cells=[
                replace(
                    printed,
                    best=index in best
                    and printed.cell is not None
                    and number(printed.cell.mean, headings[index].column.digits) == best[index],
                )
                for index, printed in enumerate(row.cells)
            ],
        )
        for row in rows
    ]
