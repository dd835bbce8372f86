"""What can be told about an experiment's models and devices before anything is computed."""

from collections.abc import Sequence
from pathlib import Path

from memdec.errors import ConfigError, DataError
from memdec.models.exports import read_memory_facts
from memdec.pipeline.builders import load_tokenizer_of
from memdec.pipeline.job import Job
from memdec.pipeline.model_facts import read_model_facts
from memdec.pipeline.plan import check_window
from memdec.pipeline.sizes import Sizes, read_sizes
from memdec.pipeline.stages import STAGES
from memdec.pipeline.training_builders import DATASTORE

WEIGHTS = ("*.safetensors", "*.bin")
"""Files of a model directory, one of which has to be there."""


def check_devices(job: Job, stages: Sequence[str]) -> None:
    """Refuse a device that this machine lacks, unless no stage is left to make.

    Raises:
        ConfigError: model.device, trainer.accelerator or trainer.precision asks for what PyTorch
            does not see here.
    """
    missing = [name for name in stages if not job.made(name)]
    if not missing:
        return
    import torch

    from memdec.models.loading import pick_device

    pick_device(job.experiment.model.device)
    if not any(STAGES[name].collective for name in missing):
        return
    trainer = job.experiment.trainer
    asked = trainer.accelerator
    backend = {"gpu": torch.cuda, "cuda": torch.cuda, "mps": torch.mps}.get(asked)
    if backend and not backend.is_available():
        raise ConfigError(
            f"trainer.accelerator is {asked!r} but torch sees none here; use cpu or auto."
        )
    on_cpu = asked == "cpu" or (asked == "auto" and not torch.cuda.is_available())
    if trainer.precision == "16-mixed" and on_cpu:  # Lightning would take bf16 in its place
        raise ConfigError(
            "trainer.precision is '16-mixed', which needs a GPU; use bf16-mixed or 32-true."
        )


def check_models(job: Job, stages: Sequence[str]) -> None:
    """Refuse models that cannot work together or lack positions, and LoRA below rank 1.

    Args:
        job: The run; its base is converted first where it has to be.
        stages: Those that it requires.

    Raises:
        ConfigError: A memory that is plugged in, or the model of the keys, has another tokenizer
            than the base; or the model that the memory starts from has, and no transfer was asked
            for, or has not, and its rows were to be moved; or one of them has fewer tokens than
            the tokenizer; or fidelity is asked for to other targets than a plugged memory's; or
            not even rank 1 of LoRA is within lora.budget_parameters; or a window, or the prompt
            and its continuation, has more positions than a model that reads it.
        DataError: A model holds no weights, or what the memory starts from cannot be loaded.
    """
    sizes = read_sizes(job, None, stages)
    if job.experiment.model.bos == "auto":
        _check_own_bos(job, sizes, stages)
    _check_prompt(job, sizes)
    models = _other_models(job, stages)
    _check_weights({"model.source": job.model_path, **models})
    _check_tokenizers(job, models, job.given_memories(stages))
    if job.starts_a_memory([stage for stage in stages if not job.made(stage)]):
        _check_start(job)
    if "fidelity" in stages and job.plugged_memory is not None:
        _check_fidelity(job, job.plugged_memory)
    if "lora" in stages and not job.made("lora"):
        _check_lora(job)


def _check_own_bos(job: Job, sizes: Sizes, stages: Sequence[str]) -> None:
    """Refuse a window that leaves no room for the BOS which the tokenizer adds itself."""
    try:
        check_window(job, sizes, stages, has_bos=True)
    except ConfigError:
        if load_tokenizer_of(job)[1].bos_on_each_window:
            raise


def _check_prompt(job: Job, sizes: Sizes) -> None:
    """Refuse now what the continuations at the end of the run would refuse after the training."""
    config = job.experiment.evaluation
    continued = {"memory_decoder", "dapt_memory"} & set(job.experiment.methods)
    readers = [sizes.model, *([sizes.memory] if "memory_decoder" in continued else [])]
    at_most = len(config.prompt.encode()) + 1 + config.new_tokens  # mostly a byte or more each
    rooms = [facts.max_positions for facts in readers if facts.max_positions]
    if not (config.prompt and continued and rooms and min(rooms) < at_most):
        return
    from memdec.models.generation import check_positions, encode_prompt

    prompt = encode_prompt(*load_tokenizer_of(job), config.prompt)
    check_positions(len(prompt), config.new_tokens, min(rooms))


