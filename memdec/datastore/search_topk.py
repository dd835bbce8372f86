"""Exact search on an accelerator: one matrix product a tile, merged into the best so far.

The order and the exclusion are those of the CPU search, and so are the distances but for the last
bits, which belong to the device's matrix product.

Shape legend: N rows, Q queries, D key width, K neighbors, R rows of a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from memdec.datastore.search_candidates import EMPTY
from memdec.datastore.search_found import Advance, Found, ignore
from memdec.datastore.search_tiles import KeyBlock, KeyBlocks, Keys, Tile, mean_key

__all__ = ["TopkSearch"]

_QUERY_ROWS = 4096
_KEY_ROWS = 8192


class TopkSearch:
    """Searches one key array for the k nearest rows of each query, on any device."""

    def __init__(self, keys_ND: Keys, k: int, device: torch.device) -> None:
        self._k = k
        self._device = device
        self._mean = mean_key(keys_ND).to(device)
        rows_N = torch.arange(len(keys_ND))
        self._blocks = KeyBlocks(keys_ND, rows_N, self._mean, min(_KEY_ROWS, len(keys_ND)))

    def one_sided(
        self,
        out: Found,
        queries_QD: Keys,
        wanted: Tensor | None = None,
        own_rows: Tensor | None = None,
        advance: Advance = ignore,
    ) -> None:
        """Search the wanted queries (all when None), each without its own row where given."""
        wanted = torch.arange(len(queries_QD)) if wanted is None else wanted
        size = min(_QUERY_ROWS, len(wanted))
        queries = KeyBlocks(queries_QD, wanted, self._mean, size)
        tile = Tile(size, self._blocks.block_rows, self._device)
        with _full_precision():
            for index in range(queries.num_blocks):
                rows = queries.rows(index)
                own_R = None
                if own_rows is not None:
                    own_R = own_rows[index * size : (index + 1) * size].to(self._device)
                best_RK = self._search_block(tile, queries.block(index), own_R)
                out.put(rows.numpy(), best_RK[: len(rows)].cpu().numpy())
                advance(len(rows))

    def _search_block(self, tile: Tile, block: KeyBlock, own_R: Tensor | None) -> Tensor:
        """Return the k nearest of a block of queries, packed i64 [R, K]."""
        best_RK = torch.full((len(block.keys), self._k), int(EMPTY), device=self._device)
        for right in range(self._blocks.num_blocks):
            rows_R = self._blocks.rows(right).to(self._device)
            closeness_RR = tile.fill(block, self._blocks.block(right))[:, : len(rows_R)]
            packed_RR = _pack(closeness_RR, rows_R)
            if own_R is not None:
                packed_RR[: len(own_R)].masked_fill_(own_R[:, None] == rows_R, int(EMPTY))
            both = torch.cat([best_RK, packed_RR], 1)
            best_RK = both.topk(self._k, 1, largest=False, sorted=True).values
        return best_RK


def _pack(closeness_RR: Tensor, rows_R: Tensor) -> Tensor:
    """Join squared distance and row number into one integer, as `search_candidates.pack` does."""
    sq_distances = (closeness_RR * -2).clamp_min_(0).add_(0.0)
    return (sq_distances.view(torch.int32).long() << 32) | rows_R


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep float32 products in float32 while searching, whatever training asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
