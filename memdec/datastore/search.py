"""Exact nearest neighbors by squared L2 distance, bounded by matrix multiplication.

Distances of two blocks of rows come from one matrix product. All-against-all is symmetric, so each
tile serves both its blocks. A cutoff per query, estimated on a sample of rows so that a little more
than k rows pass, thins a tile before anything is sorted; a query that got too few is searched again
without a cutoff, so the result is exact whatever the estimate.

Shape legend: N rows, Q queries, D key width, K neighbors, R rows of a block, S pairs that survive.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from memdec.datastore.search_candidates import Candidates, unpack
from memdec.datastore.search_tiles import (
    KeyBlock,
    KeyBlocks,
    Keys,
    TileScratch,
    choose_block_rows,
    mean_key,
    pick_rows,
)
from memdec.errors import ConfigError, DataError

__all__ = ["exact_neighbors", "search_neighbors"]

Neighbors = tuple[Tensor, Tensor]
"""Row numbers i64 [Q, K] and squared distances f32 [Q, K], nearest first, ties by lower row."""

_SAMPLE_BLOCKS = 2
_NO_CUTOFF = torch.finfo(torch.float32).min


def exact_neighbors(
    keys_ND: Keys,
    k: int,
    exclude_self: bool = True,
    *,
    start: int = 0,
    stop: int | None = None,
    device: str | torch.device = "cpu",
    advance: Callable[[int], Any] = lambda num_rows: None,
) -> Neighbors:
    """Search every row among all rows; return rows i64 [N, K] and squared distances f32 [N, K].

    A row is left out of its own neighbors by its number, so a twin stays in. Equal keys have the
    distance 0 exactly; other distances carry float32 rounding relative to the norms of the centred
    keys. Order is by (distance, row). Given `start` and `stop`, only these rows are searched: the
    same bytes as those rows of the whole. `advance(num_rows)` reports progress.

    Raises:
        ConfigError: k is below 1 or above the rows there are.
        DataError: A key is not finite.
    """
    search = _Search(keys_ND, k, len(keys_ND) - exclude_self, torch.device(device))
    rows = range(len(keys_ND))[start:stop]
    nearest_QK = search.among_themselves(rows, exclude_self, advance)
    lacking = _lacking(nearest_QK)
    if len(lacking):
        own = lacking + rows.start
        again = pick_rows(keys_ND, own)
        nearest_QK[lacking] = search.one_sided(again, own if exclude_self else None, False)
    return unpack(nearest_QK)


def search_neighbors(
    queries_QD: Keys,
    keys_ND: Keys,
    k: int,
    *,
    device: str | torch.device = "cpu",
    advance: Callable[[int], Any] = lambda num_rows: None,
) -> Neighbors:
    """Search every query among the keys; return rows i64 [Q, K] and squared distances f32 [Q, K].

    Nothing is left out. Distances and order are those of `exact_neighbors`.

    Raises:
        ConfigError: k is below 1 or above the rows there are.
        DataError: A key or query is not finite, or their widths differ.
    """
    if queries_QD.ndim != 2 or queries_QD.shape[1:] != keys_ND.shape[1:]:
        raise DataError(
            f"queries {list(queries_QD.shape)} and keys {list(keys_ND.shape)} must have one width."
        )
    search = _Search(keys_ND, k, len(keys_ND), torch.device(device))
    nearest_QK = search.one_sided(queries_QD, None, True, advance)
    lacking = _lacking(nearest_QK)
    if len(lacking):
        nearest_QK[lacking] = search.one_sided(pick_rows(queries_QD, lacking), None, False)
    return unpack(nearest_QK)


class _Search:
    """Finds candidates, packed i64 [Q, K], of which a few queries may lack some."""

    def __init__(self, keys_ND: Keys, k: int, num_available: int, device: torch.device):
        if not 1 <= k <= num_available:
            raise ConfigError(
                f"knn.k must be in 1..{num_available:,}, the rows that can be neighbors, but is "
                f"{k:,}; lower knn.k or take more text."
            )
        self._k = k
        self._mean = mean_key(keys_ND)
        if not self._mean.isfinite().all():
            raise DataError("the keys hold a value that is not finite; make the datastore again.")
        self._blocks = KeyBlocks(keys_ND, self._mean, choose_block_rows(len(keys_ND)), device)
        self._scratch = TileScratch(self._blocks.block_rows, device)
        self._sample, self._sample_rank = self._draw_sample()

    def among_themselves(
        self, rows: range, exclude_self: bool, advance: Callable[[int], Any]
    ) -> Tensor:
        """Search some rows among all; a tile between two of them serves both its blocks."""
        blocks, size = self._blocks, self._blocks.block_rows
        wanted = range(rows.start // size, -(-rows.stop // size))
        stores = {index: self._open(blocks.block(index)) for index in wanted}
        nearest_QK = torch.empty(len(rows), self._k, dtype=torch.int64)
        for left in wanted:
            left_block = blocks.block(left)
            for right in range(blocks.num_blocks):
                if right in wanted and right < left:
                    continue
                right_block = left_block if right == left else blocks.block(right)
                closeness = self._scratch.closeness(left_block, right_block)
                if right == left and exclude_self:
                    closeness.fill_diagonal_(-torch.inf)
                mirror = stores[right] if right in wanted and right > left else None
                _collect(closeness, stores[left], right * size, mirror, left * size)
            done = range(max(rows.start, left * size), min(rows.stop, (left + 1) * size))
            found = stores.pop(left).nearest()[done.start - left * size : done.stop - left * size]
            nearest_QK[done.start - rows.start : done.stop - rows.start] = found
            advance(len(done))
        return nearest_QK

    def one_sided(
        self,
        queries_QD: Keys,
        own_rows_Q: Tensor | None,
        with_cutoffs: bool,
        advance: Callable[[int], Any] = lambda num_rows: None,
    ) -> Tensor:
        """Search any queries among the keys, each without its own row where that is given."""
        size = self._blocks.block_rows
        queries = KeyBlocks(queries_QD, self._mean, size, self._scratch.device)
        nearest_QK = torch.empty(len(queries_QD), self._k, dtype=torch.int64)
        for index in range(queries.num_blocks):
            block = queries.block(index)
            here = slice(index * size, min((index + 1) * size, len(queries_QD)))
            store = self._open(block, with_cutoffs)
            for right in range(self._blocks.num_blocks):
                closeness = self._scratch.closeness(block, self._blocks.block(right))
                if own_rows_Q is not None:
                    own = own_rows_Q[here] - right * size
                    mine = ((own >= 0) & (own < size)).nonzero()[:, 0]
                    closeness[mine, own[mine]] = -torch.inf
                _collect(closeness, store, right * size)
            nearest_QK[here] = store.nearest()[: here.stop - here.start]
            advance(here.stop - here.start)
        return nearest_QK

    def _open(self, block: KeyBlock, with_cutoffs: bool = True) -> Candidates:
        """Start the candidates of one block of queries, with cutoffs estimated on the sample."""
        cutoffs_R = torch.full_like(block.half_norms, _NO_CUTOFF)
        if with_cutoffs and self._sample:
            # Copied: the tiles share one room.
            tiles = [self._scratch.closeness(block, part).clone() for part in self._sample]
            cutoffs_R = torch.cat(tiles, 1).topk(self._sample_rank, 1).values[:, -1]
        cutoffs_R[block.half_norms.isinf()] = torch.inf
        return Candidates(cutoffs_R, self._k)

    def _draw_sample(self) -> tuple[list[KeyBlock], int]:
        """Draw blocks of random rows; return them and the rank among them that stands for k."""
        num_rows, num_drawn = self._blocks.num_rows, _SAMPLE_BLOCKS * self._blocks.block_rows
        expected = self._k * num_drawn / num_rows
        # Five standard deviations above: too few candidates are a matter of one row in a million.
        rank = int(expected + 5 * expected**0.5 + 5)
        if num_rows < 2 * num_drawn or rank > num_drawn // 2:
            return [], 0
        rows = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))[:num_drawn]
        parts = rows.sort().values.split(self._blocks.block_rows)
        return [self._blocks.pick(part) for part in parts], rank


def _collect(
    closeness_RR: Tensor,
    left: Candidates,
    right_row: int,
    right: Candidates | None = None,
    left_row: int = 0,
) -> None:
    """Hand the pairs of a tile that pass the left, or the right, query's cutoff to the stores."""
    size = len(closeness_RR)
    shift = size.bit_length() - 1
    flat = closeness_RR.view(-1)
    pairs_S = (closeness_RR >= left.cutoffs_R[:, None]).view(-1).nonzero()[:, 0]
    left.add(pairs_S >> shift, flat[pairs_S], (pairs_S & (size - 1)) + right_row)
    if right is not None:
        passing_RR = (closeness_RR >= right.cutoffs_R).T.contiguous()
        pairs_S = passing_RR.view(-1).nonzero()[:, 0]
        right_S, left_S = pairs_S >> shift, pairs_S & (size - 1)
        right.add(right_S, flat[(left_S << shift) | right_S], left_S + left_row)


def _lacking(nearest_QK: Tensor) -> Tensor:
    return (unpack(nearest_QK[:, -1])[0] < 0).nonzero()[:, 0]
