"""kNN-LM (Khandelwal et al. 2020): search the datastore at inference, mix with the base.

Shape legend: Q queries, K neighbors.
"""

import numpy as np
from numpy.typing import NDArray

from memdec.corpus.config import HELD_OUT
from memdec.datastore.neighbors import nearest
from memdec.methods.contract import (
    AdaptedLM,
    Candidate,
    Method,
    MethodInputs,
    Scores,
    split_scores,
)

QUERIES_AT_ONCE = 4096


class KnnLm(Method):
    """p = alpha * p_knn + (1 - alpha) * p_lm, p_knn from a live search over all vocabulary."""

    name = "knn_lm"
    label = "kNN-LM"
    stages = ("tokens", "base_scores", "datastore", "query_neighbors")

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Score every temperature from the same cached neighbors."""
        temperatures = inputs.config.temperatures
        return AdaptedLM(
            lm=split_scores(inputs.artifacts["base_scores"]),
            candidates=tuple(
                Candidate(_knn_scores(inputs, temperature), {"temperature": temperature})
                for temperature in temperatures
            ),
            alpha=inputs.config.alpha,
        )


def _knn_scores(inputs: MethodInputs, temperature: float) -> Scores:
    artifacts = inputs.artifacts
    values_N = np.asarray(artifacts["datastore"].array("values"))
    return {
        split: gold_knn_log_probs(
            *nearest(artifacts["query_neighbors"], inputs.k, f"{split}_"),
            values_N,
            np.asarray(artifacts["tokens"].array(f"{split}_tokens")[1:]),
            temperature,
        )
        for split in HELD_OUT
    }


def gold_knn_log_probs(
    rows_QK: NDArray[np.int32],
    sq_distances_QK: NDArray[np.float32],
    values_N: NDArray[np.uint32],
    gold_Q: NDArray[np.uint32],
    temperature: float,
) -> NDArray[np.float32]:
    """Return log p_knn(gold) of each query; -inf where no neighbor has the gold token.

    p_knn(y) sums softmax(-sq_distances / temperature) over the neighbors whose value is y.
    """
    found = np.empty(len(gold_Q), np.float32)
    for start in range(0, len(gold_Q), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        rows, logits = rows_QK[part], -sq_distances_QK[part] / np.float32(temperature)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        gold = (values_N[rows] == gold_Q[part, None]) & (rows >= 0)
        with np.errstate(divide="ignore"):
            found[part] = np.log((weights * gold).sum(1) / weights.sum(1))
    return found
