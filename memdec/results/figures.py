"""The figures of a table: perplexities, curves over alpha or a setting, training, and cost."""

from textwrap import wrap

from memdec.results.aggregate import Cell
from memdec.results.drawn import Figure, figure_of, names_of, rows_with_runs, runs_of, styles_of
from memdec.results.footer import hardware
from memdec.results.printed import Heading, Table, cell_text
from memdec.results.run_curves import alpha_curve, training_curve, validation_curve
from memdec.results.svg import CHARACTER, HEIGHT, LINE, NUM_STYLES, Axis, Chart, style_of

Bar = tuple[float, float, float]
"""Lower end, number, upper end."""
_MOST_OF_A_KIND = 6


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
        found += [alpha_curve(table, runs) for runs in experiments]
        found += [training_curve(table, runs) for runs in experiments]
    found += [validation_curve(table, runs) for runs in experiments]
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
    lines = [wrap(name, 30, break_on_hyphens=False) for name in names]  # leaves the marks room
    left = 30 + CHARACTER * max(len(line) for name in lines for line in name)
    row_height = max(34, 4 + LINE * max(map(len, lines)))  # a number stands above each mark
    height = max(HEIGHT, round(100 + row_height * len(shown)))
    chart = Chart(title=heading.label, x=x, y=y, left=left, height=height, names=lines[::-1])
    for i, (low, mean, high) in reversed(list(enumerate(bars))):
        place = len(shown) - 1 - i  # the first row on top
        chart.span((low, place), (high, place), styles[i])
        words = cell_text(shown[i][1], heading.column.digits)
        chart.dot((mean, place), styles[i], f"{names[i]}: {words}")
        anchor = _anchor(x.share(mean))
        chart.text((mean, place), f"{mean:,.{heading.column.digits}f}", anchor, 11)
    return figure_of(table, "dots", heading.label, chart, _about(bars))


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
    return figure_of(table, "curve", heading.label, chart, _about([bar for _, bar in points]))


def _cost(table: Table, index: int, heading: Heading, metric: str) -> Figure | None:
    """Draw perplexity against seconds or parameters, one mark per row and seed."""
    rows, by_seed = rows_with_runs(table, lambda row: [row.cells[index]])
    if len(rows) > NUM_STYLES:  # two would look the same
        return None
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
    return figure_of(table, metric, heading.label, chart, "Lower and further left is better.")


def _metric(table: Table) -> str:
    """Name what every column drawn measures: `test/perplexity` is "Test perplexity"."""
    return table.spec.metric.replace("/", " ").replace("_", " ").capitalize()


def _anchor(share: float) -> str:
    """Return on which side of its mark a number stands, so that it stays within the axes."""
    return "end" if share > 0.8 else "start" if share < 0.15 else "middle"
