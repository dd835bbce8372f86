"""The candidates of one block of queries: thinned by a cutoff per query, sorted once at the end.

Plain NumPy, because it sorts and compresses several times faster than PyTorch on a CPU; it lets go
of Python's lock, so a few threads share the work.

Shape legend: R queries of a block, C columns of a tile, K neighbors, S pairs that pass.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMPTY", "Array", "Candidates", "pack", "unpack"]

Array = NDArray[Any]

EMPTY = np.int64(0x7F80_0000_FFFF_FFFF)
"""No candidate: row -1 at distance +inf, which sorts behind all others."""

_TABLE_ENTRIES = 1 << 20
"""Candidates sorted at once: 8 MB."""

_LOWEST = np.finfo(np.float32).min


def pack(closeness: Array, rows: Array) -> Array:
    """Join squared distance and row number into one integer that sorts by both, i64.

    `closeness` is minus half the squared distance, f32. Non-negative floats sort like their bits.
    """
    sq_distances = np.maximum(closeness * np.float32(-2), np.float32(0))
    # -0.0 + 0.0 is 0.0; the bits of -0.0 are those of a huge number.
    sq_distances += np.float32(0)
    return (sq_distances.view(np.int32).astype(np.int64) << 32) | rows


def unpack(packed: Array) -> tuple[Array, Array]:
    """Return row numbers i32 and squared distances f32; -1 and +inf for an empty slot."""
    halves = np.ascontiguousarray(packed, "<i8").view("<i4").reshape(*packed.shape, 2)
    return halves[..., 0], halves[..., 1].view("<f4")


@dataclass(frozen=True)
class _Part:
    """Packed candidates, grouped by query, and where each query's begin: i64 [R+1]."""

    packed: Array
    starts: Array


class Candidates:
    """The pairs that passed their query's cutoff so far.

    A cutoff is a closeness below which no row is among the k nearest of its query. When the store
    is full it keeps the k nearest of each query and raises the cutoffs: memory stays bounded.
    Threads may add at the same time; what is kept does not depend on their order.
    """

    def __init__(self, cutoffs_R: Array, k: int) -> None:
        # Never minus infinity, which is the closeness of what must not pass.
        self.cutoffs = np.maximum(cutoffs_R, _LOWEST)
        self._k = k
        self._parts: list[_Part] = []
        self._num_held = 0
        self._lock = threading.Lock()

    def take(self, closeness_RC: Array, rows_C: Array) -> None:
        """Keep what passes of a tile whose rows are the queries."""
        passing_S = np.flatnonzero(closeness_RC >= self.cutoffs[:, None])
        queries_S, columns_S = _split(passing_S, closeness_RC.shape[1])
        self._add(queries_S, closeness_RC.reshape(-1)[passing_S], rows_C[columns_S])

    def take_mirrored(self, closeness_CR: Array, rows_C: Array) -> None:
        """Keep what passes of a tile whose columns are the queries."""
        passing_S = np.flatnonzero(closeness_CR >= self.cutoffs)
        columns_S, queries_S = _split(passing_S, closeness_CR.shape[1])
        # A stable sort of 16-bit integers is a radix sort: linear.
        order_S = np.argsort(queries_S.astype(np.uint16), kind="stable")
        closeness_S = closeness_CR.reshape(-1)[passing_S[order_S]]
        self._add(queries_S[order_S], closeness_S, rows_C[columns_S[order_S]])

    def _add(self, queries_S: Array, closeness_S: Array, rows_S: Array) -> None:
        counts_R = np.bincount(queries_S, minlength=len(self.cutoffs))
        part = _Part(pack(closeness_S, rows_S), np.concatenate([[0], counts_R.cumsum()]))
        with self._lock:
            self._parts.append(part)
            self._num_held += len(part.packed)
            if self._num_held > 4 * self._k * len(self.cutoffs):
                self._shrink()

    def _shrink(self) -> None:
        """Keep the k nearest of each query and raise the cutoffs."""
        nearest_RK = self.nearest()
        held_RK = nearest_RK != EMPTY
        farthest_R = unpack(nearest_RK[:, -1])[1]
        self.cutoffs = np.maximum(self.cutoffs, farthest_R / np.float32(-2))
        starts = np.concatenate([[0], held_RK.sum(axis=1).cumsum()])
        self._parts = [_Part(nearest_RK[held_RK], starts)]
        self._num_held = int(starts[-1])

    def nearest(self) -> Array:
        """Return the k nearest of each query in order, packed i64 [R, K]; the rest is empty."""
        widths_R = np.sum([np.diff(part.starts) for part in self._parts], axis=0)
        nearest_RK = np.full((len(widths_R), self._k), EMPTY)
        strip_rows = max(1, _TABLE_ENTRIES // max(1, int(widths_R.max())))
        for first in range(0, len(widths_R), strip_rows):
            strip = slice(first, first + strip_rows)
            table = self._table(strip, widths_R[strip])
            table.sort(axis=1)
            nearest_RK[strip, : table.shape[1]] = table[:, : self._k]
        return nearest_RK

    def _table(self, strip: slice, widths: Array) -> Array:
        """Lay the candidates of a strip of queries out side by side, the rest empty."""
        table = np.full((len(widths), int(widths.max())), EMPTY)
        flat = table.reshape(-1)
        free = np.arange(len(widths)) * table.shape[1]
        for part in self._parts:
            starts = part.starts[strip.start : strip.start + len(widths) + 1]
            counts = np.diff(starts)
            places = np.repeat(free - starts[:-1], counts)
            places += np.arange(starts[0], starts[-1])
            flat[places] = part.packed[starts[0] : starts[-1]]
            free += counts
        return table


def _split(places: Array, num_columns: int) -> tuple[Array, Array]:
    """Return row and column of flat places in a tile whose width is a power of two."""
    return places >> (num_columns.bit_length() - 1), places & (num_columns - 1)
