"""Turn cached neighbors into sparse next-token distributions (CSR), without a [rows, vocabulary] array.

Shapes: Q queries, K neighbors, N datastore rows; nnz is the number of stored pairs (token, probability).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

from memdec.errors import ConfigError, DataError

__all__ = ["knn_distribution", "write_targets"]

_BLOCK_ENTRIES = 1 << 19
"""Neighbors handled at once by one thread: about 25 MB of scratch memory."""

_LOW_HALF = np.uint64(0xFFFFFFFF)
_PADDING = np.uint64(0xFFFFFFFFFFFFFFFF)

Block = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Entries per row i64 [rows], token ids u32 [nnz], probabilities f32 [nnz]."""

BlockReader = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""Squared distances and token ids of the rows first..stop-1."""


class ArtifactOut(Protocol):
    """What `write_targets` needs of an artifact writer."""

    path: Path

    def write_array(self, name: str, values: np.ndarray, /) -> Any:
        """Store one whole array as NAME.npy."""

    def info(self, **facts: Any) -> Any:
        """Note plain facts for the manifest."""


def knn_distribution(
    sq_distances_QK: torch.Tensor | np.ndarray,
    token_ids_QK: torch.Tensor | np.ndarray,
    temperature: float,
    threshold: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn neighbors into a sparse next-token distribution (kNN-LM, Khandelwal et al. 2020).

    Weights are softmax(-sq_distances_QK / temperature) over K; equal token ids are summed in float32.
    An infinite distance or a negative token id carries no weight. Entries at or below `threshold` are
    dropped (never a row's largest), then the row is scaled to sum to 1.

    Returns starts i64 [Q+1], token_ids i64 [nnz] and probs f32 [nnz]: row q owns the entries
    starts[q]..starts[q+1]-1, largest first, equal probabilities by lower token id.

    Raises:
        ConfigError: temperature is not above 0, or threshold is outside [0, 1).
        DataError: the shapes differ, or a row has no neighbor at a finite distance.
    """
    _check_settings(temperature, threshold)
    device = sq_distances_QK.device if isinstance(sq_distances_QK, torch.Tensor) else None
    sq_distances, token_ids = _as_numpy(sq_distances_QK), _as_numpy(token_ids_QK)
    if sq_distances.ndim != 2 or sq_distances.shape != token_ids.shape:
        raise DataError(
            f"sq_distances {list(sq_distances.shape)} and token_ids {list(token_ids.shape)} must be "
            "the same [queries, neighbors]."
        )
    blocks = list(
        _distribution_blocks(
            lambda first, stop: (sq_distances[first:stop], token_ids[first:stop]),
            *sq_distances.shape,
            temperature,
            threshold,
        )
    )
    counts = np.concatenate([np.zeros(1, np.int64), *(block[0] for block in blocks)])
    starts = torch.from_numpy(counts.cumsum())
    ids = torch.empty(int(starts[-1]), dtype=torch.int64)
    probs = torch.empty(int(starts[-1]), dtype=torch.float32)
    np.concatenate([np.empty(0, np.uint32), *(b[1] for b in blocks)], out=ids.numpy(), casting="safe")
    np.concatenate([np.empty(0, np.float32), *(b[2] for b in blocks)], out=probs.numpy())
    return starts.to(device), ids.to(device), probs.to(device)


