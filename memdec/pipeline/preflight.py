"""What can be told about an experiment's models and devices before anything is computed."""

from collections.abc import Sequence

from memdec.errors import ConfigError
from memdec.pipeline.builders import load_tokenizer_of
from memdec.pipeline.job import Job
from memdec.pipeline.stages import STAGES


def check_devices(job: Job, stages: Sequence[str]) -> None:
    """Refuse a device that this machine lacks, unless no stage is left to make.

    Raises:
        ConfigError: model.device or trainer.accelerator asks for what PyTorch does not see here.
    """
    missing = [name for name in stages if not job.made(name)]
    if not missing:
        return
    import torch

    from memdec.models.loading import pick_device

    pick_device(job.experiment.model.device)
    asked = job.experiment.trainer.accelerator
    backend = {"gpu": torch.cuda, "cuda": torch.cuda, "mps": torch.mps}.get(asked)
    if any(STAGES[name].collective for name in missing) and backend and not backend.is_available():
        raise ConfigError(
            f"trainer.accelerator is {asked!r} but torch sees none here; use cpu or auto."
        )


def check_models(job: Job, stages: Sequence[str]) -> None:
    """Refuse a model of another tokenizer, and LoRA that cannot fit its base.

    Args:
        job: The run; its base is converted first where it has to be.
        stages: Those that it requires.

    Raises:
        ConfigError: A memory that is plugged in, or the model of the keys, has another tokenizer
            than the base; or the model that the memory starts from has, and no transfer was asked
            for, or has not, and its rows were to be moved; or not even rank 1 of LoRA is within
            lora.budget_parameters.
    """
    _check_tokenizers(job, stages)
    if "lora" in stages and not job.made("lora"):
        _check_lora(job)


def _check_tokenizers(job: Job, stages: Sequence[str]) -> None:
    plugged, alike = job.given_memories(stages), {}
    transfer = job.experiment.memory_decoder.transfer
    if job.starts_a_memory(stages) and transfer != "scratch":
        alike["memory_decoder.init"] = job.init_model
    if "datastore" in stages and job.experiment.datastore.model not in ("base", "dapt"):
        alike["datastore.model"] = job.key_model
    models = {key: model.path for key, model in alike.items() if model is not None and model.path}
    if not plugged and not models:
        return
    from memdec.models.loading import load_tokenizer
    from memdec.models.tokenizer import check_same_tokenizer, reads_alike

    base, own = job.experiment.model.source, load_tokenizer_of(job)[0]
    for memory in plugged:
        check_same_tokenizer(base, own, str(memory), load_tokenizer(memory))
    for key, path in models.items():
        is_alike = reads_alike(own, load_tokenizer(path))
        moves = key == "memory_decoder.init" and transfer != "refuse"
        if moves and is_alike:
            raise ConfigError(
                f"memory_decoder.transfer is {transfer} but {key} {path} has the tokenizer of "
                f"the base {base}: leave transfer out, or name another base in model.source."
            )
        if not moves and not is_alike:
            raise ConfigError(f"{key} {path} has another tokenizer than the base {base}; {DO[key]}")


def _check_lora(job: Job) -> None:
    from memdec.models.loading import load_skeleton
    from memdec.models.lora import parameters_per_rank, solve_rank

    per_rank = parameters_per_rank(load_skeleton(job.model_path))
    if job.experiment.lora.budget_parameters:  # else a memory's size, far above
        solve_rank(per_rank, job.experiment.lora.budget_parameters)


DO = {
    "memory_decoder.init": "to move it to the base's vocabulary, run again with "
    "memory_decoder.transfer=copied.",
    "datastore.model": "its keys would stand for other tokens: give a model with the base's.",
}
