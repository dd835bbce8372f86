"""Train a memory decoder: build it, fit it with Lightning, export the best checkpoint."""

import copy
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy

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


class LastCheckpoint(Checkpoint):
    """Keeps the checkpoint from which a killed run goes on.

    It is saved after each validation and every few steps, but never between a step and a validation
    that is due right after it: Lightning resumes behind such a validation and leaves it out.
    """

    def __init__(self, path: Path, options: TrainerConfig) -> None:
        self._path = path
        self._options = options

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a whole step, if it is one of those asked for."""
        every, validate_every = (
            self._options.checkpoint_every_steps,
            self._options.validate_every_steps,
        )
        step, num_passes = trainer.global_step, batch_idx + 1
        if not every or step % every or num_passes % trainer.accumulate_grad_batches:
            return
        if validate_every:
            validation_is_next = step % validate_every == 0
        else:
            validation_is_next = num_passes == trainer.num_training_batches
        if not validation_is_next:
            trainer.save_checkpoint(self._path)

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save what was validated; a run that stops early must come to the same stop again."""
        if trainer.state.fn == "fit" and not trainer.should_stop:
            trainer.save_checkpoint(self._path)


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
    whole = copy.deepcopy(memory) if options.strategy == "fsdp" else memory
    module = MemoryModule(memory, config, options, validate, num_validation, data.rules.vocab_size)
    if options.compile:
        memory.compile()
    folder = out.scratch
    folder.mkdir(parents=True, exist_ok=True)
    trainer = _trainer(options, folder, logger)
    last = folder / "last.ckpt"
    started = time.monotonic()
    with _signals_interrupt():
        trainer.fit(
            module, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=False
        )
        best = module.best(MONITOR)
        if not module.is_validated(MONITOR, trainer.global_step):  # max_steps between validations
            trainer.validate(module, datamodule=data, verbose=False)
    seconds = time.monotonic() - started
    last_weights = trainer.strategy.lightning_module_state_dict()  # gathered by all processes
    if trainer.is_global_zero:
        is_kept = module.best(MONITOR) == best
        weights = _saved_weights(folder / "best.ckpt") if is_kept else last_weights
        whole.load_state_dict({key.removeprefix("memory."): weights[key] for key in weights})
        whole.export(out.path / "export", tokenizer, facts)
        lines = (_line(entry) for entry in module.history)
        write_text(out.path / "metrics.jsonl", "".join(lines))
        out.info(
            steps=trainer.global_step,
            fit_seconds=round(seconds, 1),
            train_tokens=data.scored_tokens(trainer.global_step),
            parameters=sum(p.numel() for p in whole.parameters()),
            best=module.best(MONITOR),
            **facts,
        )


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    # Lightning answers SIGINT and SIGTERM with SystemExit, of code 0 for the latter.
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error


def _trainer(options: TrainerConfig, folder: Path, logger: Logger | bool) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=_strategy(options),
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


def _strategy(options: TrainerConfig) -> Strategy | str:
    if options.strategy != "fsdp":
        return options.strategy
    size = options.devices * options.num_nodes
    return ModelParallelStrategy(size, tensor_parallel_size=1, save_distributed_checkpoint=False)


def _callbacks(options: TrainerConfig, folder: Path) -> list[Callback]:
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=MONITOR,
        save_weights_only=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    found: list[Callback] = [best, LastCheckpoint(folder / "last.ckpt", options)]
    if options.patience:
        # At the validation itself: a run resumed behind it has no metric at the end of the epoch.
        found.append(
            EarlyStopping(MONITOR, patience=options.patience, check_on_train_epoch_end=False)
        )
    if _is_watched():
        found.append(RichProgressBar())
    return found


def _saved_weights(path: Path) -> dict[str, Any]:
    weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    return weights


def _line(entry: dict[str, Any]) -> str:
    return json.dumps({key: float(value) for key, value in entry.items()}, sort_keys=True) + "\n"


def _is_watched() -> bool:
    return sys.stderr.isatty()


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
