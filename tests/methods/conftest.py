"""A tiny experiment for all methods."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memdec.corpus.config import CorpusConfig
from memdec.datastore.config import KnnConfig
from memdec.evaluation.config import EvaluationConfig
from memdec.methods.config import InContextRagConfig, KnnLmConfig
from memdec.models.config import ModelConfig
from memdec.pipeline.experiment import Experiment
from memdec.training.config import TrainerConfig

DOCUMENTS = {"train": (10, 1), "validation": (3, 2), "test": (4, 3)}


@pytest.fixture(scope="session")
def tiny_experiment(tiny_model, sentences, tmp_path_factory) -> Callable[..., Experiment]:
    """(architecture, **changes) -> an experiment with every method."""
    folder = tmp_path_factory.mktemp("text")
    files = {split: str(folder / f"{split}.txt") for split in DOCUMENTS}
    for split, (count, seed) in DOCUMENTS.items():
        parts = [sentences(6, 100 * seed + i) for i in range(count)]
        Path(files[split]).write_text("\n\n".join(parts))

    def make(kind: str, **changes: Any) -> Experiment:
        experiment = Experiment(
            name="tiny",
            scale="smoke",
            methods=["base"],
            logger="none",
            corpus=CorpusConfig(
                source="text",
                document_split="blank_line",
                block_size=32,
                stride=24,
                train_stride=16,
                max_overlap=1.0,
                **files,
            ),
            model=ModelConfig(source=str(tiny_model(kind)), device="cpu"),
            knn=KnnConfig(k=16, k_max=16, temperature=4.0),
            knn_lm=KnnLmConfig(temperatures=[4.0]),
            in_context_rag=InContextRagConfig(passage_tokens=12, query_tokens=8),
            trainer=TrainerConfig(
                learning_rate=0.01, batch_size=6, micro_batch_size=3, accelerator="cpu"
            ),
            evaluation=EvaluationConfig(
                bootstrap_samples=20, curve_points=3, example_tokens=0, fidelity=True
            ),
        )
        return replace(experiment, **changes)

    return make
