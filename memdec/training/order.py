"""The order of training windows: a function of seed, epoch and step only.

So the same config gives the same batches for any number of processes and data workers, and a
resumed run goes on with the batch at which the killed one stopped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler


@dataclass(frozen=True)
class MicroBatch:
    """Windows of one forward pass, and the share of its optimizer step that they carry."""

    windows: tuple[int, ...]
    step_windows: tuple[int, ...]
    """All windows of the same optimizer step, over all processes."""
    counts: bool = True
    """False for a filler that only keeps processes in step."""


class WindowOrder(Sampler[MicroBatch]):
    """Shuffle windows each epoch and deal every step's windows to processes and passes."""

    def __init__(
        self,
        num_windows: int,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self._num_windows = num_windows
        self._batch_size = batch_size
        self._micro_batch_size = micro_batch_size
        self._seed = seed
        self._rank = rank
        self._num_ranks = num_ranks
        self._epoch = 0
        self.start = 0
        """Micro-batches of the next epoch to leave out; a resumed run sets it."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Lightning calls this."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._epoch_batches())

    def __iter__(self) -> Iterator[MicroBatch]:
        start, self.start = self.start, 0
        yield from self._epoch_batches()[start:]

    def _epoch_batches(self) -> list[MicroBatch]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(self._num_windows)
        batches = []
        for start in range(0, len(order), self._batch_size):
            batches += self._deal(order[start : start + self._batch_size])
        return batches

    def _deal(self, step: np.ndarray[Any, Any]) -> list[MicroBatch]:
        step_windows = tuple(int(w) for w in step)
        # Also the last, smaller step of an epoch takes as many, so that counted passes are steps.
        passes = self._batch_size // (self._micro_batch_size * self._num_ranks)
        shares = np.array_split(step, passes * self._num_ranks)[self._rank :: self._num_ranks]
        return [
            MicroBatch(tuple(int(w) for w in share), step_windows)
            if len(share)
            else MicroBatch(step_windows[:1], step_windows, counts=False)
            for share in shares
        ]


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over a WindowOrder that tells Lightning how far it is."""

    sampler: WindowOrder

    def __iter__(self) -> Any:
        self._taken = self.sampler.start
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the micro-batches taken in this epoch."""
        return {"taken": getattr(self, "_taken", 0) % max(1, len(self.sampler))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the micro-batches that were already taken."""
        self.sampler.start = state["taken"]
