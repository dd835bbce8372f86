"""Whether the memories that an experiment names split text into tokens as its base does."""

from collections.abc import Sequence

from memdec.errors import ConfigError
from memdec.pipeline.builders import load_tokenizer_of
from memdec.pipeline.job import Job


def check_vocabularies(job: Job, stages: Sequence[str]) -> None:
    """Refuse a memory of another tokenizer before anything is computed for it.

    Args:
        job: The run.
        stages: Those that it requires.

    Raises:
        ConfigError: A memory that is plugged in has another tokenizer than the base, or one that
            is trained on from has and no transfer was asked for.
    """
    plugged = []
    if "memory_scores" in stages and job.plugged_memory is not None:
        plugged.append(job.plugged_memory)
    if "mixture_scores" in stages:
        plugged += job.mixed_memories
    starts = "memory" in stages or "lora" in stages  # by default, LoRA is as large as the memory
    settings = job.experiment.memory_decoder
    init = job.init_model.path if starts and job.init_model is not None else None
    if settings.transfer != "refuse":
        init = None
    if not plugged and init is None:
        return
    from memdec.models.loading import load_tokenizer
    from memdec.models.memory import read_memory_facts
    from memdec.models.tokenizer import check_same_tokenizer, tokenizer_hash

    base, own = job.experiment.model.source, load_tokenizer_of(job)[1].hash
    for memory in plugged:
        check_same_tokenizer(base, own, str(memory), read_memory_facts(memory)["tokenizer_hash"])
    if init is not None and tokenizer_hash(load_tokenizer(init)) != own:
        raise ConfigError(
            f"memory_decoder.init {settings.init} has another tokenizer than the base {base}; to "
            "move it to the base's vocabulary, run again with memory_decoder.transfer=copied."
        )
