"""Builders of the stages that train a model: the memory, DAPT and LoRA."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memdec.artifacts.artifact import ArtifactWriter
from memdec.pipeline.builders import load_tokenizer_of, stream_of, windows_of
from memdec.pipeline.model_facts import read_model_facts
from memdec.training.config import MemoryDecoderConfig, TrainerConfig

if TYPE_CHECKING:
    from torch import Tensor

    from memdec.models.memory import MemoryDecoder
    from memdec.models.tokenizer import TokenRules
    from memdec.pipeline.job import Job
    from memdec.training.memory_module import Validate

PLAIN_LOSS = MemoryDecoderConfig(beta=0.0, vocabulary="full")
"""A memory without kNN targets over all tokens: the LM loss."""
DATASTORE = "datastore"
"""Among what a memory was trained with, the name of the datastore that its targets came from."""


def memory(job: "Job", out: ArtifactWriter) -> None:
    """Train the memory decoder and export it."""
    import torch

    from memdec.evaluation.alpha import best_alpha

    base_log_probs = np.asarray(job.artifact("base_scores").array("validation_gold_log_probs"))

    def validate(memory_log_probs: torch.Tensor) -> dict[str, float]:
        alpha, nll = best_alpha(base_log_probs, memory_log_probs)
        return {"validation/perplexity": float(np.exp(nll)), "validation/alpha": alpha}

    job.release_models()
    _fit(
        job,
        out,
        "memory",
        _initial_memory(job),
        config=job.experiment.memory_decoder,
        validate=validate,
        trained_with=_settings_behind_memory(job),
    )


def _settings_behind_memory(job: "Job") -> dict[str, Any]:
    """Return the settings, by their dotted keys, that the memory and its targets follow from."""
    experiment = job.experiment
    settings = {
        "memory_decoder.init": experiment.memory_decoder.init,
        "model.separator": experiment.model.separator,
        **job.reads("memory"),
    }
    if experiment.memory_decoder.beta > 0:
        settings["datastore.model"] = experiment.datastore.model
        settings |= job.reads("datastore") | job.reads("neighbors") | job.reads("targets")
        settings[DATASTORE] = job.fingerprint("datastore")
    return settings


def fine_tune(job: "Job", out: ArtifactWriter, stage: str) -> None:
    """Train all of the base with the LM loss, as the stage's own section says, and export it."""
    from memdec.models.memory import MemoryDecoder, initial_lm

    job.release_models()
    lm = initial_lm(job.model_path, from_scratch=False, seed=job.experiment.seed)
    # What it is as a memory that is plugged in: one trained without kNN targets.
    as_memory = {
        "memory_decoder.beta": 0.0,
        "memory_decoder.init": job.experiment.model.source,
        "model.separator": job.experiment.model.separator,
        **job.reads(stage),
    }
    _fit(job, out, stage, MemoryDecoder(lm, None), trained_with=as_memory)


def lora(job: "Job", out: ArtifactWriter) -> None:
    """Train an adapter of the base with the LM loss and export it."""
    from memdec.models.lora import add_lora, parameters_per_rank, solve_rank
    from memdec.models.memory import MemoryDecoder, initial_lm

    job.release_models()
    config, seed = job.experiment.lora, job.experiment.seed
    lm = initial_lm(job.model_path, from_scratch=False, seed=seed)
    per_rank = parameters_per_rank(lm)
    budget = config.budget_parameters or _memory_parameters(job)
    rank = solve_rank(per_rank, budget)
    add_lora(lm, rank, config.scale, seed)
    trained = rank * per_rank
    print(f"LoRA: rank {rank}, {trained:,} of {budget:,} parameters", file=sys.stderr)
    decoder = MemoryDecoder(lm, None)
    _fit(job, out, "lora", decoder, rank=rank, trained_parameters=trained, budget_parameters=budget)


