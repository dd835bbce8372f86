"""The LightningModule that trains a memory decoder.

Shape legend: B windows, T input positions, N scored positions, M stored target entries.
"""

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim.lr_scheduler import LambdaLR

from memdec.errors import DataError
from memdec.models.loading import blocks
from memdec.models.memory import MemoryDecoder
from memdec.models.scoring import score_hidden
from memdec.training.config import MemoryDecoderConfig, TrainerConfig
from memdec.training.data import Batch
from memdec.training.losses import memory_decoder_loss

Validate = Callable[[Tensor], dict[str, float]]
"""Turns the memory's gold log-probs on validation (f32, one per token) into metrics."""


def reliability(gold_N: Tensor, ids_NM: Tensor, probs_NM: Tensor, gating: str) -> Tensor | float:
    """Return how far each token's target is to be trusted, in [0, 1]."""
    if gating == "gold":
        return (probs_NM * (ids_NM == gold_N[:, None])).sum(1)
    return probs_NM.amax(1) if gating == "largest" else 1.0


class MemoryModule(lightning.LightningModule):
    """beta * KL(kNN || memory) + (1 - beta) * NLL, AdamW, linear decay."""

    def __init__(
        self,
        memory: MemoryDecoder,
        config: MemoryDecoderConfig,
        trainer_config: TrainerConfig,
        validate: Validate,
        num_validation_tokens: int,
        vocab_size: int,
    ) -> None:
        super().__init__()
        self.memory = memory
        self.history: list[dict[str, float | Tensor]] = []
        """Curves, an entry a micro-batch or validation; tensors stay on their device for now."""
        self._config = config
        self._options = trainer_config
        self._validate = validate
        self._gold_log_probs = torch.zeros(num_validation_tokens)
        self._vocab_size = vocab_size

    def configure_model(self) -> None:
        """Shard the decoder over the processes where the strategy asks for it (FSDP2)."""
        if self._options.strategy != "fsdp" or isinstance(self.memory, FSDPModule):
            return
        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for block in blocks(self.memory.lm):
            fully_shard(block, mesh=mesh)
        # The loss reads the head after the forward pass, so what is in no block stays whole.
        fully_shard(self.memory, mesh=mesh, reshard_after_forward=False)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a micro-batch, weighted by its share of the step's tokens."""
        hidden_ND = self.memory(batch["inputs_BT"])[batch["scored_BT"]]
        targets = self._targets(batch)
        beta = self._config.beta * reliability(*targets, self._config.gating)
        loss, kl, nll = memory_decoder_loss(
            hidden_ND, self.memory.head(), *targets, beta, self._config.divergence
        )
        # Lightning averages over accumulated passes and processes; the step wants a sum of shares.
        scale = batch["weight"] * self.trainer.accumulate_grad_batches * self.trainer.world_size
        if batch["counts"]:
            self._log_training(loss, kl, nll)
        return loss * scale

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        columns = self.memory.columns
        if "target_ids_NM" not in batch:  # beta = 0 trains on the gold tokens alone
            none = batch["gold_N"].new_zeros(len(batch["gold_N"]), 1)
            return columns(batch["gold_N"]), none, none.float()
        return columns(batch["gold_N"]), columns(batch["target_ids_NM"]), batch["target_probs_NM"]

    def _log_training(self, loss: Tensor, kl: Tensor, nll: Tensor) -> None:
        values = {"train/loss": loss, "train/kl": kl, "train/nll": nll}
        self.log_dict(values, prog_bar=True)
        detached = {name: value.detach() for name, value in values.items()}
        self.history.append({"step": float(self.global_step)} | detached)

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the last validation."""
        self._gold_log_probs.zero_()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Keep the memory's log-prob of every gold token."""
        hidden_ND = self.memory(batch["inputs_BT"])[batch["scored_BT"]]
        head_OD = self.memory.head(self._vocab_size)
        scores = score_hidden(
            hidden_ND, head_OD, batch["gold_N"], self.memory.output_ids_O, num_top=1
        )
        self._gold_log_probs[batch["rows_N"].cpu()] = scores.gold_log_probs_N.cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the mixture's perplexity over all validation tokens.

        Raises:
            DataError: The training diverged.
        """
        gold_N = self._gold_log_probs
        if self.trainer.world_size > 1:
            # Each token was scored by one process; the others hold 0, so the lowest is its score.
            gathered = self.all_gather(gold_N.to(self.device))
            assert isinstance(gathered, Tensor)
            gold_N = gathered.amin(0).cpu()
        if gold_N.isnan().any():
            raise DataError(
                f"the model gives no numbers (NaN) after {self.global_step} steps: its training "
                f"diverged at a learning rate of {self._options.learning_rate:g}; lower it, or "
                "lower trainer.gradient_clip_norm."
            )
        metrics = self._validate(gold_N)
        self.log_dict(metrics, prog_bar=True, rank_zero_only=False)
        if not self.trainer.sanity_checking:
            self.history.append({"step": float(self.global_step), **metrics})

    def best(self, metric: str) -> float | None:
        """Return the lowest value of a validation metric so far."""
        return min(
            (float(entry[metric]) for entry in self.history if metric in entry), default=None
        )

    def is_validated(self, metric: str, step: int) -> bool:
        """Tell whether the metric was measured after `step` optimizer steps."""
        return any(metric in entry and entry["step"] == step for entry in self.history)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and linear decay to zero, stepped with the optimizer."""
        options = self._options
        optimizer = torch.optim.AdamW(
            self.memory.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=not options.precision.endswith("mixed"),  # else Lightning refuses to clip
        )
        # Not trainer.estimated_stepping_batches: it makes Lightning set its loader up too early to
        # give it the position of a resumed run.
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        total: int = data.num_steps

        def rate(step: int) -> float:
            if step < options.warmup_steps:
                return (step + 1) / (options.warmup_steps + 1)
            return max(0.0, (total - step) / max(1, total - options.warmup_steps))

        scheduler = LambdaLR(optimizer, rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the curves, so that a resumed run has them whole."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the curves of the interrupted run."""
        self.history = list(checkpoint["history"])
