"""Several memories at once: p = w_0 p_lm + w_1 p_1 + ... + w_M p_M, the weights a distribution."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import PurePath

import numpy as np

from memdec.corpus.config import HELD_OUT
from memdec.methods.contract import AdaptedLM, Candidate, Method, MethodInputs, split_scores


class MemoryMixture(Method):
    """Trained memories plugged in together; their weights are fitted on validation."""

    name = "memory_mixture"
    label = "Mixture of memories"
    stages = ("base_scores", "mixture_scores")

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Offer all memories."""
        scores = inputs.artifacts["mixture_scores"]
        log_probs = {split: scores.array(f"{split}_gold_log_probs") for split in HELD_OUT}
        return AdaptedLM(
            lm=split_scores(inputs.artifacts["base_scores"]),
            candidates=tuple(
                Candidate({split: np.asarray(log_probs[split][m]) for split in HELD_OUT}, name=name)
                for m, name in enumerate(short_names(inputs.config.memories))
            ),
            mixes_all=True,
        )


def short_names(paths: Sequence[str]) -> list[str]:
    """Return what tells the paths apart: them without the folders that all begin and end with."""
    parts = [PurePath(path).parts for path in paths]
    begin = _num_alike(parts)
    end = _num_alike([p[begin:][::-1] for p in parts])
    names = ["/".join(p[begin : len(p) - end]) for p in parts]
    return names if all(names) else list(paths)


def _num_alike(parts: list[tuple[str, ...]]) -> int:
    """Return how many parts from the first on are the same in all."""
    return sum(1 for _ in takewhile(lambda own: len(set(own)) == 1, zip(*parts, strict=False)))