def _own_perplexity(gold_log_probs: "Tensor") -> dict[str, float]:
    return {"validation/perplexity": float(gold_log_probs.double().mean().neg().exp())}


def _fit(
    job: "Job",
    out: ArtifactWriter,
    stage: str,
    decoder: "MemoryDecoder",
    config: MemoryDecoderConfig = PLAIN_LOSS,
    validate: "Validate" = _own_perplexity,
    **facts: Any,
) -> None:
    from memdec.training.fit import fit_memory

    tokenizer, rules = load_tokenizer_of(job)
    options = job.experiment.options_of(stage)
    fit_memory(
        out,
        decoder,
        tokenizer,
        _data(job, rules, config, options),
        config,
        options,
        validate,
        job.experiment.seed,
        {"tokenizer_hash": rules.hash} | facts,
        _logger(job, stage),
    )


def _data(
    job: "Job", rules: "TokenRules", config: MemoryDecoderConfig, options: TrainerConfig
) -> Any:
    from memdec.datastore.build import check_alignment
    from memdec.training.data import MemoryData, SparseTargets

    stream = stream_of(job, "train")
    found = None
    if config.beta > 0:
        check_alignment(job.artifact("tokens"), job.artifact("datastore"))
        found = SparseTargets.open(job.artifact("targets"), len(stream) - 1)
    return MemoryData(
        train_tokens=stream,
        train_windows=windows_of(job, "train"),
        validation_tokens=stream_of(job, "validation"),
        validation_windows=windows_of(job, "validation"),
        targets=found,
        rules=rules,
        config=options,
        seed=job.experiment.seed,
    )


def _start_of_memory(job: "Job") -> Path:
    """Return the model directory whose weights, or at least shape, the memory starts from."""
    given = job.init_model.path if job.init_model is not None else None
    return given or job.model_path


def _initial_memory(job: "Job") -> Any:
    import torch

    from memdec.models.depth import keep_blocks
    from memdec.models.memory import MemoryDecoder, initial_lm

    experiment, start = job.experiment, _start_of_memory(job)
    from_scratch = "scratch" in (experiment.memory_decoder.init, experiment.memory_decoder.transfer)
    lm = initial_lm(start, from_scratch, experiment.seed)
    if experiment.memory_decoder.blocks:
        keep_blocks(lm, experiment.memory_decoder.blocks)
    if job.init_model is not None:
        _fit_vocabulary(job, lm, start)
    if experiment.memory_decoder.vocabulary == "full":
        return MemoryDecoder(lm, None)
    used = np.unique(stream_of(job, "train")).astype(np.int64)
    return MemoryDecoder(lm, torch.from_numpy(used))


def _memory_parameters(job: "Job") -> int:
    if job.plugged_memory is not None:
        return read_model_facts(job.plugged_memory).parameters
    return sum(parameter.numel() for parameter in _initial_memory(job).parameters())


def _fit_vocabulary(job: "Job", lm: Any, start: Path) -> None:
    """Give the memory the base's vocabulary where its own is another."""
    from memdec.models.loading import load_tokenizer
    from memdec.models.tokenizer import reads_alike
    from memdec.models.vocabulary import change_vocabulary

    tokenizer, own = load_tokenizer_of(job)[0], load_tokenizer(start)
    if not reads_alike(tokenizer, own):
        rows = "copied" if job.experiment.memory_decoder.transfer == "copied" else "random"
        change_vocabulary(lm, own, tokenizer, rows, job.experiment.seed)


def _logger(job: "Job", stage: str) -> Any:
    experiment = job.experiment
    folder = job.root / "logs" / experiment.name
    if experiment.logger == "csv":
        from lightning.pytorch.loggers import CSVLogger

        return CSVLogger(folder, name=job.fingerprint(stage), version="")
    if experiment.logger == "wandb":
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        prefix = "" if stage == "memory" else stage  # several methods share one run
        return WandbLogger(experiment=wandb.run, prefix=prefix)  # the run that `tracked` opened
    return False
