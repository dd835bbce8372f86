"""Turn cached neighbors into sparse next-token distributions (CSR), never [rows, vocabulary].

Shape legend: Q queries, K neighbors, N datastore rows; nnz is the number of stored pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from memdec.artifacts.artifact import ArtifactWriter
from memdec.checks import SMALLEST_TEMPERATURE, check_at_least
from memdec.datastore.target_blocks import Array, distribution_blocks
from memdec.errors import ConfigError, DataError

__all__ = ["LmTargets", "knn_distribution", "write_targets"]


@dataclass(frozen=True)
class LmTargets:
    """The most likely tokens of a language model at each row, and its share in the targets."""

    ids_NL: Array
    log_probs_NL: Array
    share: float
    """In (0, 1)."""

    def as_neighbors(
        self, first: int, stop: int, sq_distances: Array, temperature: float
    ) -> tuple[Array, Array]:
        """Return squared distances and token ids at which these tokens weigh their share.

        A token of probability p weighs share / (1 - share) * p * Z beside neighbors that weigh Z
        together, so its distance is -temperature times the logarithm of that; it may be negative.
        """
        log_weights = -sq_distances / np.float32(temperature)
        highest = log_weights.max(axis=1, keepdims=True)
        log_total = highest + np.log(np.exp(log_weights - highest).sum(axis=1, keepdims=True))
        log_probs = self.log_probs_NL[first:stop].astype(np.float32)
        log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        odds = np.float32(np.log(self.share / (1 - self.share)))
        return -np.float32(temperature) * (odds + log_total + log_probs), self.ids_NL[first:stop]


def knn_distribution(
    sq_distances_QK: Tensor | Array,
    token_ids_QK: Tensor | Array,
    temperature: float,
    threshold: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn neighbors into a sparse next-token distribution (kNN-LM, Khandelwal et al. 2020).

    Weights are softmax(-sq_distances_QK / temperature) over K; equal token ids are summed in
    float32. An infinite distance or a negative token id carries no weight. Probabilities at or
    below `threshold` are dropped, never a row's largest, then the row is scaled to sum to 1.

    Returns starts i64 [Q+1], token_ids i64 [nnz] and probs f32 [nnz]: row q owns the entries
    starts[q]..starts[q+1]-1, largest first, equal probabilities by lower token id.

    Raises:
        ConfigError: temperature is below 1e-6, or threshold is outside [0, 1).
        DataError: The shapes differ, or a row has no neighbor at a finite distance.
    """
    _check_settings(temperature, threshold)
    sq_distances, token_ids = _as_numpy(sq_distances_QK), _as_numpy(token_ids_QK)
    if sq_distances.ndim != 2 or sq_distances.shape != token_ids.shape:
        raise DataError(
            f"sq_distances {list(sq_distances.shape)} and token_ids {list(token_ids.shape)} must "
            "have the same shape [queries, neighbors]."
        )

    def read(first: int, stop: int) -> tuple[Array, Array]:
        return sq_distances[first:stop], token_ids[first:stop]

    num_rows, num_neighbors = sq_distances.shape
    blocks = list(distribution_blocks(read, num_rows, num_neighbors, temperature, threshold))
    counts = np.concatenate([np.zeros(1, np.int64), *(block[0] for block in blocks)])
    starts = torch.from_numpy(counts.cumsum())
    ids = torch.empty(int(starts[-1]), dtype=torch.int64)
    probs = torch.empty(int(starts[-1]), dtype=torch.float32)
    np.concatenate([np.empty(0, np.uint32), *(block[1] for block in blocks)], out=ids.numpy())
    np.concatenate([np.empty(0, np.float32), *(block[2] for block in blocks)], out=probs.numpy())
    device = sq_distances_QK.device if isinstance(sq_distances_QK, Tensor) else None
    return starts.to(device), ids.to(device), probs.to(device)


def write_targets(
    out: ArtifactWriter,
    rows_NK: Array,
    sq_distances_NK: Array,
    values_N: Array,
    temperature: float,
    threshold: float = 0.0,
    advance: Callable[[int], Any] = lambda num_rows: None,
    lm: LmTargets | None = None,
) -> None:
    """Write the targets of every datastore row from its nearest neighbors.

    Writes starts i64 [N+1], token_ids u32 [nnz] and probs f16 [nnz] as .npy files into `out.path`,
    in bounded memory, and notes the number of pairs. Probabilities are rounded to float16 and
    those that become 0 are dropped, so readers must renormalise each row in float32.
    `advance(num_rows)` reports progress. With `lm`, a language model's distribution is mixed in.

    Raises:
        ConfigError: A knob is out of range.
        DataError: The arrays disagree, or a row has no neighbor.
    """
    _check_settings(temperature, threshold)
    num_rows, k = rows_NK.shape
    if sq_distances_NK.shape != rows_NK.shape:
        raise DataError(
            f"rows {rows_NK.shape} and sq_distances {sq_distances_NK.shape} must be alike."
        )
    values = np.asarray(values_N)

    def read(first: int, stop: int) -> tuple[Array, Array]:
        rows = rows_NK[first:stop]
        found = rows >= 0
        sq_distances = np.where(found, sq_distances_NK[first:stop], np.float32(np.inf))
        tokens = values[np.where(found, rows, 0)]
        if lm is None:
            return sq_distances, tokens
        more = lm.as_neighbors(first, stop, sq_distances, temperature)
        return np.hstack([sq_distances, more[0]]), np.hstack([tokens, more[1]])

    counts = [np.zeros(1, np.int64)]
    ids_path, probs_path = out.path / "token_ids.npy", out.path / "probs.npy"
    with ids_path.open("wb") as ids_file, probs_path.open("wb") as probs_file:
        _write_header(ids_file, np.uint32, 0)
        _write_header(probs_file, np.float16, 0)
        width = k + (lm.ids_NL.shape[1] if lm else 0)
        for counts_block, ids, probs in distribution_blocks(
            read, num_rows, width, temperature, threshold
        ):
            halves = probs.astype(np.float16)
            # f16 flushes values below 6e-8 to zero: such pairs would only cost room.
            kept = halves > 0
            row_of_pair = np.repeat(np.arange(len(counts_block)), counts_block)
            counts.append(np.bincount(row_of_pair[kept], minlength=len(counts_block)))
            ids[kept].tofile(ids_file)
            halves[kept].tofile(probs_file)
            advance(len(counts_block))
        starts = np.concatenate(counts).cumsum()
        _write_header(ids_file, np.uint32, int(starts[-1]))
        _write_header(probs_file, np.float16, int(starts[-1]))
    out.write_array("starts", starts)
    out.info(num_rows=num_rows, num_pairs=int(starts[-1]), k=k)


def _check_settings(temperature: float, threshold: float) -> None:
    check_at_least("knn.temperature", temperature, SMALLEST_TEMPERATURE)
    if not 0 <= threshold < 1:
        raise ConfigError(f"knn.threshold must be at least 0 and below 1, got {threshold}.")


def _as_numpy(values: Tensor | Array) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _write_header(file: BinaryIO, dtype: type[np.generic], num_entries: int) -> None:
    """Write the .npy header at the head of the file; numpy pads it so that it can grow in place."""
    file.seek(0)
    shape = (num_entries,)
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
