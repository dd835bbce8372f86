"""Table specs: which rows, columns and metric make one table of the report. A spec is data."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from memdec.checks import check_choice
from memdec.errors import DataError
from memdec.results.paper import PaperTable, read_yaml
from memdec.results.record import Record
from memdec.results.typed import from_plain

PERPLEXITY = "test/perplexity"
Better = Literal["lower", "higher", "none"]
_FIELDS = ("experiment", "method", "table", "scale", "seed", "alpha", "label", "title", "status")
_SECTIONS = ("config", "budget", "tuned")


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Picks records for a row or a group of rows."""

    label: str = ""
    """Text for people; with `by`, {value} stands for the value."""
    where: dict[str, Any] = field(default_factory=dict)
    """Field -> value, list of values or pattern with *; fields: experiment, config.KEY, ..."""
    by: str = ""
    """Field: one row (group, column) for each of its values among the records."""
    paper: str = ""
    """Key in the paper's table, or TABLE:KEY; for rows the method's name stands in."""


@dataclass(frozen=True, kw_only=True)
class Column(Selector):
    """Picks records and one of their numbers; what is left out comes from the table."""

    metric: str = ""
    """Key of metrics, or alpha, budget.KEY, tuned.KEY."""
    better: Better | None = None
    digits: int | None = None
    factor: float = 1.0
    """Multiplies the number, as 1.0e-6 for a column in millions."""
    interval: bool = False
    """Show the 95% interval over test documents."""
    average: bool = False
    """Mean over the columns to the left, when none is missing."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One table; each scale gets a table of its own."""

    name: str
    title: str
    caption: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    """Records of this table; by default those whose table is `name`."""
    metric: str = PERPLEXITY
    better: Better = "lower"
    digits: int = 2
    bits_per_byte: bool = False
    """Put bits per byte beside each column: for rows with different tokenizers."""
    groups: list[Selector] = field(default_factory=lambda: [Selector()])
    rows: list[Selector] = field(default_factory=lambda: [Selector(by="method")])
    columns: list[Column] = field(default_factory=lambda: [Column(by="experiment")])
    paper: str = ""
    """Id of the paper's table."""
    page: bool = False
    """Also write a page of its own, NAME.md, beside index.html."""
    figures: bool = True
    """Draw figures; false for another look at the runs of other tables."""
    order: int = 9
    """Place in the report; equals by name."""
    curve: str = ""
    """Field that is the horizontal axis when the rows are points of a curve, as in `by`."""
    panels: list[str] = field(default_factory=list)
    """Tables whose curves over a setting are also drawn as one figure, in this table's section."""

    @property
    def paper_tables(self) -> list[str]:
        """Ids of the paper's tables that it quotes."""
        others = [row.paper.split(":")[0] for row in self.rows if ":" in row.paper]
        return list(dict.fromkeys(filter(None, [self.paper, *others])))

    def owns(self, record: Record) -> bool:
        """Tell whether the record belongs to this table."""
        return matches(record, self.where or {"table": self.name})


def load_specs(folder: Path | None, paper: dict[str, PaperTable]) -> list[TableSpec]:
    """Read every spec of `folder`, in the order of the report.

    Raises:
        DataError: Unknown key, wrong type, unknown field, or a paper table that is not there.
        ConfigError: `panels` names a spec that is not there.
    """
    specs = []
    for path in sorted(folder.glob("*.yaml")) if folder else []:
        spec: TableSpec = from_plain(TableSpec, read_yaml(path), str(path), strict=True)
        if spec.name != path.stem:
            raise DataError(f"{path}: name is {spec.name!r}; it must be the file's, {path.stem!r}.")
        for table in spec.paper_tables:
            if table not in paper:
                raise DataError(
                    f"{path}: paper is {table!r}; known tables: {', '.join(sorted(paper))}."
                )
        for selector in [*spec.groups, *spec.rows, *spec.columns]:
            for key in [*selector.where, *filter(None, [selector.by, spec.curve])]:
                _check_field(key, path)
        specs.append(spec)
    names = tuple(sorted(spec.name for spec in specs))
    for spec in specs:
        for name in spec.panels:
            check_choice(f"{spec.name}: panels", name, names)
    return sorted(specs, key=lambda spec: (spec.order, spec.name))


def matches(record: Record, where: dict[str, Any]) -> bool:
    """Tell whether each field of `where` holds for the record."""
    return all(_accepts(wanted, field_of(record, key)) for key, wanted in where.items())


def field_of(record: Record, key: str) -> Any:
    """Return a record's field by name, such as method or config.knn.k; None when it is absent."""
    section, _, rest = key.partition(".")
    if section not in _SECTIONS:
        return getattr(record, key)
    value: Any = getattr(record, section)
    for part in rest.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def number_of(record: Record, metric: str) -> float | None:
    """Return the number that a column shows, or None when the record has none."""
    if metric == "alpha" or metric.partition(".")[0] in _SECTIONS:
        value = field_of(record, metric)
        return value if isinstance(value, int | float) else None
    return record.metrics.get(metric)


def expand(selectors: Iterable[Any], records: list[Record], scale: str) -> list[Any]:
    """Replace each `by` selector with one per value found, and drop those of another scale."""
    result = []
    for selector in selectors:
        if not _accepts(selector.where.get("scale", scale), scale):
            continue
        if not selector.by:
            result.append(selector)
            continue
        found = [r for r in records if matches(r, selector.where)]
        values = {field_of(record, selector.by) for record in found} - {None}
        for value in sorted(values, key=_order):
            label = _label(selector.by, value, found)
            result.append(
                replace(
                    selector,
                    by="",
                    label=selector.label.replace("{value}", label) if selector.label else label,
                    paper=selector.paper.replace("{value}", label),
                    where={**selector.where, selector.by: value},
                )
            )
    return result


def _label(by: str, value: Any, records: list[Record]) -> str:
    names = {"experiment": lambda r: r.topic, "method": lambda r: r.name}
    if by in names:
        return next(names[by](r) for r in records if field_of(r, by) == value)
    if type(value) is int:  # True is an int too
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else last_part(value)


def last_part(value: Any) -> str:
    """Return what is worth reading of a model's name, often a folder: its last part."""
    return str(value).rstrip("/").split("/")[-1]


def _accepts(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, list):
        return any(_accepts(entry, value) for entry in wanted)
    if isinstance(wanted, str) and isinstance(value, str):
        return fnmatchcase(value, wanted)
    return bool(wanted == value)


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, str(value)


def _check_field(key: str, path: Path) -> None:
    section, dot, rest = key.partition(".")
    if not (key in _FIELDS or (section in _SECTIONS and dot and rest)):
        raise DataError(
            f"{path}: unknown field {key!r}; allowed: {', '.join(_FIELDS)}, and config.KEY, "
            "budget.KEY, tuned.KEY."
        )
