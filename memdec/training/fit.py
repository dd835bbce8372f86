"""Train a memory decoder: build it, fit it with Lightning, export the best checkpoint."""

import json
import logging
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from memdec.artifacts.artifact import ArtifactWriter
from memdec.artifacts.files import sync, write_text
from memdec.models.memory import MemoryDecoder
from memdec.training.config import MemoryDecoderConfig, TrainerConfig
from memdec.training.data import MemoryData
from memdec.training.memory_module import MemoryModule, Validate

MONITOR = "validation/perplexity"


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, however the process dies."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Write aside, sync, rename."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = final.with_name(f".{final.name}.part")
        torch.save(checkpoint, aside)
        sync(aside)
        aside.replace(final)


def fit_memory(
    out: ArtifactWriter,
    memory: MemoryDecoder,
    tokenizer: Any,
    data: MemoryData,
    config: MemoryDecoderConfig,
    options: TrainerConfig,
    validate: Validate,
    seed: int,
    facts: dict[str, Any],
    logger: Logger | CSVLogger | bool,
) -> None:
    """Train, from what a killed run left in `out.path`; write export/ and metrics.jsonl.

    Args:
        out: The artifact to fill.
        memory: The decoder with its starting weights; trained in place.
        tokenizer: Saved beside the weights.
        data: Windows and targets.
        config: beta and the rest of the memory's settings.
        options: Optimisation and Trainer settings.
        validate: Metrics of the memory's gold log-probs; must hold validation/perplexity.
        seed: Seeds everything random that is left (weights from scratch are the caller's).
        facts: Written to export/memory.json.
        logger: A Lightning logger, or False.
    """
    _quiet_lightning()
    lightning.seed_everything(seed, workers=True, verbose=False)
    num_validation = len(data.validation_tokens) - 1
    module = MemoryModule(memory, config, options, validate, num_validation)
    folder = out.path / "checkpoints"
    trainer = _trainer(options, folder, logger)
    last = folder / "last.ckpt"
    started = time.monotonic()
    trainer.fit(
        module, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=False
    )
    seconds = time.monotonic() - started
    if trainer.is_global_zero:
        _load_best(module, folder / "best.ckpt")
        memory.export(out.path / "export", tokenizer, facts)
        lines = (_line(entry) for entry in module.history)
        write_text(out.path / "metrics.jsonl", "".join(lines))
        shutil.rmtree(folder)
        out.info(
            steps=trainer.global_step,
            fit_seconds=round(seconds, 1),
            train_tokens=module.tokens_seen,
            parameters=sum(p.numel() for p in memory.parameters()),
            best=min((float(e[MONITOR]) for e in module.history if MONITOR in e), default=None),
            **facts,
        )


def _trainer(options: TrainerConfig, folder: Path, logger: Logger | bool) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=options.precision,  # type: ignore[arg-type]
        max_epochs=options.max_epochs,
        max_steps=options.max_steps,
        accumulate_grad_batches=options.accumulation,
        gradient_clip_val=options.gradient_clip_norm or None,
        val_check_interval=options.validate_every_steps * options.accumulation or None,
        check_val_every_n_epoch=None if options.validate_every_steps else 1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=logger,
        callbacks=_callbacks(options, folder),
        plugins=[AtomicCheckpoints()],
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=_is_watched(),
    )


def _callbacks(options: TrainerConfig, folder: Path) -> list[Callback]:
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=MONITOR,
        save_weights_only=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        folder,
        filename="last",
        save_top_k=1,
        every_n_train_steps=options.checkpoint_every_steps or None,
        every_n_epochs=None if options.checkpoint_every_steps else 1,
        save_on_train_epoch_end=None if options.checkpoint_every_steps else True,
        enable_version_counter=False,
    )
    found: list[Callback] = [best, last]
    if options.patience:
        found.append(EarlyStopping(MONITOR, patience=options.patience))
    if _is_watched():
        found.append(RichProgressBar())
    return found


def _load_best(module: MemoryModule, path: Path) -> None:
    weights = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    module.load_state_dict(weights)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps({key: float(value) for key, value in entry.items()}, sort_keys=True) + "\n"


def _is_watched() -> bool:
    return sys.stderr.isatty()


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
