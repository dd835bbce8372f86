"""The Memory Decoder with an alpha of its own for each token (beyond the paper)."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memdec.artifacts.artifact import Artifact
from memdec.corpus.config import HELD_OUT
from memdec.methods.contract import AdaptedLM, MethodInputs
from memdec.methods.memory_decoder import MemoryDecoderMethod

FEATURES = (
    "entropy of the base",
    "entropy of the memory",
    "log of the base's largest probability",
    "log of the memory's largest probability",
    "same top token",
    "same top token x log of the memory's largest probability",
)


class AdaptiveAlpha(MemoryDecoderMethod):
    """p = alpha_n p_memory + (1 - alpha_n) p_lm, alpha_n from a gate fitted on validation."""

    name = "adaptive_alpha"
    label = "Memory Decoder, adaptive alpha"
    section = "memory_decoder"

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Offer the memory, and what the gate may look at."""
        base, memory = inputs.artifacts["base_scores"], inputs.artifacts["memory_scores"]
        return replace(
            super().adapt(inputs),
            top_tokens=None,
            gate_features={split: gate_features(base, memory, split) for split in HELD_OUT},
            gate_feature_names=FEATURES,
        )


def gate_features(base: Artifact, memory: Artifact, split: str) -> NDArray[np.float32]:
    """Return FEATURES of both distributions at each token, f32 [N, F]."""
    entropies = [np.asarray(scores.array(f"{split}_entropies")) for scores in (base, memory)]
    largest = [
        np.asarray(scores.array(f"{split}_top_log_probs")[:, 0], np.float32)
        for scores in (base, memory)
    ]
    tops = [np.asarray(scores.array(f"{split}_top_ids")[:, 0]) for scores in (base, memory)]
    agree = (tops[0] == tops[1]).astype(np.float32)
    return np.stack([*entropies, *largest, agree, agree * largest[1]], axis=1)
