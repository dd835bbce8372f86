"""Exact search on the CPU: one matrix product a tile, thinned by cutoffs before anything is sorted.

The keys are taken in an order that starts with a random sample. The distances of a query to the
sample say how near a row must be to be among the k nearest; the few queries for which that guess
was too strict are searched again without it, so the result is exact whatever the sample.

Shape legend: N rows, Q queries, D key width, K neighbors, R rows of a block.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import EMPTY, Array, Candidates, unpack
from memdec.datastore.search_tiles import KeyBlock, KeyBlocks, Keys, Tile, mean_key

__all__ = ["Advance", "Found", "TiledSearch", "ignore"]

_MAX_BLOCK_ROWS = 1024
_MIN_BLOCK_ROWS = 64
_SAMPLE_BLOCKS = 4
_CPU = torch.device("cpu")

Advance = Callable[[int], Any]
"""Told how many more queries are done."""


def ignore(num_queries: int) -> None:
    """Report no progress."""


class Found:
    """Rows and squared distances [Q, K] of the queries from `first` on, filled block by block."""

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

    def lacking(self) -> Tensor:
        """Return the queries that lack neighbors, i64."""
        return torch.from_numpy(np.sort(np.concatenate(self._lacking)))


class TiledSearch:
    """Searches one key array for the k nearest rows of each query."""

    def __init__(self, keys_ND: Keys, k: int) -> None:
        num_rows = len(keys_ND)
        size = _block_rows(num_rows)
        num_drawn = min(_SAMPLE_BLOCKS * size, num_rows)
        order_N = _sample_first(num_rows, num_drawn)
        self._k = k
        self._mean = mean_key(keys_ND)
        self._place_N = torch.empty_like(order_N).index_copy_(0, order_N, torch.arange(num_rows))
        self._blocks = KeyBlocks(keys_ND, order_N, self._mean, size)
        self._sampled = range(-(-num_drawn // size))
        self._rank = _sample_rank(k, num_drawn, num_rows)
        self._pool = ThreadPoolExecutor(torch.get_num_threads())

    def among_themselves(self, out: Found, exclude_self: bool, advance: Advance = ignore) -> None:
        """Search every row among all; distances are symmetric, so a tile serves both its blocks."""
        blocks, size = self._blocks, self._blocks.block_rows
        stores: dict[int, Candidates] = {}
        tiles = [Tile(size, size, _CPU) for _ in self._sampled]
        for left in range(blocks.num_blocks):
            own_R = torch.arange(left * size, (left + 1) * size) if exclude_self else None
            stores[left] = self._open(blocks.block(left), own_R, tiles)
            for right in self._sampled if left not in self._sampled else ():
                self._collect(tiles[right], right, None, stores[right], left)
        for left in range(blocks.num_blocks):
            for right in range(left, blocks.num_blocks) if left not in self._sampled else ():
                tiles[0].fill(blocks.block(left), blocks.block(right))
                if right == left and exclude_self:
                    tiles[0].closeness.fill_diagonal_(-torch.inf)
                mirror = stores[right] if right > left else None
                self._collect(tiles[0], right, stores[left], mirror, left)
            rows = blocks.rows(left)
            out.put(rows.numpy(), stores.pop(left).nearest(self._pool.map)[: len(rows)])
            advance(len(rows))

    def one_sided(
        self,
        out: Found,
        queries_QD: Keys,
        wanted: Tensor,
        *,
        exclude_self: bool,
        with_cutoffs: bool = True,
        advance: Advance = ignore,
    ) -> None:
        """Search the wanted queries; with `exclude_self`, query i is row i of the keys."""
        size = min(_block_rows(len(wanted)), self._blocks.block_rows)
        queries = KeyBlocks(queries_QD, wanted, self._mean, size)
        tiles = [Tile(size, self._blocks.block_rows, _CPU) for _ in self._sampled]
        for index in range(queries.num_blocks):
            block, rows = queries.block(index), queries.rows(index)
            own_R = self._place_N[rows] if exclude_self else None
            store = self._open(block, own_R, tiles, with_cutoffs)
            for right in range(self._sampled.stop, self._blocks.num_blocks):
                self._fill(tiles[0], block, own_R, right)
                self._collect(tiles[0], right, store)
            out.put(rows.numpy(), store.nearest(self._pool.map)[: len(rows)])
            advance(len(rows))

    def _open(
        self, block: KeyBlock, own_R: Tensor | None, tiles: list[Tile], with_cutoffs: bool = True
    ) -> Candidates:
        """Start the candidates of a block of queries: cutoffs from the sample, then the sample."""
        for right in self._sampled:
            self._fill(tiles[right], block, own_R, right)
        cutoffs_R = np.full(len(block.keys), -np.inf, np.float32)
        column = sum(tile.closeness.shape[1] for tile in tiles) - self._rank

        def estimate(strip: slice) -> None:
            closeness = np.concatenate([tile.closeness[strip].numpy() for tile in tiles], axis=1)
            closeness.partition(column, axis=1)
            cutoffs_R[strip] = closeness[:, column]

        if with_cutoffs and column >= 0:
            list(self._pool.map(estimate, self._strips(len(cutoffs_R))))
        store = Candidates(cutoffs_R, self._k)
        for right in self._sampled:
            self._collect(tiles[right], right, store)
        return store

    def _fill(self, tile: Tile, block: KeyBlock, own_R: Tensor | None, right: int) -> None:
        """Compute a tile of queries against one block of keys, without the queries' own rows."""
        tile.fill(block, self._blocks.block(right))
        if own_R is not None:
            own_R = own_R - right * self._blocks.block_rows
            here = ((own_R >= 0) & (own_R < self._blocks.block_rows)).nonzero()[:, 0]
            tile.closeness[here, own_R[here]] = -torch.inf

    def _collect(
        self,
        tile: Tile,
        right: int,
        store: Candidates | None,
        mirror: Candidates | None = None,
        left: int = 0,
    ) -> None:
        """Hand what passes of a tile to the candidates of its rows, and of its columns."""
        closeness = tile.closeness.numpy()
        left_rows, right_rows = self._blocks.rows(left).numpy(), self._blocks.rows(right).numpy()

        def take(strip: slice) -> None:
            if store is not None:
                store.take(closeness[strip], strip.start, right_rows)
            if mirror is not None:
                mirror.take_mirrored(closeness[strip], left_rows[strip])

        list(self._pool.map(take, self._strips(len(closeness))))
        for candidates in (store, mirror):
            if candidates is not None:
                candidates.shrink_when_full()

    def _strips(self, num_rows: int) -> list[slice]:
        """Share the rows of a tile among the threads."""
        size = -(-num_rows // torch.get_num_threads())
        return [slice(first, first + size) for first in range(0, num_rows, size)]


def _block_rows(num_rows: int) -> int:
    """Return the tile size, a power of two that depends on the number of rows alone."""
    wanted = 1 << max(0, num_rows - 1).bit_length()
    return min(max(wanted, _MIN_BLOCK_ROWS), _MAX_BLOCK_ROWS)


def _sample_first(num_rows: int, num_drawn: int) -> Tensor:
    """Return all row numbers: a random sample first, then the others, each part in order."""
    shuffled = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
    return torch.cat([shuffled[:num_drawn].sort().values, shuffled[num_drawn:].sort().values])


def _sample_rank(k: int, num_drawn: int, num_rows: int) -> int:
    """Return the rank in the sample that stands for rank k, with room for the sample's luck.

    3.5 standard deviations: about two queries in 10,000 get too few candidates. The k-th of the
    sample is never too strict.
    """
    share = num_drawn / num_rows
    expected = k * share
    return min(k, math.ceil(expected + 3.5 * math.sqrt(expected * (1 - share))) + 2)
