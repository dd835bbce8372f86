"""Exact search on the CPU: one matrix product a tile, thinned by cutoffs before anything is sorted.

The keys are taken in an order that starts with a random sample. The distances of a query to the
sample say how near a row must be to be among the k nearest; the few queries for which that guess
was too strict are searched again without it, so the result is exact whatever the sample.

Shape legend: N rows, Q queries, D key width, K neighbors, R rows of a block.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import Candidates
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
        self._pool = ThreadPoolExecutor(torch.get_num_threads())

    def among_themselves(self, out: Found, exclude_self: bool, advance: Advance = ignore) -> None:
        """Search every row among all; distances are symmetric, so a tile serves both its blocks."""
        blocks = self._blocks
        tiles = self._make_tiles(blocks.block_rows)
        stores = self._open_all(tiles, exclude_self)
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
        size = min(_block_rows(len(wanted)), self._blocks.block_rows)
        queries = KeyBlocks(queries_QD, wanted, self._mean, size)
        tiles = self._make_tiles(size)
        for index in range(queries.num_blocks):
            block, rows = queries.block(index), queries.rows(index)
            own_R = None
            if own_rows is not None:
                own_R = self._place_N[own_rows[index * size : (index + 1) * size]]
            store = self._open(block, own_R, tiles, with_cutoffs)
            for right in range(self._sampled.stop, self._blocks.num_blocks):
                self._fill(tiles[0], block, own_R, right)
                self._collect(tiles[0], right, store)
            out.put(rows.numpy(), store.nearest(self._pool.map)[: len(rows)])
            advance(len(rows))

    def _make_tiles(self, num_queries: int) -> list[Tile]:
        """Make room for the tiles of one block of queries with the sample."""
        return [Tile(num_queries, self._blocks.block_rows, _CPU) for _ in self._sampled]

    def _open_all(self, tiles: list[Tile], exclude_self: bool) -> dict[int, Candidates]:
        """Search every block among the sample, which is thereby done."""
        size, stores = self._blocks.block_rows, dict[int, Candidates]()
        for left in range(self._blocks.num_blocks):
            own_R = torch.arange(left * size, (left + 1) * size) if exclude_self else None
            stores[left] = self._open(self._blocks.block(left), own_R, tiles)
            for right in self._sampled if left not in self._sampled else ():
                self._collect(tiles[right], right, None, stores[right], left)
        return stores

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
        return [slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size)]


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
