"""Exact nearest neighbors by squared L2 distance.

Shape legend: N rows, Q queries, D key width, K neighbors.
"""

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import Array
from memdec.datastore.search_tiled import Advance, Found, TiledSearch, ignore
from memdec.datastore.search_tiles import Keys
from memdec.errors import ConfigError, DataError

__all__ = ["exact_neighbors", "search_neighbors"]

Neighbors = tuple[Tensor, Tensor]
"""Row numbers i64 [Q, K] and squared distances f32 [Q, K], nearest first, ties by lower row."""


def exact_neighbors(
    keys_ND: Keys,
    k: int,
    exclude_self: bool = True,
    *,
    start: int = 0,
    stop: int | None = None,
    device: str | torch.device = "cpu",
    advance: Advance = ignore,
    out: tuple[Array, Array] | None = None,
) -> Neighbors:
    """Search every row among all rows; return rows i64 [N, K] and squared distances f32 [N, K].

    A row is left out of its own neighbors by its number, so a twin stays in. Equal keys have the
    distance 0 exactly; other distances carry float32 rounding relative to the norms of the centred
    keys. Order is by (distance, row). Given `start` and `stop`, only these rows are searched: the
    same bytes as those rows of the whole, at up to twice the cost. `advance(num_rows)` reports
    progress. `out` takes the two arrays to fill, memory maps for instance, instead of new ones.

    Raises:
        ConfigError: k is below 1 or above the other rows there are.
        DataError: A key is not finite.
    """
    rows = range(len(keys_ND))[start:stop]
    _check_k(k, len(keys_ND) - exclude_self)
    found = Found(*(out or _new_arrays(len(rows), k)), rows.start)
    search = TiledSearch(keys_ND, k)
    if len(rows) == len(keys_ND):
        search.among_themselves(found, exclude_self, advance)
    else:
        wanted = torch.arange(rows.start, rows.stop)
        search.one_sided(found, keys_ND, wanted, exclude_self=exclude_self, advance=advance)
    lacking = found.lacking()
    if len(lacking):
        search.one_sided(found, keys_ND, lacking, exclude_self=exclude_self, with_cutoffs=False)
    return torch.from_numpy(found.rows), torch.from_numpy(found.sq_distances)


def search_neighbors(
    queries_QD: Keys,
    keys_ND: Keys,
    k: int,
    *,
    device: str | torch.device = "cpu",
    advance: Advance = ignore,
    out: tuple[Array, Array] | None = None,
) -> Neighbors:
    """Search every query among the keys; return rows i64 [Q, K] and squared distances f32 [Q, K].

    Nothing is left out. Distances, order, `advance` and `out` are those of `exact_neighbors`.

    Raises:
        ConfigError: k is below 1 or above the rows there are.
        DataError: A key is not finite, or the widths differ.
    """
    if queries_QD.ndim != 2 or queries_QD.shape[1:] != keys_ND.shape[1:]:
        raise DataError(
            f"queries {list(queries_QD.shape)} and keys {list(keys_ND.shape)} must have one width."
        )
    _check_k(k, len(keys_ND))
    found = Found(*(out or _new_arrays(len(queries_QD), k)))
    search = TiledSearch(keys_ND, k)
    wanted = torch.arange(len(queries_QD))
    search.one_sided(found, queries_QD, wanted, exclude_self=False, advance=advance)
    lacking = found.lacking()
    if len(lacking):
        search.one_sided(found, queries_QD, lacking, exclude_self=False, with_cutoffs=False)
    return torch.from_numpy(found.rows), torch.from_numpy(found.sq_distances)


def _check_k(k: int, num_available: int) -> None:
    if not 1 <= k <= num_available:
        raise ConfigError(
            f"knn.k must be in 1..{num_available:,}, the rows that can be neighbors, but is {k:,}; "
            "lower knn.k or take more text."
        )


def _new_arrays(num_queries: int, k: int) -> tuple[Array, Array]:
    return np.empty((num_queries, k), np.int64), np.empty((num_queries, k), np.float32)