def write_targets(
    out: ArtifactOut,
    rows_NK: np.ndarray,
    sq_distances_NK: np.ndarray,
    values_N: np.ndarray,
    k: int,
    temperature: float,
    threshold: float = 0.0,
    advance: Callable[[int], Any] = lambda num_rows: None,
) -> None:
    """Write the targets of every datastore row from its `k` nearest cached neighbors, in bounded memory.

    Writes starts i64 [N+1], token_ids u32 [nnz] and probs f16 [nnz] as .npy files into `out.path`, with
    the number of pairs as facts. Probabilities are rounded to float16 and those that become 0 are
    dropped, so readers must renormalise a row in float32. `advance(num_rows)` reports progress.

    Raises:
        ConfigError: k is below 1 or above the cached neighbors, or a knob is out of range.
        DataError: the arrays disagree, or a row has no neighbor.
    """
    _check_settings(temperature, threshold)
    num_rows, num_cached = rows_NK.shape
    if not 1 <= k <= num_cached:
        raise ConfigError(
            f"knn.k must be in 1..{num_cached}, the neighbors cached per row, got {k}; "
            "raise datastore.k_max to search more."
        )
    if sq_distances_NK.shape != rows_NK.shape:
        raise DataError(f"rows {rows_NK.shape} and sq_distances {sq_distances_NK.shape} must be alike.")
    values = np.asarray(values_N)

    def read(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows = rows_NK[first:stop, :k]
        found = rows >= 0
        sq_distances = np.where(found, sq_distances_NK[first:stop, :k], np.float32(np.inf))
        return sq_distances, values[np.where(found, rows, 0)]

    starts = np.zeros(num_rows + 1, np.int64)
    done = 0
    with (
        (out.path / "token_ids.npy").open("wb") as ids_file,
        (out.path / "probs.npy").open("wb") as probs_file,
    ):
        _write_header(ids_file, np.uint32, 0)
        _write_header(probs_file, np.float16, 0)
        for counts, ids, probs in _distribution_blocks(read, num_rows, k, temperature, threshold):
            halves = probs.astype(np.float16)
            # f16 flushes values below 6e-8 to zero: such pairs would only cost room.
            kept = halves > 0
            row_of_entry = np.repeat(np.arange(len(counts)), counts)
            starts[done + 1 : done + 1 + len(counts)] = np.bincount(
                row_of_entry[kept], minlength=len(counts)
            )
            ids[kept].tofile(ids_file)
            halves[kept].tofile(probs_file)
            done += len(counts)
            advance(len(counts))
        np.cumsum(starts, out=starts)
        _write_header(ids_file, np.uint32, int(starts[-1]))
        _write_header(probs_file, np.float16, int(starts[-1]))
    out.write_array("starts", starts)
    out.info(num_rows=num_rows, num_pairs=int(starts[-1]), pairs_per_row=float(starts[-1] / num_rows))


def _check_settings(temperature: float, threshold: float) -> None:
    if not temperature > 0:
        raise ConfigError(f"knn.temperature must be above 0, got {temperature}.")
    if not 0 <= threshold < 1:
        raise ConfigError(f"knn.threshold must be at least 0 and below 1, got {threshold}.")


def _as_numpy(values: torch.Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _write_header(file: BinaryIO, dtype: type[np.generic], num_entries: int) -> None:
    """Write the .npy header at the head of the file; numpy pads it, so that it can grow in place."""
    file.seek(0)
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (num_entries,)}
    np.lib.format.write_array_header_1_0(file, header)


def _distribution_blocks(
    read: BlockReader, num_rows: int, num_neighbors: int, temperature: float, threshold: float
) -> Iterator[Block]:
    """Yield the distributions of successive row blocks, computed in a few threads, in order."""
    rows_per_block = max(1, _BLOCK_ENTRIES // max(1, num_neighbors))

    def work(first: int) -> Block:
        stop = min(first + rows_per_block, num_rows)
        return _block_distribution(*read(first, stop), temperature, threshold, first)

    num_threads = torch.get_num_threads()
    firsts = range(0, num_rows, rows_per_block)
    with ThreadPoolExecutor(num_threads) as pool:
        # Waves of a few blocks: a slow reader never lets finished blocks pile up.
        wave = 2 * num_threads
        waves = (firsts[i : i + wave] for i in range(0, len(firsts), wave))
        yield from chain.from_iterable(pool.map(work, some) for some in waves)


def _block_distribution(
    sq_distances_QK: np.ndarray,
    token_ids_QK: np.ndarray,
    temperature: float,
    threshold: float,
    first_row: int,
) -> Block:
    """Compute the distributions of one row block."""
    weights_QK = _weights(sq_distances_QK, token_ids_QK, temperature, first_row)
    num_rows, num_neighbors = weights_QK.shape
    # (token, weight) in one integer: a single in-place sort groups equal tokens, and fixes the order
    # of summation whatever the order of the neighbors. Non-negative floats sort like their bits.
    packed_QK = token_ids_QK.astype(np.uint32).astype(np.uint64) << np.uint64(32)
    packed_QK |= weights_QK.view(np.uint32)
    packed_QK.sort(axis=1)
    ids, weights = _unpack(packed_QK.reshape(-1))
    is_first = np.empty(ids.size, bool)
    np.not_equal(ids[1:], ids[:-1], out=is_first[1:])
    is_first[::num_neighbors] = True
    firsts = np.flatnonzero(is_first)
    row_of_entry = firsts // num_neighbors
    ids, probs = ids[firsts], np.add.reduceat(weights, firsts)

    counts, (ids, probs, row_of_entry) = _keep_and_scale(probs, 0.0, ids, row_of_entry, num_rows)
    if threshold > 0:
        counts, (ids, probs, row_of_entry) = _keep_and_scale(
            probs, threshold, ids, row_of_entry, num_rows
        )
    return counts, *_largest_first(counts, ids, probs, row_of_entry)


def _weights(
    sq_distances_QK: np.ndarray, token_ids_QK: np.ndarray, temperature: float, first_row: int
) -> np.ndarray:
    """Return exp(-(distance - nearest) / temperature), f32 [Q, K]; 0 for slots without a neighbor."""
    sq_distances = np.array(sq_distances_QK, dtype=np.float32)
    if token_ids_QK.dtype.kind == "i":
        sq_distances[token_ids_QK < 0] = np.inf
    nearest_Q1 = sq_distances.min(axis=1, keepdims=True, initial=np.inf)
    if not np.isfinite(nearest_Q1).all():
        row = first_row + int(np.argmin(np.isfinite(nearest_Q1[:, 0])))
        raise DataError(
            f"row {row} has no neighbor at a finite distance, so it has no kNN distribution; "
            "search again with more candidates (datastore.search.num_probes)."
        )
    np.subtract(nearest_Q1, sq_distances, out=sq_distances)
    sq_distances /= np.float32(temperature)
    return np.exp(sq_distances, out=sq_distances)


def _keep_and_scale(
    probs: np.ndarray, threshold: float, ids: np.ndarray, row_of_entry: np.ndarray, num_rows: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Drop entries at or below `threshold` except a row's largest; scale each row to sum to 1."""
    row_starts = np.searchsorted(row_of_entry, np.arange(num_rows))
    kept = probs > threshold
    kept |= probs == np.maximum.reduceat(probs, row_starts)[row_of_entry]
    ids, probs, row_of_entry = ids[kept], probs[kept], row_of_entry[kept]
    counts = np.bincount(row_of_entry, minlength=num_rows)
    totals = np.add.reduceat(probs, counts.cumsum() - counts)
    return counts, (ids, probs / totals[row_of_entry], row_of_entry)


def _largest_first(
    counts: np.ndarray, ids: np.ndarray, probs: np.ndarray, row_of_entry: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Order each row's entries by falling probability, equal ones by rising token id."""
    place = np.arange(ids.size) - (counts.cumsum() - counts)[row_of_entry]
    packed_QM = np.full((len(counts), int(counts.max(initial=0))), _PADDING)
    packed_QM[row_of_entry, place] = (~probs.view(np.uint32)).astype(np.uint64) << np.uint64(32) | ids
    packed_QM.sort(axis=1)
    flat = packed_QM[np.arange(packed_QM.shape[1]) < counts[:, None]]
    inverted, ids = (flat >> np.uint64(32)).astype(np.uint32), (flat & _LOW_HALF).astype(np.uint32)
    return ids, (~inverted).view(np.float32)


def _unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split token << 32 | weight bits into token ids u32 and weights f32."""
    ids = (packed >> np.uint64(32)).astype(np.uint32)
    return ids, (packed & _LOW_HALF).astype(np.uint32).view(np.float32)
