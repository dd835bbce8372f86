"""Fit how a stage's cost grows with the rows, and extend it to corpora too large to try."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memdec.bench.figures import Grid
from memdec.datastore.search_config import SearchConfig

CORPORA = {"WikiText-103": 117_000_000, "a 500M-token domain": 500_000_000}

Sizes = tuple[int, ...]
Cost = tuple[float, int]
"""Seconds (median) and bytes on disk."""


@dataclass(frozen=True)
class Law:
    """Seconds = linear N + square N^2; bytes = num_bytes N."""

    linear: float
    square: float
    num_bytes: float

    def seconds(self, num_rows: int) -> float:
        """Return the time for so many rows."""
        return self.linear * num_rows + self.square * num_rows**2


def fit_law(sizes: Sizes, costs: list[Cost]) -> Law:
    """Fit both coefficients, at least 0, to the relative errors of the seconds."""
    numbers = np.array(sizes, np.float64)
    elapsed = np.array([seconds for seconds, _ in costs])
    linear, square = _least_squares([numbers, numbers**2], elapsed)
    # Where one would be negative, the best non-negative pair has it at 0.
    if linear < 0:
        linear, (square,) = 0.0, _least_squares([numbers**2], elapsed)
    elif square < 0:
        (linear,), square = _least_squares([numbers], elapsed), 0.0
    return Law(linear, square, costs[-1][1] / sizes[-1])


def measured_grid(costs: dict[str, list[tuple[int, float, int]]]) -> Grid:
    """Lay out what was measured: rows, seconds and bytes of each stage."""
    rows = [(stage, *entry) for stage, entries in costs.items() for entry in entries]
    return Grid(title="measured", columns=("stage", "N", "seconds", "bytes"), rows=tuple(rows))


def extrapolated_grid(
    laws: dict[str, Law], key_width: int, k: int, index_flops_per_second: float
) -> Grid:
    """Lay out each law and what it says of large corpora on this machine; also an index's time."""
    columns = ["stage", "s per million N", "s per (million N)^2"]
    for name, count in CORPORA.items():
        columns += [f"hours, {name} ({count / 1e6:.0f}M)", f"bytes, {name}"]
    rows = []
    for stage, law in laws.items():
        row: list[str | float] = [stage, 1e6 * law.linear, 1e12 * law.square]
        for count in CORPORA.values():
            row += [law.seconds(count) / 3600, round(law.num_bytes * count)]
        rows.append(tuple(row))
    search = SearchConfig(method="ivf_pq")
    row = ["search, ivf_pq", "-", "-"]
    for count in CORPORA.values():
        hours = search.flops(count, key_width, k) / index_flops_per_second / 3600
        row += [hours, round(laws["search"].num_bytes * count)]
    rows.append(tuple(row))
    title = "extrapolated to one pass over large corpora, on this machine"
    return Grid(title=title, columns=tuple(columns), rows=tuple(rows))


def _least_squares(columns: list[NDArray[np.float64]], elapsed: NDArray[np.float64]) -> list[float]:
    scaled = np.stack(columns, 1) / elapsed[:, None]
    solution: list[float] = np.linalg.lstsq(scaled, np.ones(len(elapsed)), rcond=None)[0].tolist()
    return solution
