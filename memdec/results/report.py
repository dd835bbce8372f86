"""Rebuild tables, figures, pages and index.html from records: same records, same bytes."""

from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from memdec.results.drawn import Figure
from memdec.results.figures import figures_of
from memdec.results.footer import commits, hardware, origin, seconds
from memdec.results.loading import load_records
from memdec.results.paper import load_paper
from memdec.results.printed import Table
from memdec.results.record import Record
from memdec.results.specs import TableSpec, load_specs
from memdec.results.svg import side_by_side, standalone
from memdec.results.table_formats import (
    CSV_HEADER,
    GENERATED,
    PRINTERS,
    markdown_text,
    scale_words,
)
from memdec.results.tables import build_tables, generic_spec
from memdec.results.token_view import TextView, largest_gains, text_views

REPORTS = Path("reports")


@dataclass(kw_only=True)
class Report:
    """What `build_report` wrote; any problem makes the exit status 2."""

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One spec with its tables and figures."""

    spec: TableSpec
    tables: list[Table]
    figures: list[Figure]

    @property
    def records(self) -> list[Record]:
        """Records shown, by id."""
        by_id = {record.id: record for table in self.tables for record in table.records}
        return [by_id[key] for key in sorted(by_id)]


def build_report(
    records_dir: Path = REPORTS / "records",
    output_dir: Path = REPORTS,
    specs_dir: Path | None = None,
    paper_dir: Path | None = None,
    only_measured: bool = False,
) -> Report:
    """Write tables/, figures/, README.md, index.html and pages below `output_dir`.

    `records_dir` may be a folder of records or of runs. Specs and published numbers come from
    reports/ here or beside the package; tables that no spec describes get a plain one.
    `only_measured` leaves out tables without a record.

    Raises:
        DataError: `records_dir` is not there, or a spec or a paper table is wrong.
    """
    records, problems = load_records(records_dir)
    paper = load_paper(paper_dir or default_folder("paper"))
    specs = load_specs(specs_dir or default_folder("specs"), paper)
    sections = [_section(spec, build_tables(spec, records, paper)) for spec in specs]
    sections = [_with_panels(section, sections) for section in sections]
    sections += _not_shown(records, sections)
    if only_measured:
        sections = [section for section in sections if section.records]
    others = sorted(path.parent.name for path in output_dir.glob("*/README.md"))
    texts = _contents(sections, records, problems, others)
    written = [_write(output_dir / name, text) for name, text in texts.items()]
    _remove_stale(output_dir, set(written))
    return Report(files=written, problems=problems)


def default_folder(name: str) -> Path | None:
    """Return reports/NAME of the current folder, else of the checkout, else None."""
    for root in (Path(), Path(__file__).parents[2]):
        folder = root / REPORTS / name
        if folder.is_dir():
            return folder
    return None


def headlines(table: Table) -> list[str]:
    """Say for each of our columns how the best method compares with the base, where one can."""
    texts = [
        (heading.label, text)
        for index, heading in enumerate(table.headings)
        if not heading.is_paper
        and heading.column.metric == table.spec.metric
        and (text := _headline(table, index))
    ]
    return [text if len(texts) == 1 else f"{label}: {text}" for label, text in texts]


def _headline(table: Table, index: int) -> str:
    means = [(row, cell.mean) for row in table.rows if (cell := row.cells[index].cell)]
    rows = [(row, mean) for row, mean in means if mean is not None]
    base = next((mean for row, mean in rows if row.method == "base"), None)
    better = table.headings[index].column.better
    if not base or len(rows) < 2 or better == "none" or len({row.group for row, _ in rows}) > 1:
        return ""
    ours = (min if better == "lower" else max)(mean for _, mean in rows)
    best = [row for row, _ in rows if row.cells[index].best]
    if any(row.method == "base" for row in best):
        return f"no method improved on the base ({base:.2f})"
    names = " and ".join(row.name for row in best)
    return f"{names} {ours:.2f} against {base:.2f} for the base ({100 * (ours / base - 1):+.0f}%)"


def _not_shown(records: list[Record], sections: list[Section]) -> list[Section]:
    """Return plain tables, by the table's name, of the records whose perplexity is in no section.

    Costs, fidelity and gains are another look at runs that must stand elsewhere too.
    """
    described = {section.spec.name: section.spec for section in sections}
    tables = [section for section in sections if section.spec.metric.endswith("perplexity")]
    shown = {record.id for section in tables for record in section.records}
    left = [record for record in records if record.id not in shown]
    found = []
    for name in sorted({record.table for record in left}):
        mine = [record for record in left if record.table == name]
        spec = generic_spec(mine, described.get(name))
        found.append(_section(spec, build_tables(spec, mine, {})))
    return found


def _section(spec: TableSpec, tables: list[Table]) -> Section:
    figures = {figure.name: figure for table in tables for figure in figures_of(table)}
    return Section(spec=spec, tables=tables, figures=list(figures.values()))


def _with_panels(section: Section, sections: list[Section]) -> Section:
    """Put the figure in front that shows the curves of several tables at once."""
    figures = {other.spec.name: other.figures for other in sections}
    named = [figure for name in section.spec.panels for figure in figures[name]]
    curves = [figure for figure in named if figure.kind == "curve"]
    if not curves:
        return section
    joint = Figure(
        name=f"{section.spec.name}-panels",
        kind="panels",
        title=section.spec.title,
        caption=" ".join(dict.fromkeys(f.caption for f in curves if f.caption)),
        svg=side_by_side([figure.svg for figure in curves], section.spec.title),
    )
    return replace(section, figures=[joint, *section.figures])


def _contents(
    sections: list[Section], records: list[Record], problems: list[str], others: list[str]
) -> dict[str, str]:
    """Return the text of every file, by its path below the output folder."""
    texts = {}
    for section in sections:
        name = section.spec.name
        for suffix, printer in PRINTERS.items():
            texts[f"tables/{name}.{suffix}"] = printer(section.tables)
        for figure in section.figures:
            texts[f"figures/{figure.name}.svg"] = standalone(figure.svg, GENERATED)
        if section.spec.page and section.records:
            texts[f"{name}.md"] = _render("page.md", section=section, **_page(section))
    shown = {record.id for section in sections for record in section.records}
    # The texts and pairs of a table with a page of its own go before those of its ablations.
    pages = {section.spec.name for section in sections if section.spec.page}
    records = sorted(records, key=lambda record: (record.table not in pages, record.id))
    facts: dict[str, Any] = {
        "sections": sections,
        "records": [record for record in records if record.id in shown],
        "texts": text_views(records),
        "pairs": _pairs(records),
        "problems": problems,
        "others": others,
    }
    texts["README.md"] = _render("README.md", **facts)
    texts["index.html"] = _render("index.html", **facts)
    return texts


def _page(section: Section) -> dict[str, Any]:
    views: list[TextView] = text_views(section.records)
    by_id = {record.id: record for record in section.records}
    chips = [(view, largest_gains(by_id[view.record_id].examples[0], 12)) for view in views[:1]]
    table = PRINTERS["md"](section.tables)
    return {"table": table, "chips": chips, "pairs": _pairs(section.records)}


def _pairs(records: list[Record]) -> list[Record]:
    """Return one record with a generated pair per experiment and method."""
    pairs: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda r: (r.experiment, r.method, r.seed)):
        if record.generation:
            pairs.setdefault((record.experiment, record.method), record)
    return list(pairs.values())[:6]


def _render(template: str, **facts: Any) -> str:
    return str(_environment().get_template(template).render(**facts))


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memdec.results"),
        autoescape=lambda name: bool(name and name.endswith(".html")),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        commits=commits,
        generated=GENERATED,
        hardware=hardware,
        headlines=headlines,
        origin=origin,
        scale_words=scale_words,
        seconds=seconds,
        asset=_asset,
    )
    environment.filters["md"] = markdown_text
    return environment


def _asset(name: str) -> str:
    return files("memdec.results").joinpath("templates", name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
    return path


def _remove_stale(output_dir: Path, written: set[Path]) -> None:
    """Remove what an earlier build made and this one did not; files of other origin stay."""
    for pattern in ("tables/*.*", "figures/*.*", "*.md"):
        for path in sorted(output_dir.glob(pattern)):
            head = path.read_bytes()[:200].decode(errors="replace").split("\n", 1)[0]
            ours = GENERATED in head or head == ",".join(CSV_HEADER)
            if ours and path not in written:
                path.unlink()
