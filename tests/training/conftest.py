"""A small training problem: random tokens, random sparse targets, a tiny Llama."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BLOCK, STRIDE = 9, 5
NUM_TRAIN, NUM_VALIDATION = 104, 31  # 20 windows of train, the first scores more than the others


@dataclass(frozen=True)
class Problem:
    """Everything that one fit needs; `data` and `memory` make new ones."""

    model: Path
    tokens: Any
    validation: Any
    targets: Any
    output_ids: Any

    def memory(self) -> Any:
        from memdec.models.memory import MemoryDecoder, initial_lm

        return MemoryDecoder(initial_lm(self.model, False, 0), self.output_ids)

    def data(self, options: Any, with_targets: bool = True) -> Any:
        from memdec.corpus.windows import make_windows
        from memdec.training.data import MemoryData

        return MemoryData(
            train_tokens=self.tokens,
            train_windows=make_windows(NUM_TRAIN, BLOCK, STRIDE),
            validation_tokens=self.validation,
            validation_windows=make_windows(NUM_VALIDATION, BLOCK, STRIDE),
            targets=self.targets if with_targets else None,
            rules=self.rules(),
            config=options,
            seed=13,
        )

    def rules(self) -> Any:
        from memdec.models.loading import load_tokenizer
        from memdec.models.tokenizer import read_token_rules

        return read_token_rules(load_tokenizer(self.model))


@pytest.fixture(scope="session")
def problem(tiny_model) -> Problem:
    import torch

    from memdec.datastore.targets import knn_distribution
    from memdec.training.data import SparseTargets

    draw = np.random.default_rng(2)
    tokens = draw.integers(5, 60, NUM_TRAIN).astype(np.uint32)
    starts, ids, probs = knn_distribution(
        draw.gamma(2.0, 2.0, (NUM_TRAIN - 1, 6)).astype(np.float32),
        tokens[draw.integers(0, NUM_TRAIN, (NUM_TRAIN - 1, 6))],
        3.0,
    )
    return Problem(
        model=tiny_model("llama"),
        tokens=tokens,
        validation=draw.integers(5, 60, NUM_VALIDATION).astype(np.uint32),
        targets=SparseTargets(starts.numpy(), ids.numpy(), probs.numpy().astype(np.float16)),
        output_ids=torch.from_numpy(np.unique(tokens).astype(np.int64)),
    )
