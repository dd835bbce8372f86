"""Nearest neighbors by squared L2 distance.

Exact search is bounded by matrix multiplication; above a size an inverted index proposes
candidates, and every manifest says how far that is from exact.

Shape legend: N rows, Q queries, D key width, K neighbors.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import Array
from memdec.datastore.search_config import SearchConfig
from memdec.datastore.search_found import Advance, Found, ignore
from memdec.datastore.search_tiled import TiledSearch
from memdec.datastore.search_tiles import Keys, mean_key
from memdec.datastore.search_topk import TopkSearch
from memdec.errors import ConfigError, DataError

__all__ = ["exact_neighbors", "find_neighbors", "search_neighbors"]

Neighbors = tuple[Tensor, Tensor]
"""Row numbers and squared distances f32 [Q, K], nearest first, ties by lower row."""


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
    device = torch.device(device)
    if device.type == "cpu" and len(rows) == len(keys_ND):
        TiledSearch(keys_ND, k).among_themselves(found, exclude_self, advance)
    else:
        wanted = torch.arange(rows.start, rows.stop)
        search = _one_sided_search(keys_ND, k, device)
        own_rows = wanted if exclude_self else None
        search.one_sided(found, keys_ND, wanted, own_rows=own_rows, advance=advance)
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
        DataError: A key or query is not finite, or the widths differ.
    """
    if queries_QD.ndim != 2 or queries_QD.shape[1:] != keys_ND.shape[1:]:
        raise DataError(
            f"queries {list(queries_QD.shape)} and keys {list(keys_ND.shape)} must have one width."
        )
    _check_k(k, len(keys_ND))
    mean_key(queries_QD)  # refuses what is not finite
    found = Found(*(out or _new_arrays(len(queries_QD), k)))
    search = _one_sided_search(keys_ND, k, torch.device(device))
    search.one_sided(found, queries_QD, advance=advance)
    return torch.from_numpy(found.rows), torch.from_numpy(found.sq_distances)


def find_neighbors(
    keys_ND: Keys,
    values_N: Array,
    k: int,
    config: SearchConfig,
    *,
    out: tuple[Array, Array],
    rows: range | None = None,
    queries_QD: Keys | None = None,
    device: str | torch.device = "cpu",
    advance: Advance = ignore,
) -> dict[str, Any]:
    """Search some rows among all, or queries among the rows, the way the config says.

    Fills `out` (rows, squared distances) for `rows` of the keys (all when None), each without
    itself; or, where `queries_QD` is given, for all queries, with nothing left out. The facts
    returned name the method, its recall and, if
    it is approximate, how far the targets are from exact ones; a slot that the index could not
    fill then holds row -1 at distance +inf. No row is left without any neighbor.

    Raises:
        ConfigError: k, or a setting of the index, does not fit the number of rows.
        DataError: A key or query is not finite, or the widths differ.
    """
    method = config.method_for(len(keys_ND))
    exact = {"search": "exact", "recall": 1.0}
    if method == "exact" and queries_QD is not None:
        search_neighbors(queries_QD, keys_ND, k, device=device, advance=advance, out=out)
        return exact
    rows = rows or range(len(keys_ND if queries_QD is None else queries_QD))
    if method == "exact":
        exact_neighbors(
            keys_ND,
            k,
            start=rows.start,
            stop=rows.stop,
            device=device,
            advance=advance,
            out=out,
        )
        return exact
    _check_k(k, len(keys_ND) - (queries_QD is None))
    from memdec.datastore.search_faiss import FaissSearch
    from memdec.datastore.search_report import compare_with_exact

    found = Found(*out, rows.start)
    wanted = torch.arange(rows.start, rows.stop)
    search = FaissSearch(keys_ND, k, method, config)
    own_rows = wanted if queries_QD is None else None
    source = keys_ND if queries_QD is None else queries_QD
    search.one_sided(found, source, wanted, own_rows, advance)
    # Without any neighbor a row would have no target. Those are alone in all lists visited: few.
    empty = torch.from_numpy(np.flatnonzero(out[0][:, 0] < 0)) + rows.start
    if len(empty):
        own = empty if queries_QD is None else None
        TiledSearch(keys_ND, k).one_sided(Found(*out, rows.start), source, empty, own)
    facts = {
        "search": search.description,
        "num_probes": config.num_probes,
        "rescued_rows": len(empty),
    }
    return facts | compare_with_exact(found, rows, keys_ND, values_N, config, queries_QD)


def _one_sided_search(keys_ND: Keys, k: int, device: torch.device) -> TiledSearch | TopkSearch:
    if device.type == "cpu":
        return TiledSearch(keys_ND, k)
    return TopkSearch(keys_ND, k, device)


def _check_k(k: int, num_available: int) -> None:
    if not 1 <= k <= num_available:
        raise ConfigError(
            f"knn.k must be in 1..{num_available:,}, the rows that can be neighbors, but is {k:,}; "
            "lower knn.k or take more text."
        )


def _new_arrays(num_queries: int, k: int) -> tuple[Array, Array]:
    return np.empty((num_queries, k), np.int64), np.empty((num_queries, k), np.float32)
