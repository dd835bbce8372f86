"""Keep the candidates of one block of queries, and pick the k nearest.

Shape legend: R queries of a block, K neighbors.
"""

import torch
from torch import Tensor

__all__ = ["Candidates", "unpack"]

_EMPTY = torch.iinfo(torch.int64).max
_TABLE_ENTRIES = 1 << 22
"""Candidates sorted at once: 32 MB."""


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return row numbers i64 and squared distances f32; -1 and +inf for an empty slot."""
    empty = packed == _EMPTY
    rows = (packed & 0xFFFFFFFF).masked_fill_(empty, -1)
    sq_distances = (packed >> 32).int().view(torch.float32).masked_fill_(empty, torch.inf)
    return rows, sq_distances


class Candidates:
    """The candidates of R queries that passed their cutoffs, and the cutoffs.

    A query's cutoff is a closeness below which no row can be among its k nearest. When the store is
    full it keeps the k nearest of each query and raises the cutoffs: memory stays bounded.
    """

    def __init__(self, cutoffs_R: Tensor, k: int):
        self.cutoffs_R = cutoffs_R
        self._k = k
        self._limit = 4 * k * len(cutoffs_R)
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._num_held = 0

    def add(self, queries_S: Tensor, closeness_S: Tensor, rows_S: Tensor) -> None:
        """Take in candidate pairs in the order of their queries."""
        counts_R = torch.bincount(queries_S, minlength=len(self.cutoffs_R))
        self._parts.append((_pack(closeness_S, rows_S), counts_R))
        self._num_held += len(rows_S)
        if self._num_held > self._limit:
            self._shrink()

    def nearest(self) -> Tensor:
        """Return the k nearest of each query in order, packed i64 [R, K]; the rest is empty."""
        counts_PR = torch.stack([counts for _, counts in self._parts])
        widest = int(counts_PR.sum(0).max())
        strip_rows = max(1, _TABLE_ENTRIES // max(1, widest))
        nearest_RK = counts_PR.new_full((counts_PR.shape[1], self._k), _EMPTY)
        for first in range(0, counts_PR.shape[1], strip_rows):
            strip = slice(first, first + strip_rows)
            table = self._table(counts_PR, strip).sort(1).values[:, : self._k]
            nearest_RK[strip, : table.shape[1]] = table
        return nearest_RK

    def _table(self, counts_PR: Tensor, strip: slice) -> Tensor:
        """Lay the candidates of a strip of queries out side by side; P parts were added."""
        counts_PS = counts_PR[:, strip]
        widths_S = counts_PS.sum(0)
        width = int(widths_S.max())
        table = counts_PS.new_full((len(widths_S), width), _EMPTY)
        places_PS = counts_PS.cumsum(0) - counts_PS
        places_PS += torch.arange(len(widths_S), device=table.device) * width
        firsts_P = counts_PR[:, : strip.start].sum(1).tolist()
        for part, (packed, _) in enumerate(self._parts):
            counts_S = counts_PS[part]
            shift_S = places_PS[part] - (counts_S.cumsum(0) - counts_S)
            places = torch.repeat_interleave(shift_S, counts_S)
            places += torch.arange(len(places), device=table.device)
            table.view(-1)[places] = packed[firsts_P[part] : firsts_P[part] + len(places)]
        return table

    def _shrink(self) -> None:
        nearest_RK = self.nearest()
        held_RK = nearest_RK != _EMPTY
        last_R = unpack(nearest_RK[:, -1])[1]
        self.cutoffs_R = torch.maximum(self.cutoffs_R, last_R / -2)
        self._parts = [(nearest_RK[held_RK], held_RK.sum(1))]
        self._num_held = len(self._parts[0][0])


def _pack(closeness: Tensor, rows: Tensor) -> Tensor:
    """Join squared distance and row number into one integer that sorts by both, i64.

    `closeness` is minus half the squared distance, f32. Non-negative floats sort like their bits.
    """
    sq_distances = (closeness * -2).clamp_min_(0)
    # clamp_min keeps -0.0, whose bits are those of a huge number.
    sq_distances += 0.0
    return (sq_distances.view(torch.int32).long() << 32) | rows