def _other_models(job: Job, stages: Sequence[str]) -> dict[str, Path]:
    """Return the models whose weights are read beside the base's, by the keys that name them."""
    models = {}
    if job.starts_a_memory(stages) and job.experiment.memory_decoder.transfer != "scratch":
        models["memory_decoder.init"] = job.init_model
    if "datastore" in stages and not job.experiment.datastore.has_own_model:
        models["datastore.model"] = job.key_model
    return {key: model.path for key, model in models.items() if model is not None and model.path}


def _check_weights(models: dict[str, Path]) -> None:
    for key, path in models.items():
        if not any(file for pattern in WEIGHTS for file in path.glob(pattern)):
            raise DataError(f"{key} {path} holds no weights ({', '.join(WEIGHTS)}); add them.")


def _check_tokenizers(job: Job, models: dict[str, Path], plugged: list[Path]) -> None:
    if not plugged and not models:
        return
    from memdec.models.loading import load_tokenizer
    from memdec.models.tokenizer import check_same_tokenizer, reads_alike

    transfer = job.experiment.memory_decoder.transfer
    base, (own, rules) = job.experiment.model.source, load_tokenizer_of(job)
    needed = min(rules.vocab_size, read_model_facts(job.model_path).vocab_size)
    for memory in plugged:
        check_same_tokenizer(base, own, str(memory), load_tokenizer(memory))
        _check_vocab_size("memory", memory, needed)
    for key, path in models.items():
        is_alike = reads_alike(own, load_tokenizer(path))
        moves = key == "memory_decoder.init" and transfer != "refuse"
        if moves and is_alike:
            raise ConfigError(
                f"memory_decoder.transfer is {transfer} but {key} {path} has the tokenizer of "
                f"the base {base}: leave transfer out, or name another base in model.source."
            )
        if not moves and not is_alike:
            raise ConfigError(
                f"{key} {path} has another tokenizer than the base {base}; {_REMEDIES[key]}"
            )
        if is_alike:
            _check_vocab_size(key, path, needed)


def _check_vocab_size(key: str, path: Path, needed: int) -> None:
    vocab_size = read_model_facts(path).vocab_size
    if vocab_size < needed:
        raise ConfigError(
            f"{key} {path} has {vocab_size:,} tokens, fewer than the {needed:,} of the tokenizer "
            "that it shares with the base; resize its embedding to them."
        )


def _check_fidelity(job: Job, memory: Path) -> None:
    """Refuse to compare a memory with targets other than those that it was trained on."""
    made_with = read_memory_facts(memory).get("trained_with", {})
    if made_with.get("memory_decoder.beta") == 0:  # it had none
        return
    here = {DATASTORE: job.fingerprint("datastore"), **job.reads("fidelity")}
    for key in (DATASTORE, "knn.k", "knn.temperature"):
        if made_with.get(key) != here[key]:
            raise ConfigError(
                f"evaluation.fidelity is true and {key} is {here[key]}, but memory {memory} was "
                f"trained with {made_with.get(key)}: its targets were others; give "
                "evaluation.fidelity=false."
            )


def _check_start(job: Job) -> None:
    """Refuse now a start that could not be loaded after the targets are made."""
    if job.init_model is not None and job.init_model.path is not None:
        from memdec.models.loading import load_skeleton

        load_skeleton(job.init_model.path)


def _check_lora(job: Job) -> None:
    from memdec.models.loading import load_skeleton
    from memdec.models.lora import parameters_per_rank, solve_rank

    per_rank = parameters_per_rank(load_skeleton(job.model_path))
    if job.experiment.lora.budget_parameters:  # else a memory's size, far above
        solve_rank(per_rank, job.experiment.lora.budget_parameters)


_REMEDIES = {
    "memory_decoder.init": "to move it to the base's vocabulary, run again with "
    "memory_decoder.transfer=copied.",
    "datastore.model": "its keys would stand for other tokens: give a model with the base's.",
}
