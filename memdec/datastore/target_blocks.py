"""Sparse next-token distributions of neighbor rows, block by block in a few threads.

Shape legend: Q queries, K neighbors, M distinct tokens of a row (at most K).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memdec.errors import DataError

__all__ = ["Array", "Block", "BlockReader", "distribution_blocks"]

Array = NDArray[Any]

Block = tuple[Array, Array, Array]
"""Entries per row i64 [rows], token ids u32 [nnz], probabilities f32 [nnz]."""

BlockReader = Callable[[int, int], tuple[Array, Array]]
"""Squared distances and token ids of the rows first..stop-1."""

_BLOCK_ENTRIES = 1 << 18
"""Neighbors handled at once by one thread: about 12 MB of scratch memory."""

_LOW_HALF = np.uint64(0xFFFFFFFF)
_PADDING = np.uint64(0xFFFFFFFFFFFFFFFF)


def distribution_blocks(
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
    sq_distances_QK: Array,
    token_ids_QK: Array,
    temperature: float,
    threshold: float,
    first_row: int,
) -> Block:
    """Compute the distributions of one row block."""
    weights_QK = _weights(sq_distances_QK, token_ids_QK, temperature, first_row)
    num_rows, num_neighbors = weights_QK.shape
    tokens_QK, places = _sorted_by_token(token_ids_QK)
    weights = weights_QK.reshape(-1).take(places.reshape(-1))
    is_first_QK = np.empty(weights_QK.shape, bool)
    is_first_QK[:, 0] = True
    np.not_equal(tokens_QK[:, 1:], tokens_QK[:, :-1], out=is_first_QK[:, 1:])
    firsts = np.flatnonzero(is_first_QK)
    row_of_entry = firsts // num_neighbors
    ids, probs = tokens_QK.reshape(-1)[firsts], np.add.reduceat(weights, firsts)

    counts, (ids, probs, row_of_entry) = _keep_and_scale(probs, 0.0, ids, row_of_entry, num_rows)
    if threshold > 0:
        counts, (ids, probs, row_of_entry) = _keep_and_scale(
            probs, threshold, ids, row_of_entry, num_rows
        )
    return counts, *_largest_first(counts, ids, probs, row_of_entry)


def _sorted_by_token(token_ids_QK: Array) -> tuple[Array, Array]:
    """Group equal tokens of a row, nearest first; return tokens and their flat places, [Q, K].

    (token, column) in one integer: 32 bits sort more than twice as fast as 64, and are enough for
    a million tokens at k = 4,096.
    """
    num_rows, num_neighbors = token_ids_QK.shape
    num_bits = max(1, (num_neighbors - 1).bit_length())
    num_tokens = int(token_ids_QK.max(initial=0)) + 1
    dtype: Any = np.uint32 if num_tokens << num_bits <= 1 << 32 else np.uint64
    packed_QK = token_ids_QK.astype(dtype)
    packed_QK <<= dtype(num_bits)
    packed_QK |= np.arange(num_neighbors, dtype=dtype)
    packed_QK.sort(axis=1)
    places_QK = (packed_QK & dtype((1 << num_bits) - 1)).astype(np.intp)
    places_QK += (np.arange(num_rows) * num_neighbors)[:, None]
    packed_QK >>= dtype(num_bits)
    return packed_QK.astype(np.uint32, copy=False), places_QK


def _weights(
    sq_distances_QK: Array, token_ids_QK: Array, temperature: float, first_row: int
) -> Array:
    """Return exp(-(distance - nearest) / temperature) f32 [Q, K]; 0 where there is no neighbor."""
    sq_distances = np.array(sq_distances_QK, dtype=np.float32)
    if token_ids_QK.dtype.kind == "i":
        sq_distances[token_ids_QK < 0] = np.inf
    nearest_Q1 = sq_distances.min(axis=1, keepdims=True, initial=np.inf)
    if not np.isfinite(nearest_Q1).all():
        row = first_row + int(np.argmin(np.isfinite(nearest_Q1[:, 0])))
        raise DataError(
            f"row {row} has no neighbor at a finite distance, so it has no kNN distribution; "
            "were the neighbors searched over these rows?"
        )
    np.subtract(nearest_Q1, sq_distances, out=sq_distances)
    sq_distances /= np.float32(temperature)
    return np.exp(sq_distances, out=sq_distances)


def _keep_and_scale(
    probs: Array, threshold: float, ids: Array, row_of_entry: Array, num_rows: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Drop entries at or below `threshold` except a row's largest; scale each row to sum to 1."""
    row_starts = np.searchsorted(row_of_entry, np.arange(num_rows))
    kept = probs > threshold
    kept |= probs == np.maximum.reduceat(probs, row_starts)[row_of_entry]
    ids, probs, row_of_entry = ids[kept], probs[kept], row_of_entry[kept]
    counts = np.bincount(row_of_entry, minlength=num_rows)
    totals = np.add.reduceat(probs, counts.cumsum() - counts)
    return counts, (ids, probs / totals[row_of_entry], row_of_entry)


def _largest_first(
    counts: Array, ids: Array, probs: Array, row_of_entry: Array
) -> tuple[Array, Array]:
    """Order each row's entries by falling probability, equal ones by rising token id."""
    place = np.arange(ids.size) - (counts.cumsum() - counts)[row_of_entry]
    packed_QM = np.full((len(counts), int(counts.max(initial=0))), _PADDING)
    packed_QM[row_of_entry, place] = (~probs.view(np.uint32)).astype(np.uint64) << np.uint64(
        32
    ) | ids
    packed_QM.sort(axis=1)
    flat = packed_QM[np.arange(packed_QM.shape[1]) < counts[:, None]]
    inverted, ids = (flat >> np.uint64(32)).astype(np.uint32), (flat & _LOW_HALF).astype(np.uint32)
    return ids, (~inverted).view(np.float32)
