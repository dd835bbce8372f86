"""Nearest neighbors by squared L2 distance.

Exact search is bounded by matrix multiplication; above a size an inverted index proposes
candidates, and every manifest says how far that is from exact.

Shape legend: N rows, Q queries, D key width, K neighbors.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from memdec.datastore.search_faiss import FaissSearch

__all__ = ["exact_neighbors", "find_for_queries", "find_neighbors", "search_neighbors"]

EXACT = {"search": "exact", "recall": 1.0}

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
    rows: range,
    device: str | torch.device = "cpu",
    advance: Advance = ignore,
) -> dict[str, Any]:
    """Search some rows among all, each without itself, the way the config says; return facts.

    Fills `out` (rows, squared distances) for `rows`. The facts name the method, its recall and, if
    it is approximate, how far the targets are from exact ones; a slot that the index could not
    fill then holds row -1 at distance +inf. No row is left without any neighbor.

    Raises:
        ConfigError: k, or a setting of the index, does not fit the number of rows.
        DataError: A key is not finite.
    """
    method = config.method_for(len(keys_ND))
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
        return dict(EXACT)
    _check_k(k, len(keys_ND) - 1)
    from memdec.datastore.search_faiss import FaissSearch

    search = FaissSearch(keys_ND, k, method, config)
    own_rows = torch.arange(rows.start, rows.stop)
    found = Found(*out, rows.start)
    return _approximate(search, found, keys_ND, own_rows, own_rows, values_N, config, advance)


def find_for_queries(
    queries: Mapping[str, Keys],
    keys_ND: Keys,
    values_N: Array,
    k: int,
    config: SearchConfig,
    *,
    out: Mapping[str, tuple[Array, Array]],
    device: str | torch.device = "cpu",
    advance: Advance = ignore,
) -> dict[str, dict[str, Any]]:
    """Search sets of queries among the keys as `find_neighbors` does, with nothing left out."""
    method = config.method_for(len(keys_ND))
    if method == "exact":
        for name, queries_QD in queries.items():
            search_neighbors(queries_QD, keys_ND, k, device=device, advance=advance, out=out[name])
        return {name: dict(EXACT) for name in queries}
    _check_k(k, len(keys_ND))
    from memdec.datastore.search_faiss import FaissSearch

    search = FaissSearch(keys_ND, k, method, config)
    facts = {}
    for name, queries_QD in queries.items():
        wanted, found = torch.arange(len(queries_QD)), Found(*out[name])
        facts[name] = _approximate(
            search, found, queries_QD, wanted, None, values_N, config, advance
        )
    return facts


def _approximate(
    search: "FaissSearch",
    found: Found,
    queries_QD: Keys,
    wanted: Tensor,
    own_rows: Tensor | None,
    values_N: Array,
    config: SearchConfig,
    advance: Advance,
) -> dict[str, Any]:
    from memdec.datastore.search_report import compare_with_exact

    search.one_sided(found, queries_QD, wanted, own_rows, advance)
    # Without any neighbor a row would have no target. Those are alone in all lists visited: few.
    empty = torch.from_numpy(np.flatnonzero(found.rows[:, 0] < 0))
    if len(empty):
        own = None if own_rows is None else own_rows[empty]
        exact = TiledSearch(search.keys_ND, search.k)
        again = Found(found.rows, found.sq_distances, int(wanted[0]))
        exact.one_sided(again, queries_QD, wanted[empty], own)
    facts = {
        "search": search.description,
        "num_probes": config.num_probes,
        "rescued_rows": len(empty),
    }
    return facts | compare_with_exact(
        found, queries_QD, wanted, own_rows, search.keys_ND, values_N, config
    )


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
