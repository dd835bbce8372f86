"""Exact search on the CPU: one matrix product a tile, thinned by cutoffs before anything is sorted.

The keys are taken in an order that starts with a random sample. The distances of a query to the
sample say how near a row must be to be among the k nearest; the few queries for which that guess
was too strict are searched again without it, so the result is exact whatever the sample.

Shape legend: N rows, Q queries, D key width, K neighbors, R rows of a block.
"""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import Array, Candidates
from memdec.datastore.search_found import Advance, Found, ignore
from memdec.datastore.search_tiles import KeyBlock, KeyBlocks, Keys, Tile, mean_key
from memdec.errors import DataError

__all__ = ["TiledSearch"]

_MAX_BLOCK_ROWS = 1024
_MIN_BLOCK_ROWS = 64
_SAMPLE_BLOCKS = 4
_CPU = torch.device("cpu")


class TiledSearch:
    """Searches one key array for the k nearest rows of each query."""

    def __init__(self, keys_ND: Keys, k: int) -> None:
        num_rows = len(keys_ND)
        size = _block_rows(num_rows)
        num_drawn = min(_SAMPLE_BLOCKS * size, num_rows)
        order_N = _sample_first(num_rows, num_drawn)
        self._k = k
        self._keys = keys_ND
        self._mean = mean_key(keys_ND)
        self._place_N = torch.empty_like(order_N).index_copy_(0, order_N, torch.arange(num_rows))
        self._blocks = KeyBlocks(keys_ND, order_N, self._mean, size)
        self._sampled = range(-(-num_drawn // size))
        self._rank = _sample_rank(k, num_drawn, num_rows)
        self._room = threading.local()

    def among_themselves(self, out: Found, exclude_self: bool, advance: Advance = ignore) -> None:
        """Search every row among all; distances are symmetric, so a tile serves both its blocks."""
        rest = range(self._sampled.stop, self._blocks.num_blocks)
        with _workers() as pool:
            stores: dict[int, Candidates] = {}
            for blocks in (self._sampled, rest):
                start = partial(self._start, stores=dict(stores), exclude_self=exclude_self)
                stores |= zip(blocks, pool.map(start, blocks), strict=True)
            finishing = [self._finish(pool, out, left, stores) for left in self._sampled]
            for left in rest:
                serve = partial(self._serve, stores, exclude_self, left)
                list(pool.map(serve, range(left, self._blocks.num_blocks)))
                finishing.append(self._finish(pool, out, left, stores))
                advance(finishing.pop(0).result())
            for done in finishing:
                advance(done.result())
        all_rows = torch.arange(len(self._keys))
        self._complete(out, self._keys, all_rows, all_rows if exclude_self else None)

    def one_sided(
        self,
        out: Found,
        queries_QD: Keys,
        wanted: Tensor | None = None,
        own_rows: Tensor | None = None,
        advance: Advance = ignore,
    ) -> None:
        """Search the wanted queries (all when None), each without its own row where that is given.

        Both are i64 and equally long: numbers of queries, rising, and of rows of the keys.
        """
        wanted = torch.arange(len(queries_QD)) if wanted is None else wanted
        self._search(out, queries_QD, wanted, own_rows, True, advance)
        self._complete(out, queries_QD, wanted, own_rows)

    def _complete(
        self, out: Found, queries_QD: Keys, wanted: Tensor, own_rows: Tensor | None
    ) -> None:
        """Search again, without cutoffs, what got too few candidates."""
        lacking = out.take_lacking()
        if not len(lacking):
            return
        own = None if own_rows is None else own_rows[torch.searchsorted(wanted, lacking)]
        self._search(out, queries_QD, lacking, own, False, ignore)
        if len(lacking := out.take_lacking()):
            raise DataError(
                f"query {int(lacking[0])} has fewer than {self._k} rows at a finite distance; "
                "the keys are not finite or too large for float32."
            )

    def _search(
        self,
        out: Found,
        queries_QD: Keys,
        wanted: Tensor,
        own_rows: Tensor | None,
        with_cutoffs: bool,
        advance: Advance,
    ) -> None:
        size = min(_block_rows(-(-len(wanted) // torch.get_num_threads())), _MAX_BLOCK_ROWS)
        queries = KeyBlocks(queries_QD, wanted, self._mean, size)

        def search(index: int) -> int:
            block, rows, own_R = queries.block(index), queries.rows(index), None
            if own_rows is not None:
                own_R = self._place_N[own_rows[index * size : (index + 1) * size]]
            store = self._open(block, own_R, with_cutoffs)
            tile = self._tiles(size)[0]
            for right in range(self._sampled.stop, self._blocks.num_blocks):
                store.take(self._fill(tile, block, own_R, right), self._rows(right))
            out.put(rows.numpy(), store.nearest()[: len(rows)])
            return len(rows)

        with _workers() as pool:
            for num_queries in pool.map(search, range(queries.num_blocks)):
                advance(num_queries)

    def _start(self, left: int, *, stores: dict[int, Candidates], exclude_self: bool) -> Candidates:
        """Search a block among the sample, and the sample among the block."""
        store = self._open(self._blocks.block(left), self._own(left, exclude_self))
        for right, mirror in stores.items():
            closeness = self._tiles(self._blocks.block_rows)[right].closeness.numpy()
            mirror.take_mirrored(closeness, self._rows(left))
        return store

    def _serve(
        self, stores: dict[int, Candidates], exclude_self: bool, left: int, right: int
    ) -> None:
        """Compute one tile and hand it to both its blocks."""
        tile = self._tiles(self._blocks.block_rows)[0]
        own_R = self._own(left, exclude_self) if right == left else None
        closeness = self._fill(tile, self._blocks.block(left), own_R, right)
        stores[left].take(closeness, self._rows(right))
        if right > left:
            stores[right].take_mirrored(closeness, self._rows(left))

    def _finish(
        self, pool: Executor, out: Found, left: int, stores: dict[int, Candidates]
    ) -> Future[int]:
        """Sort a block's candidates while others are served; the result is its number of rows."""
        store, rows = stores.pop(left), self._rows(left)

        def sort() -> int:
            out.put(rows, store.nearest()[: len(rows)])
            return len(rows)

        return pool.submit(sort)

    def _open(self, block: KeyBlock, own_R: Tensor | None, with_cutoffs: bool = True) -> Candidates:
        """Start the candidates of a block of queries: cutoffs from the sample, then the sample."""
        tiles = self._tiles(len(block.keys))
        closeness = [self._fill(tiles[b], block, own_R, b) for b in self._sampled]
        cutoffs_R = np.full(len(block.keys), -np.inf, np.float32)
        place = sum(part.shape[1] for part in closeness) - self._rank
        if with_cutoffs and place >= 0:
            whole = np.concatenate(closeness, axis=1)
            whole.partition(place, axis=1)
            cutoffs_R = whole[:, place].copy()
        store = Candidates(cutoffs_R, self._k)
        for right, part in zip(self._sampled, closeness, strict=True):
            store.take(part, self._rows(right))
        return store

    def _fill(self, tile: Tile, block: KeyBlock, own_R: Tensor | None, right: int) -> Array:
        """Compute a tile of queries against one block of keys, without the queries' own rows."""
        tile.fill(block, self._blocks.block(right))
        if own_R is not None:
            own_R = own_R - right * self._blocks.block_rows
            here = ((own_R >= 0) & (own_R < self._blocks.block_rows)).nonzero()[:, 0]
            tile.closeness[here, own_R[here]] = -torch.inf
        return tile.closeness.numpy()

    def _own(self, left: int, exclude_self: bool) -> Tensor | None:
        size = self._blocks.block_rows
        return torch.arange(left * size, (left + 1) * size) if exclude_self else None

    def _rows(self, index: int) -> Array:
        return self._blocks.rows(index).numpy()

    def _tiles(self, num_queries: int) -> list[Tile]:
        """Return this thread's room for the tiles of a block of queries with the sample."""
        tiles: list[Tile] = getattr(self._room, "tiles", [])
        if not tiles or len(tiles[0].closeness) != num_queries:
            size = self._blocks.block_rows
            tiles = self._room.tiles = [Tile(num_queries, size, _CPU) for _ in self._sampled]
        return tiles


@contextmanager
def _workers() -> Iterator[Executor]:
    """Make a pool of threads that compute alone.

    PyTorch's own threads spin for a while after each operation, in the way of NumPy's work.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(before, "search", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # of threads made later; it was lowered for the pool's


def _block_rows(num_rows: int) -> int:
    """Return a tile size for so many rows: a power of two."""
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
