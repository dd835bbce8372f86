"""What the command line prints: the result table, the plan, two texts side by side."""

from typing import Any

from rich.console import Console
from rich.table import Table

from memdec.artifacts.files import gigabytes
from memdec.pipeline.plan import StagePlan
from memdec.pipeline.runner import RunResult

WIDTH = 100  # of tables printed into a pipe


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def show_result(result: RunResult) -> None:
    """Print one line a method, and where everything is."""
    table = Table(title=_title(result.records[0]))
    for name in ("method", "test perplexity", "95% interval", "vs base", "alpha", "bits/byte"):
        table.add_column(name, justify="left" if name == "method" else "right")
    base = next(
        (r["metrics"]["test/perplexity"] for r in result.records if r["method"] == "base"), None
    )
    for record in result.records:
        table.add_row(*row_of(record, base))
    console = _console()
    console.print(table)
    facts = result.records[0]["metrics"]
    for split in ("train", "validation"):
        if repeated := facts[f"test/documents_in_{split}"]:
            console.print(
                f"{repeated} of {facts['test/num_documents']} test documents also stand in "
                f"{split}, {facts[f'test/documents_exactly_in_{split}']} word for word.",
                soft_wrap=True,
                highlight=False,
            )
    console.print(f"records: {result.folder}/*/record.json", soft_wrap=True, highlight=False)
    for record in result.records:
        if "generation" in record:
            texts = record["generation"]
            show_pair(texts["prompt"], texts["base"], texts["adapted"])


def _title(record: dict[str, Any]) -> str:
    count = record["metrics"]["test/num_tokens"]
    name = record["title"] or record["experiment"]
    return f"{name} ({count:,} test tokens, {record['scale']} scale)"


def row_of(record: dict[str, Any], base: float | None) -> list[str]:
    """Return a method's cells, given the base's test perplexity."""
    metrics = record["metrics"]
    perplexity = metrics["test/perplexity"]
    interval = record["intervals"].get("test/perplexity")
    return [
        record["label"],
        f"{perplexity:.2f}",
        f"{interval[0]:.2f} - {interval[1]:.2f}" if interval else "-",
        f"{perplexity / base - 1:+.1%}" if base else "-",
        "-" if record["alpha"] is None else f"{record['alpha']:.2f}",
        f"{metrics['test/bits_per_byte']:.3f}",
    ]


def show_plan(plans: list[StagePlan], gflops: float, whose: str) -> None:
    """Print the stages in order, with the time that the FLOPs take at `gflops`."""
    table = Table()
    for name in ("stage", "what", "state", "rows", "disk", "FLOPs", "time"):
        left = name in ("stage", "what", "state")
        table.add_column(name, justify="left" if left else "right")
    for plan in plans:
        state = "complete" if plan.complete else "to do"
        work = f"{plan.flops:.1e}" if plan.flops else "-"
        todo_flops = 0.0 if plan.complete else plan.flops
        time = _duration(todo_flops / gflops / 1e9) if todo_flops else "-"
        size = gigabytes(plan.num_bytes)
        table.add_row(plan.name, plan.label, state, f"{plan.rows:,}", size, work, time)
    console = _console()
    console.print(table)
    todo = [plan for plan in plans if not plan.complete]
    need, flops = sum(p.num_bytes for p in todo), sum(p.flops for p in todo)
    console.print(
        f"{len(todo)} stages to do: at most {gigabytes(need)} of disk, {flops:.1e} FLOPs: "
        f"{_duration(flops / gflops / 1e9)} at {gflops:,.0f} GFLOP/s, {whose}.",
        highlight=False,
        soft_wrap=True,
    )


def _duration(seconds: float) -> str:
    """Write a time for people."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def show_pair(prompt: str, base: str, adapted: str) -> None:
    """Print two continuations beside each other."""
    table = Table(title="greedy continuations", show_lines=True)
    table.add_column("base", ratio=1)
    table.add_column("base + memory", ratio=1)
    from rich.text import Text

    table.add_row(*(Text.assemble((prompt, "dim"), text) for text in (base, adapted)))
    _console().print(table)
