"""Where a search puts what it found, block by block."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import EMPTY, Array, unpack

__all__ = ["Advance", "Found", "ignore"]

Advance = Callable[[int], Any]
"""Told how many more queries are done."""


def ignore(num_queries: int) -> None:
    """Report no progress."""


class Found:
    """Rows and squared distances [Q, K] of the queries from `first` on: arrays or memory maps."""

    def __init__(self, rows_QK: Array, sq_distances_QK: Array, first: int = 0) -> None:
        self.rows = rows_QK
        self.sq_distances = sq_distances_QK
        self._first = first
        self._lacking = [np.empty(0, np.int64)]

    def put(self, queries: Array, nearest_QK: Array) -> None:
        """Store the packed neighbors of some queries; note those that lack some."""
        places = queries - self._first
        self.rows[places], self.sq_distances[places] = unpack(nearest_QK)
        self._lacking.append(queries[nearest_QK[:, -1] == EMPTY])

    def take_lacking(self) -> Tensor:
        """Return the queries that were put with too few neighbors, i64, and forget them."""
        lacking = np.sort(np.concatenate(self._lacking))
        self._lacking = [np.empty(0, np.int64)]
        return torch.from_numpy(lacking)
