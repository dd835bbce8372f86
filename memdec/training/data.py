"""The LightningDataModule: corpus tokens plus cached kNN distributions, as padded sparse rows.

Shape legend: B windows, T input positions, N scored positions of a batch, M stored target entries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from memdec.artifacts.artifact import Artifact
from memdec.corpus.windows import Window
from memdec.errors import ArtifactError
from memdec.models.batches import make_batch
from memdec.models.tokenizer import TokenRules
from memdec.training.config import TrainerConfig
from memdec.training.order import MicroBatch, ResumableLoader, WindowOrder

Array = NDArray[Any]
Batch = dict[str, Any]
"""Tensors by name; `counts` is False for a filler (see MicroBatch)."""


@dataclass(frozen=True)
class SparseTargets:
    """kNN distributions of all rows, as stored (CSR); None of it is read before it is used."""

    starts: Array
    """i64 [N+1]"""
    token_ids: Array
    """u32 [nnz]"""
    probs: Array
    """f16 [nnz]"""

    @classmethod
    def open(cls, targets: Artifact, num_rows: int) -> "SparseTargets":
        """Open a targets artifact and check that it has one row for each predicted token.

        Raises:
            ArtifactError: It belongs to another corpus.
        """
        starts = np.asarray(targets.array("starts"))
        if len(starts) - 1 != num_rows:
            raise ArtifactError(
                f"targets {targets.fingerprint} hold {len(starts) - 1:,} rows but the corpus has "
                f"{num_rows:,} scored tokens; delete {targets.path} and run again."
            )
        return cls(starts, targets.array("token_ids"), targets.array("probs"))

    def rows(self, rows_N: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return token ids i64 [N, M] and probabilities f32 [N, M], padded with probability 0."""
        first_N, last_N = self.starts[rows_N], self.starts[rows_N + 1]
        length_N = last_N - first_N
        columns_M = np.arange(max(1, int(length_N.max())))
        present_NM = columns_M < length_N[:, None]
        entries = (first_N[:, None] + columns_M)[present_NM]
        ids_NM = np.zeros(present_NM.shape, np.int64)
        probs_NM = np.zeros(present_NM.shape, np.float32)
        ids_NM[present_NM] = self.token_ids[entries]
        probs_NM[present_NM] = self.probs[entries]
        # f16 flushes values below 6e-8 to zero; renormalise in f32 so that each row sums to 1.
        probs_NM /= probs_NM.sum(1, keepdims=True)
        return torch.from_numpy(ids_NM), torch.from_numpy(probs_NM)


class _TrainingWindows(Dataset[Batch]):
    """Builds one micro-batch; the sampler says of which windows."""

    def __init__(self, data: "MemoryData") -> None:
        self._data = data

    def __getitem__(self, micro: MicroBatch) -> Batch:
        windows = self._data.train_windows
        chosen = [windows[i] for i in micro.windows]
        batch = make_batch(self._data.train_tokens, chosen, self._data.rules)
        num_step_tokens = self._data.count_tokens(micro.step_windows)
        weight = len(batch.gold_N) / num_step_tokens if micro.counts else 0.0
        item: Batch = {
            "inputs_BT": batch.inputs_BT,
            "scored_BT": batch.scored_BT,
            "gold_N": batch.gold_N,
            "weight": torch.tensor(weight, dtype=torch.float32),
            "counts": micro.counts,
        }
        if self._data.targets is not None:
            item["target_ids_NM"], item["target_probs_NM"] = self._data.targets.rows(batch.rows_N)
        return item


class _ValidationWindows(Dataset[Batch]):
    def __init__(self, data: "MemoryData", batches: Sequence[Sequence[Window]]) -> None:
        self._data = data
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        batch = make_batch(self._data.validation_tokens, self._batches[index], self._data.rules)
        return {
            "inputs_BT": batch.inputs_BT,
            "scored_BT": batch.scored_BT,
            "gold_N": batch.gold_N,
            "rows_N": torch.from_numpy(batch.rows_N),
        }


class MemoryData(lightning.LightningDataModule):
    """Training windows with their kNN targets, and validation windows."""

    def __init__(
        self,
        *,
        train_tokens: Array,
        train_windows: list[Window],
        validation_tokens: Array,
        validation_windows: list[Window],
        targets: SparseTargets | None,
        rules: TokenRules,
        config: TrainerConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.train_tokens = train_tokens
        self.train_windows = train_windows
        self.validation_tokens = validation_tokens
        self.validation_windows = validation_windows
        self.targets = targets
        self.rules = rules
        self._config = config
        self._seed = seed

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        steps = self._config.max_epochs * math.ceil(
            len(self.train_windows) / self._config.batch_size
        )
        return steps if self._config.max_steps < 0 else min(steps, self._config.max_steps)

    def scored_tokens(self, num_steps: int) -> int:
        """Return how many tokens the first optimizer steps train on, over all processes."""
        size = self._config.batch_size
        order = WindowOrder(len(self.train_windows), size, size, self._seed)  # one pass a step
        counts: list[int] = []
        for epoch in range(self._config.max_epochs):
            order.set_epoch(epoch)
            counts += [self.count_tokens(micro.step_windows) for micro in order]
        return sum(counts[:num_steps])

    def count_tokens(self, windows: Sequence[int]) -> int:
        """Return the scored tokens of some training windows."""
        return sum(self.train_windows[i].end - self.train_windows[i].first_scored for i in windows)

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled micro-batches of this process."""
        rank, num_ranks = self._rank()
        order = WindowOrder(
            len(self.train_windows),
            self._config.batch_size,
            self._config.micro_batch_size,
            self._seed,
            rank,
            num_ranks,
        )
        return ResumableLoader(_TrainingWindows(self), sampler=order, **self._loader_options())

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation windows of this process, in order."""
        rank, num_ranks = self._rank()
        mine = self.validation_windows[rank::num_ranks]
        # All ranks pass equally often: with FSDP they gather weights together. A token that is
        # scored twice has the same score.
        mine += self.validation_windows[:1] * (
            -(-len(self.validation_windows) // num_ranks) - len(mine)
        )
        size = self._config.micro_batch_size
        batches = [mine[i : i + size] for i in range(0, len(mine), size)]
        return DataLoader(_ValidationWindows(self, batches), **self._loader_options())

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader_options(self) -> dict[str, Any]:
        workers = self._config.num_workers
        return {
            "batch_size": None,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
