"""Show a running sweep: a live table on a terminal, plain lines otherwise."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from memdec.pipeline.sweep_file import Sweep, Trial
from memdec.pipeline.sweep_state import Status, TrialState

COLORS = {
    Status.WAITING: "dim",
    Status.RUNNING: "cyan",
    Status.FINISHED: "green",
    Status.EARLIER: "dim green",
    Status.FAILED: "bold red",
    Status.STOPPED: "yellow",
}
LAST_STATUSES = (
    Status.WAITING,
    Status.EARLIER,
    Status.FINISHED,
)  # hidden first when rows are short


class View(Protocol):
    """What the runner tells."""

    def changed(self, state: TrialState) -> None:
        """Show a trial whose status has just changed."""


@contextmanager
def open_view(sweep: Sweep, states: Sequence[TrialState], folder: Path) -> Iterator[View]:
    """Show the sweep while the block runs, and its result at the end."""
    console = Console()
    earlier = sum(state.status is Status.EARLIER for state in states)
    _plain(
        console,
        f"sweep {sweep.name}: {len(states)} trials, {earlier} finished earlier; logs in {folder}",
    )
    try:
        if console.is_terminal:
            room = max(4, console.height - 6)
            live = Live(
                get_renderable=lambda: _table(sweep, states, room),
                console=console,
                refresh_per_second=4,
            )
            with live:
                yield _Quiet()
                live.update(_table(sweep, states, len(states)))
        else:
            yield _Lines(console, sweep, len(states))
    finally:
        _summarise(console, sweep, states)


class _Quiet:
    def changed(self, state: TrialState) -> None:
        """Do nothing: the live table reads the states itself."""


class _Lines:
    def __init__(self, console: Console, sweep: Sweep, total: int) -> None:
        self._console = console
        self._sweep = sweep
        self._total = total

    def changed(self, state: TrialState) -> None:
        """Print one line."""
        note = f" ({state.reason})" if state.reason else ""
        if state.value is not None:
            note = f" ({self._sweep.metric} {state.value:.4g})"
        time = "" if state.status is Status.RUNNING else f" after {_clock(state.elapsed)}"
        _plain(
            self._console,
            f"trial {state.number}/{self._total} {state.status}{time}: "
            f"{describe(self._sweep, state.trial)}{note}",
        )


def describe(sweep: Sweep, trial: Trial) -> str:
    """Name a trial by the parameters that differ between trials."""
    names = sweep.varied or list(trial.parameters)
    return " ".join(f"{name}={trial.parameters[name]}" for name in names)


def _table(sweep: Sweep, states: Sequence[TrialState], room: int) -> Table:
    counts = Counter(state.status for state in states)
    title = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    table = Table(
        title=f"{sweep.name}: {title}", title_justify="left", box=SIMPLE_HEAD, expand=True
    )
    names = sweep.varied
    for name in ("#", *names, "status", "time"):
        table.add_column(name, no_wrap=True)
    if sweep.metric:
        table.add_column(sweep.metric, no_wrap=True, justify="right")
    best = _best(sweep, states)
    table.add_column("last line", no_wrap=True, ratio=1)  # takes the width that is left
    for state in _fit(states, room):
        talks = state.status in (Status.RUNNING, Status.FAILED)
        table.add_row(
            str(state.number),
            *(escape(str(state.trial.parameters[name])) for name in names),
            f"[{COLORS[state.status]}]{state.status}[/]",
            _clock(state.elapsed) if state.elapsed else "",
            *([_number(state, best)] if sweep.metric else []),
            escape(state.last_line()) if talks else "",
        )
    return table


def _best(sweep: Sweep, states: Sequence[TrialState]) -> TrialState | None:
    measured = [state for state in states if state.value is not None]
    if not measured:
        return None
    return (min if sweep.minimize else max)(measured, key=lambda state: state.value or 0.0)


def _number(state: TrialState, best: TrialState | None) -> str:
    if state.value is None:
        return "-"
    return f"[bold]{state.value:.4g}[/]" if state is best else f"{state.value:.4g}"


def _fit(states: Sequence[TrialState], room: int) -> list[TrialState]:
    shown = list(states)
    for status in LAST_STATUSES:
        spare = [state for state in shown if state.status is status]
        for state in reversed(spare):
            if len(shown) <= room:
                return shown
            shown.remove(state)
    return shown[:room]


def _summarise(console: Console, sweep: Sweep, states: Sequence[TrialState]) -> None:
    counts = Counter(state.status for state in states)
    said = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    _plain(console, f"sweep {sweep.name}: {said}")
    if best := _best(sweep, states):
        settings = describe(sweep, best.trial)
        _plain(console, f"best {sweep.metric}: {best.value:.4g} with {settings}")
    for state in states:
        if state.status is Status.FAILED:
            _plain(console, f"failed: {shlex.join(state.trial.command)}")
            _plain(console, f"  {state.reason}")
            _plain(console, f"  log: {state.log}")
    if any(state.status in (Status.STOPPED, Status.WAITING, Status.FAILED) for state in states):
        _plain(console, "the same command again runs what has not finished")


def _plain(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
