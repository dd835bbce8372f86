"""The figures of a table: perplexities, curves over alpha or a setting, training, and cost."""

import re
from dataclasses import dataclass
from textwrap import wrap

from memdec.results.aggregate import Cell
from memdec.results.drawn import Run, names_of, rows_with_runs, runs_of, styles_of
from memdec.results.footer import hardware
from memdec.results.printed import Heading, Table, cell_text
from memdec.results.record import Record
from memdec.results.specs import PERPLEXITY
from memdec.results.svg import HEIGHT, NUM_STYLES, Axis, Chart, Point, style_of

Bar = tuple[float, float, float]
"""Lower end, number, upper end."""
_MOST_OF_A_KIND = 6


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawing with its words."""

    name: str
    kind: str
    """dots, curve, alpha, ...; panels for several curves in one."""
    title: str
    caption: str
    svg: str


def figures_of(table: Table) -> list[Figure]:
    """Return the figures that the records of a table can fill."""
    if not table.measured or not table.spec.figures:
        return []
    ours = [
        (index, heading)
        for index, heading in enumerate(table.headings)
        if not heading.is_paper
        and not heading.column.average
        and heading.column.metric == table.spec.metric
    ][:_MOST_OF_A_KIND]
    found: list[Figure | None] = []
    for index, heading in ours:
        found.append((_setting_curve if table.spec.curve else _dots)(table, index, heading))
    experiments = runs_of(table)[:_MOST_OF_A_KIND]
    if not table.spec.curve:
        found += [_alpha_curve(table, runs) for runs in experiments]
        found += [_training(table, runs) for runs in experiments]
    found += [_validation(table, runs) for runs in experiments]
    for index, heading in ours:
        for metric in () if table.spec.curve else ("seconds", "parameters"):
            found.append(_cost(table, index, heading, metric))
    return [figure for figure in found if figure]


def _dots(table: Table, index: int, heading: Heading) -> Figure | None:
    """Draw one line per row: its number, and the interval or spread around it."""
    found = [(row, row.cells[index].cell) for row in table.rows]
    shown = [(row, cell, cell.mean) for row, cell in found if cell and cell.mean is not None]
    if not 2 <= len(shown) <= 12:
        return None
    bars = [_bar(cell, mean) for _, cell, mean in shown]
    rows = [row for row, _, _ in shown]
    names, styles = names_of(rows), styles_of(rows)
    x = Axis.around([value for bar in bars for value in bar], _metric(table))
    y = Axis(low=-0.6, high=len(shown) - 0.4, label="")
    lines = [wrap(name, 46, break_on_hyphens=False) for name in names]  # leaves the marks room
    left = 30 + 7.6 * max(len(line) for name in lines for line in name)
    height = max(HEIGHT, 100 + 34 * len(shown))  # a number stands above each mark
    chart = Chart(title=heading.label, x=x, y=y, left=left, height=height, names=lines[::-1])
    for i, (low, mean, high) in reversed(list(enumerate(bars))):
        place = len(shown) - 1 - i  # the first row on top
        chart.span((low, place), (high, place), styles[i])
        words = cell_text(shown[i][1], heading.column.digits)
        chart.dot((mean, place), styles[i], f"{names[i]}: {words}")
        anchor = _anchor(x.share(mean))
        chart.text((mean, place), f"{mean:,.{heading.column.digits}f}", anchor, 11)
    return _figure(table, "dots", heading.label, chart, _about(bars))


def _bar(cell: Cell, mean: float) -> Bar:
    """Return a number between the ends of its interval, or of its spread."""
    spread = cell.spread or 0.0
    low, high = cell.interval or (mean - spread, mean + spread)
    return low, mean, high


def _about(bars: list[Bar]) -> str:
    has_bars = any(low < high for low, _, high in bars)
    return "Bars: 95% interval over test documents, else spread over seeds." if has_bars else ""


def _setting_curve(table: Table, index: int, heading: Heading) -> Figure | None:
    """Draw the metric over the setting that the rows vary, and a line for rows without it."""
    series: dict[tuple[str, str], list[tuple[float, Bar]]] = {}
    levels = []
    for row in table.rows:
        cell, value = row.cells[index].cell, row.where.get(table.spec.curve)
        if not cell or cell.mean is None:
            continue
        if isinstance(value, int | float):
            point = float(value), _bar(cell, cell.mean)
            series.setdefault((row.group, row.method), []).append(point)
        else:
            levels.append((row.name, cell.mean))
    points = [point for line in series.values() for point in line]
    if len(points) < 2:
        return None
    xs = [value for value, _ in points]
    ys = [y for _, bar in points for y in bar] + [level for _, level in levels]
    label = table.spec.curve.rsplit(".", 1)[-1].replace("_", " ")
    x = Axis.around(xs, label, log=min(xs) > 0 and max(xs) / min(xs) >= 4)
    chart = Chart(
        title=f"{_metric(table)} over {label}: {heading.label}",
        x=x,
        y=Axis.around(ys, _metric(table)),
    )
    for name, level in levels:
        chart.line([(x.low, level), (x.high, level)], "s0", "dash")
        chart.text((x.high, level), f"{name}: {level:.{heading.column.digits}f}", "end", 7)
    one_each = len({method for _, method in series}) == len(series)
    for place, ((group, method), line) in enumerate(series.items()):
        style = style_of(method) if one_each else f"s{1 + place % NUM_STYLES}"
        chart.line(sorted((value, mean) for value, (_, mean, _) in line), style)
        for value, (low, mean, high) in line:
            chart.span((value, low), (value, high), style)
            words = f"{label} {value:g}: {mean:.{heading.column.digits}f}"
            chart.dot((value, mean), style, words)
        chart.legend.append((style, "dot", group or heading.label))
    return _figure(table, "curve", heading.label, chart, _about([bar for _, bar in points]))


def _alpha_curve(table: Table, runs: list[Run]) -> Figure | None:
    """Draw perplexity over alpha for each row that mixes, with the chosen alpha marked."""
    mixing = [
        (run, line, _curve(run.record, "alpha", "alpha", "validation/perplexity"))
        for run in runs
        if (line := _curve(run.record, "alpha", "alpha", PERPLEXITY))
    ]
    if not mixing:
        return None
    bases = {
        run.record.metrics[PERPLEXITY]
        for run in runs
        if run.record.method == "base" and PERPLEXITY in run.record.metrics
    }
    heights = [y for _, test, validation in mixing for _, y in [*test, *validation]]
    lowest = min(heights)
    # alpha near 1 can cost a hundredfold; what matters lies below twice the best.
    top = min(max(heights), max(2.2 * lowest, 1.15 * max(bases, default=0.0)))
    y = Axis(low=lowest * 0.94, high=top * 1.03, label="Perplexity")
    chart = Chart(
        title=_title(table, "Perplexity over alpha", runs[0].record),
        x=Axis(low=0, high=1, label="alpha, the memory's share in the mixture"),
        y=y,
    )
    for base in sorted(base for base in bases if y.low <= base <= y.high):
        chart.line([(0, base), (1, base)], "s0")
        chart.text((1, base), f"base {base:.2f}", "end", 7)
    for run, test, validation in mixing:
        for line, kind in ((validation, "dash"), (test, "line")):
            visible = [point for point in line if point[1] <= y.high]
            if visible:
                chart.line(visible, run.style, kind)
        alpha, chosen = run.record.alpha, run.record.metrics.get(PERPLEXITY)
        if alpha is not None and chosen is not None:
            words = f"{run.label}: alpha {alpha:.2f} gives {chosen:.2f}"
            chart.dot((alpha, chosen), run.style, words)
        words = run.label if chosen is None else f"{run.label} {chosen:.2f}"
        chart.legend.append((run.style, "dot", words))
    chart.legend += [("s0", kind, words) for kind, words in _SPLITS]
    caption = "Each mark is the alpha chosen on validation text; the base alone is alpha 0."
    caption += _seed_words(table, runs)
    return _figure(table, "alpha", runs[0].record.experiment, chart, caption)


_SPLITS = (("line", "test"), ("dash", "validation"))


def _training(table: Table, runs: list[Run]) -> Figure | None:
    """Draw the training losses over steps, of the last memory or what else was trained."""
    trained = [run for run in runs if "training" in run.record.curves]
    if not trained:
        return None
    run = ([run for run in trained if run.record.method == "memory_decoder"] or trained)[-1]
    record = run.record
    names = (
        ("train/loss", "s1", "loss"),
        ("train/kl", "s2", _divergence(record)),
        ("train/nll", "s3", "NLL"),
    )
    lines = [(_curve(record, "training", "step", key), style, w) for key, style, w in names]
    lines = [entry for entry in lines if len(entry[0]) > 1]
    points = [point for line, _, _ in lines for point in line]
    if not points:
        return None
    chart = Chart(
        title=_title(table, f"Training of {run.label}", record),
        x=Axis(low=min(p[0] for p in points), high=max(p[0] for p in points), label="Step"),
        y=Axis.around([p[1] for p in points], "Nats per token"),
    )
    for line, style, words in lines:
        chart.line(line, style)
        chart.legend.append((style, "line", words))
    caption = "Means over logged steps." + _seed_words(table, runs)
    return _figure(table, "training", record.experiment, chart, caption)


def _validation(table: Table, runs: list[Run]) -> Figure | None:
    """Draw validation perplexity over steps; of rows that are epochs, the longest of a group."""
    found = [
        (run, line)
        for run in runs
        if len(line := _curve(run.record, "validation", "step", "validation/perplexity")) > 1
    ]
    by_epochs = table.spec.curve == "config.trainer.max_epochs"
    if by_epochs:
        found.sort(key=lambda entry: entry[1][-1][0])
        longest = {(run.group, run.record.method): (run, line) for run, line in found}
        found = list(longest.values())
    if not found:
        return None
    points = [point for _, line in found for point in line]
    chart = Chart(
        title=_title(table, "Validation perplexity while training", runs[0].record),
        x=Axis(low=0, high=1.03 * max(x for x, _ in points), label="Step"),
        y=Axis.around([y for _, y in points], "Validation perplexity"),
    )
    for place, (run, line) in enumerate(found):
        style = f"s{1 + place % NUM_STYLES}" if by_epochs else run.style
        chart.line(line, style)
        for step, height in line:
            chart.dot((step, height), style, f"{run.label}: {height:.2f} after {step:g} steps")
        chart.legend.append((style, "dot", (by_epochs and run.group) or run.label))
    caption = "The weights of the lowest are kept; a mixture has its best alpha at each."
    caption += " Of each group the longest run." if by_epochs else ""
    caption += _seed_words(table, runs)
    return _figure(table, "validation", runs[0].record.experiment, chart, caption)


def _divergence(record: Record) -> str:
    """Name what beta weighed."""
    given = record.config.get("memory_decoder", {}).get("divergence", "kl")
    return {"kl": "KL", "reverse_kl": "reverse KL", "jsd": "Jensen-Shannon"}.get(given, given)


def _cost(table: Table, index: int, heading: Heading, metric: str) -> Figure | None:
    """Draw perplexity against seconds or parameters, one mark per row and seed."""
    rows, by_seed = rows_with_runs(table, lambda row: [row.cells[index]])
    found = []
    for runs, label, style in zip(by_seed, names_of(rows), styles_of(rows), strict=True):
        for run in runs.values():
            cost, height = run.budget.get(metric), run.metrics.get(table.spec.metric)
            if cost and height is not None:
                found.append((label, style, float(cost), height))
    costs = [cost for _, _, cost, _ in found]
    machines = {hardware(run) for runs in by_seed for run in runs.values()}
    # fewer than three to two digits (the base, memories of one size) say no more than the table
    if len({f"{cost:.2g}" for cost in costs}) < 3 or (metric == "seconds" and len(machines) > 1):
        return None
    chart = Chart(
        title=f"{heading.label} against {metric}",
        x=Axis.around(costs, metric.capitalize(), log=max(costs) / min(costs) > 5),
        y=Axis.around([height for _, _, _, height in found], _metric(table)),
    )
    for label, style, cost, height in found:
        chart.dot((cost, height), style, f"{label}: {height:.2f} at {cost:,.0f} {metric}")
    chart.legend = list(dict.fromkeys((style, "dot", label) for label, style, _, _ in found))
    return _figure(table, metric, heading.label, chart, "Lower and further left is better.")


def _curve(record: Record, curve: str, x: str, y: str) -> list[Point]:
    columns = record.curves.get(curve, {})
    pairs = zip(columns.get(x, []), columns.get(y, []), strict=False)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _seed_words(table: Table, runs: list[Run]) -> str:
    """Name the seed where the table has several."""
    several = len({record.seed for record in table.records}) > 1
    return f" Seed {runs[0].record.seed} alone." if several else ""


def _metric(table: Table) -> str:
    """Name what every column drawn measures: `test/perplexity` is "Test perplexity"."""
    return table.spec.metric.replace("/", " ").replace("_", " ").capitalize()


def _title(table: Table, words: str, record: Record) -> str:
    several = len({other.experiment for other in table.records}) > 1
    return f"{words}: {record.experiment}" if several else words


def _anchor(share: float) -> str:
    """Return on which side of its mark a number stands, so that it stays within the axes."""
    return "end" if share > 0.8 else "start" if share < 0.15 else "middle"


def _figure(table: Table, kind: str, words: str, chart: Chart, caption: str) -> Figure:
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    name = "-".join(filter(None, [table.spec.name, table.scale, kind, slug]))
    return Figure(name=name, kind=kind, title=chart.title, caption=caption, svg=chart.svg())
