"""Builders of the stages that score with what was trained: memories, DAPT, LoRA, fidelity."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.config import HELD_OUT
from memdec.pipeline.builders import load_tokenizer_of, score, stream_of, windows_of

if TYPE_CHECKING:
    from memdec.pipeline.job import Job


def memory_scores(job: "Job", out: ArtifactWriter) -> None:
    """Score validation and test with the memory."""
    _score_export(job, out, job.plugged_memory or job.artifact("memory").path / "export")


def mixture_scores(job: "Job", out: ArtifactWriter) -> None:
    """Score validation and test with each memory of a mixture: SPLIT_gold_log_probs f32 [M, N]."""
    made: dict[str, list[np.ndarray]] = {split: [] for split in HELD_OUT}
    for path in job.mixed_memories:
        one = ArtifactWriter(out.scratch)
        one.clear()
        _score_export(job, one, path)
        for split in HELD_OUT:
            made[split].append(np.load(one.path / f"{split}_gold_log_probs.npy"))
    for split in HELD_OUT:
        out.write_array(f"{split}_gold_log_probs", np.stack(made[split]))


def fidelity(job: "Job", out: ArtifactWriter) -> None:
    """Compare the memory with the kNN distributions of the test text."""
    from memdec.datastore.neighbors import nearest
    from memdec.evaluation.fidelity import write_fidelity
    from memdec.models.loading import pick_device
    from memdec.models.memory import load_memory

    config, knn = job.experiment.model, job.experiment.knn
    path = job.plugged_memory or job.artifact("memory").path / "export"
    write_fidelity(
        out,
        load_memory(path, config.dtype, pick_device(config.device)),
        stream_of(job, "test"),
        windows_of(job, "test"),
        load_tokenizer_of(job)[1],
        *nearest(job.artifact("query_neighbors"), knn.k, "test_"),
        np.asarray(job.artifact("datastore").array("values")),
        knn.temperature,
        config.batch_size,
    )


def fine_tuned_scores(job: "Job", out: ArtifactWriter, stage: str) -> None:
    """Score validation and test with the base that a stage fine-tuned."""
    _score_export(job, out, job.artifact(stage).path / "export")


def lora_scores(job: "Job", out: ArtifactWriter) -> None:
    """Score validation and test with the base and its adapter."""
    from memdec.models.loading import pick_device
    from memdec.models.lora import load_lora
    from memdec.models.memory import MemoryDecoder

    config = job.experiment.model
    adapter = job.artifact("lora").path / "export"
    lm = load_lora(adapter, job.model_path, config.dtype, pick_device(config.device))
    score(job, out, MemoryDecoder(lm, None))


def _score_export(job: "Job", out: ArtifactWriter, path: Path) -> None:
    from memdec.models.loading import pick_device
    from memdec.models.memory import load_memory

    config = job.experiment.model
    score(job, out, load_memory(path, config.dtype, pick_device(config.device)))
