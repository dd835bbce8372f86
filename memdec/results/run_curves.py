"""The curves of single runs: perplexity over alpha, losses and validation while training."""

from dataclasses import replace

from memdec.results.drawn import Figure, Run, figure_of
from memdec.results.printed import Table
from memdec.results.record import Record
from memdec.results.specs import PERPLEXITY
from memdec.results.svg import NUM_STYLES, Axis, Chart, Point

LEAST_ALPHA = 0.01
"""A row that mixes less is left out where there are too many to draw."""
_SPLITS = (("line", "test"), ("dash", "validation"))


def alpha_curve(table: Table, runs: list[Run]) -> Figure | None:
    """Draw perplexity over alpha for each row that mixes, with the chosen alpha marked."""
    mixing = [
        (run, line, _curve(run.record, "alpha", "alpha", "validation/perplexity"))
        for run in runs
        if (line := _curve(run.record, "alpha", "alpha", PERPLEXITY))
    ]
    crowded = len(mixing) > NUM_STYLES
    if crowded:  # two would look the same
        useful = [entry for entry in mixing if (entry[0].record.alpha or 0) >= LEAST_ALPHA]
        mixing = [
            (replace(run, style=f"s{place}"), test, validation)
            for place, (run, test, validation) in enumerate(useful, start=1)
        ]
    if not 0 < len(mixing) <= NUM_STYLES:
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
    if crowded:
        caption += f" What has an alpha below {LEAST_ALPHA} is left out."
    caption += _seed_words(table, runs)
    return figure_of(table, "alpha", runs[0].record.experiment, chart, caption)


def training_curve(table: Table, runs: list[Run]) -> Figure | None:
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
    if len({step for step, _ in points}) < 2:  # one optimizer step is no curve
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
    return figure_of(table, "training", record.experiment, chart, caption)


def validation_curve(table: Table, runs: list[Run]) -> Figure | None:
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
    return figure_of(table, "validation", runs[0].record.experiment, chart, caption)


def _divergence(record: Record) -> str:
    """Name what beta weighed."""
    given = record.config.get("memory_decoder", {}).get("divergence") or "kl"
    return {"kl": "KL", "reverse_kl": "reverse KL", "jsd": "Jensen-Shannon"}.get(given, given)


def _curve(record: Record, curve: str, x: str, y: str) -> list[Point]:
    columns = record.curves.get(curve, {})
    pairs = zip(columns.get(x, []), columns.get(y, []), strict=False)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _seed_words(table: Table, runs: list[Run]) -> str:
    """Name the seed where the table has several."""
    several = len({record.seed for record in table.records}) > 1
    return f" Seed {runs[0].record.seed} alone." if several else ""


def _title(table: Table, words: str, record: Record) -> str:
    several = len({other.experiment for other in table.records}) > 1
    return f"{words}: {record.experiment}" if several else words
