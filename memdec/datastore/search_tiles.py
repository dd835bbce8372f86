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

__all__ = [
    "KeyBlock",
    "KeyBlocks",
    "Keys",
    "TileScratch",
    "choose_block_rows",
    "mean_key",
    "pick_rows",
]

Keys = NDArray[Any] | Tensor
"""Float rows [N, D] of any precision: a tensor, an array or a memory map."""

_MAX_BLOCK_ROWS = 1024
_MIN_BLOCK_ROWS = 64
_NORM_ROWS = 256
_MEAN_ROWS = 65536


def choose_block_rows(num_rows: int) -> int:
    """Return the tile size, a power of two that depends on the number of rows alone."""
    wanted = 1 << max(0, num_rows - 1).bit_length()
    return min(max(wanted, _MIN_BLOCK_ROWS), _MAX_BLOCK_ROWS)


def mean_key(keys_ND: Keys) -> Tensor:
    """Return the mean of the rows, f32 [D], summed in float64."""
    total = torch.zeros(keys_ND.shape[1], dtype=torch.float64)
    for first in range(0, len(keys_ND), _MEAN_ROWS):
        total += _as_tensor(keys_ND[first : first + _MEAN_ROWS]).double().sum(0).cpu()
    return (total / len(keys_ND)).float()


@dataclass(frozen=True)
class KeyBlock:
    """Centred keys f32 [R, D] and half their squared norms f32 [R]; +inf marks a padding row."""

    keys: Tensor
    half_norms: Tensor


class KeyBlocks:
    """Reads a key array in blocks of R rows, each centred, in float32 and padded to R rows."""

    def __init__(
        self, keys_ND: Keys, mean_D: Tensor, block_rows: int, device: torch.device
    ) -> None:
        self.block_rows = block_rows
        self.num_rows = len(keys_ND)
        self.num_blocks = -(-len(keys_ND) // block_rows)
        self._keys = keys_ND
        self._half_norms: dict[int, Tensor] = {}
        self._mean = mean_D.to(device)

    def block(self, index: int) -> KeyBlock:
        """Return the rows of one block."""
        first = index * self.block_rows
        keys_RD, num_rows = self._read(self._keys[first : first + self.block_rows])
        if index not in self._half_norms:
            self._half_norms[index] = _half_norms(keys_RD, num_rows)
        return KeyBlock(keys_RD, self._half_norms[index])

    def pick(self, rows: Tensor) -> KeyBlock:
        """Return at most R rows picked by number, in the order given."""
        keys_RD, num_rows = self._read(pick_rows(self._keys, rows))
        return KeyBlock(keys_RD, _half_norms(keys_RD, num_rows))

    def _read(self, part: Keys) -> tuple[Tensor, int]:
        keys_RD = self._mean.new_zeros(self.block_rows, part.shape[1])
        keys_RD[: len(part)] = _as_tensor(part).to(self._mean.device)
        keys_RD[: len(part)] -= self._mean
        return keys_RD, len(part)


class TileScratch:
    """Room for one tile, used again and again: fresh pages cost as much as a pass over the tile."""

    def __init__(self, block_rows: int, device: torch.device) -> None:
        self.device = device
        self._products = torch.empty(block_rows, block_rows, device=device)
        self._half_norms = torch.empty_like(self._products)

    def closeness(self, left: KeyBlock, right: KeyBlock) -> Tensor:
        """Return minus half the squared distance of every pair, f32 [R, R]; -inf for padding."""
        torch.mm(left.keys, right.keys.T, out=self._products)
        # The sum of the halves first: it is the same for (a, b) and (b, a), whatever the rounding.
        torch.add(left.half_norms[:, None], right.half_norms, out=self._half_norms)
        return self._products.sub_(self._half_norms)


def pick_rows(keys_ND: Keys, rows: Tensor) -> Keys:
    """Return the rows picked by number, in the order given."""
    if isinstance(keys_ND, Tensor):
        return keys_ND[rows.to(keys_ND.device)]
    return keys_ND[rows.cpu().numpy()]


def _half_norms(keys_RD: Tensor, num_rows: int) -> Tensor:
    """Return half the squared norms as matrix products round them, f32 [R]; +inf for padding."""
    parts = keys_RD.split(_NORM_ROWS)
    half_norms_R = torch.cat([torch.mm(part, part.T).diagonal() for part in parts]) / 2
    half_norms_R[num_rows:] = torch.inf
    return half_norms_R


def _as_tensor(part: Keys) -> Tensor:
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
