"""Blocks of keys and the squared distances between two blocks.

Distances come from |a|^2 + |b|^2 - 2ab in float32, over keys centred by their mean, which makes the
norms about as small as the distances. Half of |a|^2 is read off the same matrix product, so that
equal keys get exactly the distance 0 and equal distances to any third row: ties are real ties.

Shape legend: N rows, D key width, R rows of a block; tiles are [R, R] and always full, because a
matrix library may round differently at the edge of a small product.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memdec.errors import DataError

__all__ = ["KeyBlock", "KeyBlocks", "Keys", "Tile", "mean_key", "pick_rows"]

Keys = NDArray[Any] | Tensor
"""Float rows [N, D] of any precision: a tensor, an array or a memory map."""

_NORM_ROWS = 128
_MEAN_ROWS = 4096
_HELD_BYTES = {"cpu": 1 << 28, "cuda": 1 << 35}
"""Blocks are kept in float32 up to here; later ones are read again each time."""


def mean_key(keys_ND: Keys) -> Tensor:
    """Return the mean of the rows, f32 [D], summed in float64.

    Raises:
        DataError: A key is not finite.
    """
    total = torch.zeros(keys_ND.shape[1], dtype=torch.float64)
    for first in range(0, len(keys_ND), _MEAN_ROWS):
        total += _as_tensor(keys_ND[first : first + _MEAN_ROWS]).double().sum(0).cpu()
    if not total.isfinite().all():
        raise DataError("the keys hold a value that is not finite; make the datastore again.")
    return (total / len(keys_ND)).float()


def pick_rows(keys_ND: Keys, rows: Tensor) -> Keys:
    """Return the rows picked by number, in the order given."""
    if isinstance(keys_ND, Tensor):
        return keys_ND[rows.to(keys_ND.device)]
    return keys_ND[rows.cpu().numpy()]


@dataclass(frozen=True)
class KeyBlock:
    """Centred keys f32 [R, D] and half their squared norms f32 [R]; +inf marks a padding row."""

    keys: Tensor
    half_norms: Tensor


class KeyBlocks:
    """Reads rows in a given order, in blocks of R, each centred, in float32 and padded to R."""

    def __init__(self, keys_ND: Keys, order_N: Tensor, mean_D: Tensor, block_rows: int) -> None:
        self.order = order_N
        self.block_rows = block_rows
        self.num_blocks = -(-len(order_N) // block_rows)
        self._keys = keys_ND
        self._mean = mean_D
        self._half_norms: dict[int, Tensor] = {}
        self._held: dict[int, Tensor] = {}
        room = _HELD_BYTES.get(mean_D.device.type, _HELD_BYTES["cpu"])
        self._max_held = room // (4 * block_rows * len(mean_D))

    def rows(self, index: int) -> Tensor:
        """Return the row numbers of one block, i64; the last block may be short."""
        return self.order[index * self.block_rows : (index + 1) * self.block_rows]

    def block(self, index: int) -> KeyBlock:
        """Return the keys of one block."""
        keys_RD = self._held.get(index)
        if keys_RD is None:
            keys_RD = self._read(self.rows(index))
            if len(self._held) < self._max_held:
                self._held[index] = keys_RD
        if index not in self._half_norms:
            self._half_norms[index] = _half_norms(keys_RD, len(self.rows(index)))
        return KeyBlock(keys_RD, self._half_norms[index])

    def _read(self, rows: Tensor) -> Tensor:
        part = _as_tensor(pick_rows(self._keys, rows)).to(self._mean.device)
        keys_RD = self._mean.new_zeros(self.block_rows, part.shape[1])
        keys_RD[: len(part)] = part
        keys_RD[: len(part)] -= self._mean
        return keys_RD


class Tile:
    """Room for one tile, used again and again: fresh pages cost as much as a pass over the tile."""

    def __init__(self, left_rows: int, right_rows: int, device: torch.device) -> None:
        self.closeness = torch.empty(left_rows, right_rows, device=device)
        self._half_norms = torch.empty_like(self.closeness)

    def fill(self, left: KeyBlock, right: KeyBlock) -> Tensor:
        """Return minus half the squared distance of every pair, f32 [R, R]; -inf for padding."""
        torch.mm(left.keys, right.keys.T, out=self.closeness)
        # The sum of the halves first: it is the same for (a, b) and (b, a), whatever the rounding.
        torch.add(left.half_norms[:, None], right.half_norms, out=self._half_norms)
        return self.closeness.sub_(self._half_norms)


def _half_norms(keys_RD: Tensor, num_rows: int) -> Tensor:
    """Return half the squared norms as matrix products round them, f32 [R]; +inf for padding."""
    parts = keys_RD.split(_NORM_ROWS)
    half_norms_R = torch.cat([torch.mm(part, part.T).diagonal() for part in parts]) / 2
    half_norms_R[num_rows:] = torch.inf
    return half_norms_R


def _as_tensor(part: Keys) -> Tensor:
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
