"""Several memories at once: p = w_0 p_lm + w_1 p_1 + ... + w_M p_M, the weights a distribution."""

import numpy as np

from memdec.methods.contract import SPLITS, AdaptedLM, Candidate, Method, MethodInputs, split_scores


class MemoryMixture(Method):
    """Trained memories plugged in together; their weights are fitted on validation."""

    name = "memory_mixture"
    label = "Mixture of memories"
    stages = ("base_scores", "mixture_scores")

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Offer all memories."""
        scores = inputs.artifacts["mixture_scores"]
        log_probs = {split: scores.array(f"{split}_gold_log_probs") for split in SPLITS}
        return AdaptedLM(
            lm=split_scores(inputs.artifacts["base_scores"]),
            candidates=tuple(
                Candidate({split: np.asarray(log_probs[split][m]) for split in SPLITS}, name=name)
                for m, name in enumerate(inputs.config.memories)
            ),
            mixes_all=True,
        )
