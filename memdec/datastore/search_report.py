"""How far an approximate search is from the exact one, on a random sample of rows.

Shape legend: Q sampled rows, K neighbors, N datastore rows; V tokens of one row's two targets.
"""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import Array
from memdec.datastore.search_config import SearchConfig
from memdec.datastore.search_found import Found
from memdec.datastore.search_tiled import TiledSearch
from memdec.datastore.search_tiles import Keys, pick_rows
from memdec.datastore.targets import knn_distribution

__all__ = ["compare_with_exact"]

TEMPERATURES = (1.0, 4.0, 16.0)
_EXACT_SHARE = 1e-3
"""Mixed into the approximate target: without it one missing token makes the KL infinite."""


def compare_with_exact(
    found: Found,
    queries_QD: Keys,
    wanted: Tensor,
    own_rows: Tensor | None,
    keys_ND: Keys,
    values_N: Array,
    config: SearchConfig,
) -> dict[str, Any]:
    """Search a sample of the wanted queries exactly; return facts for the manifest.

    They are recall@k, and for a few temperatures the mean KL(exact || approximate target) in nats,
    with 0.1% of the exact target mixed into the other. Warns when the recall is below the limit.
    """
    k = found.rows.shape[1]
    drawn = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(1))
    places_Q = drawn[: config.sample_rows].sort().values
    shape = (len(places_Q), k)
    exact = Found(np.empty(shape, np.int64), np.empty(shape, np.float32))
    own_Q = None if own_rows is None else own_rows[places_Q]
    sampled_QD = pick_rows(queries_QD, wanted[places_Q])
    TiledSearch(keys_ND, k).one_sided(exact, sampled_QD, own_rows=own_Q)
    near_rows_QK = np.asarray(found.rows[places_Q.numpy()])
    near_distances_QK = np.asarray(found.sq_distances[places_Q.numpy()])
    recall = _recall(exact.rows, near_rows_QK)
    _warn_when_low(recall, k, len(places_Q), config)
    divergence = {
        str(temperature): _divergence(
            _targets(exact.rows, exact.sq_distances, values_N, temperature),
            _targets(near_rows_QK, near_distances_QK, values_N, temperature),
        )
        for temperature in TEMPERATURES
    }
    return {"recall": recall, "sampled_rows": len(places_Q), "target_kl": divergence}


def _recall(exact_QK: Array, near_QK: Array) -> float:
    hits = [np.intersect1d(a, b).size for a, b in zip(exact_QK, near_QK, strict=True)]
    return float(np.mean(hits)) / exact_QK.shape[1]


def _warn_when_low(recall: float, k: int, num_rows: int, config: SearchConfig) -> None:
    if recall < config.min_recall:
        warnings.warn(
            f"recall@{k} of the search is {recall:.3f} on {num_rows} sampled rows, below "
            f"search.min_recall = {config.min_recall}; raise search.num_probes (now "
            f"{config.num_probes}), and with ivf_pq search.rerank (now {config.rerank}).",
            stacklevel=2,
        )


def _targets(
    rows_QK: Array, sq_distances_QK: Array, values_N: Array, temperature: float
) -> list[dict[int, float]]:
    """Return token -> probability of each row."""
    values_QK = np.where(rows_QK < 0, -1, np.asarray(values_N)[rows_QK].astype(np.int64))
    starts, ids, probs = knn_distribution(sq_distances_QK, values_QK, temperature)
    return [
        dict(zip(ids[a:b].tolist(), probs[a:b].tolist(), strict=True))
        for a, b in pairwise(starts.tolist())
    ]


def _divergence(exact: list[dict[int, float]], near: list[dict[int, float]]) -> float:
    """Return the mean KL(exact || near), the latter with a little of the former mixed in."""
    total = 0.0
    for exact_V, near_V in zip(exact, near, strict=True):
        p = np.array(list(exact_V.values()))
        q = np.array([near_V.get(token, 0.0) for token in exact_V])
        total += float((p * np.log(p / ((1 - _EXACT_SHARE) * q + _EXACT_SHARE * p))).sum())
    return total / len(exact)
