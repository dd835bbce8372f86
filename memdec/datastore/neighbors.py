"""Cache each row's and query's nearest datastore rows, so that k and temperature are free.

Shape legend: N datastore rows, Q queries, D key width, K neighbors.
"""

import numpy as np
from numpy.typing import NDArray

from memdec.artifacts.artifact import Artifact, ArtifactWriter
from memdec.datastore.search_config import SearchConfig
from memdec.errors import ConfigError
from memdec.progress import track

Keys = NDArray[np.float16]


def check_k(k: int, num_rows: int) -> None:
    """Raise ConfigError when a row cannot have k neighbors besides itself."""
    if k > num_rows - 1:
        raise ConfigError(
            f"knn.k is {k:,} but the training text gives {num_rows:,} datastore rows, so at most "
            f"{num_rows - 1:,} neighbors each; lower knn.k or add text."
        )


def nearest(
    found: Artifact, k: int, prefix: str = ""
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return rows and sq_distances [Q, k] of the k nearest of the cached neighbors.

    Raises:
        ConfigError: k is above what is cached.
    """
    rows_QK, sq_distances_QK = (found.array(prefix + x) for x in ("rows", "sq_distances"))
    if k > rows_QK.shape[1]:
        raise ConfigError(
            f"knn.k is {k:,} but the training text gave each token only {rows_QK.shape[1]:,} "
            "neighbors; lower knn.k or add text."
        )
    return rows_QK[:, :k], sq_distances_QK[:, :k]


def build_neighbors(
    out: ArtifactWriter,
    keys_ND: Keys,
    values_N: NDArray[np.uint32],
    k_max: int,
    config: SearchConfig,
    queries: range,
    device: str,
) -> None:
    """Write rows i32 [N, K] and sq_distances f32 [N, K] of `queries` among the training text.

    No row is its own neighbor: it is left out by row id, whatever its distance. K is `k_max`, or
    all other rows when there are fewer. Slots that an index left empty hold row -1 at +inf.
    """
    from memdec.datastore.search import find_neighbors  # torch; the methods import this module

    num_cached = min(k_max, len(keys_ND) - 1)
    shape = (len(queries), num_cached)
    found = out.array("rows", shape, np.int32), out.array("sq_distances", shape, np.float32)
    with track(len(queries), "rows", "searching neighbors") as advance:
        facts = find_neighbors(
            keys_ND,
            values_N,
            num_cached,
            config,
            out=found,
            rows=queries,
            device=device,
            advance=advance,
        )
    out.info(**facts, k_max=num_cached)


def build_query_neighbors(
    out: ArtifactWriter,
    queries: dict[str, Keys],
    keys_ND: Keys,
    values_N: NDArray[np.uint32],
    k_max: int,
    config: SearchConfig,
    device: str,
) -> None:
    """Write SPLIT_rows and SPLIT_sq_distances [Q, K] of each split's queries; none is excluded."""
    from memdec.datastore.search import find_for_queries

    num_cached = min(k_max, len(keys_ND))
    found = {
        split: (
            out.array(f"{split}_rows", (len(queries_QD), num_cached), np.int32),
            out.array(f"{split}_sq_distances", (len(queries_QD), num_cached), np.float32),
        )
        for split, queries_QD in queries.items()
    }
    with track(sum(map(len, queries.values())), "queries", "searching neighbors") as advance:
        facts = find_for_queries(
            queries,
            keys_ND,
            values_N,
            num_cached,
            config,
            out=found,
            device=device,
            advance=advance,
        )
    out.info(**facts, k_max=num_cached)
