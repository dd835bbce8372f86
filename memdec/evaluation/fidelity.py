"""How faithful a memory is to the kNN distribution that it imitates, on text it never saw.

Shape legend: N scored tokens, D width, O output tokens, M stored target entries.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memdec.artifacts.artifact import Artifact, ArtifactWriter
from memdec.corpus.windows import Window
from memdec.datastore.targets import knn_distribution
from memdec.errors import DataError
from memdec.models.batches import window_batches
from memdec.models.memory import MemoryDecoder
from memdec.models.scoring import CHUNK_LOGITS, output_columns
from memdec.models.tokenizer import TokenRules
from memdec.progress import track

__all__ = ["ENTROPY_BELOW", "compare_with_targets", "fidelity_metrics", "write_fidelity"]

ENTROPY_BELOW = (0.5, 2.0, np.inf)
"""Upper bounds of the groups by the target's entropy, in nats: sure, split and open."""


@torch.no_grad()
def write_fidelity(
    out: ArtifactWriter,
    memory: MemoryDecoder,
    tokens: NDArray[np.uint32],
    windows: list[Window],
    rules: TokenRules,
    rows_NK: NDArray[np.int32],
    sq_distances_NK: NDArray[np.float32],
    values: NDArray[np.uint32],
    temperature: float,
    batch_size: int,
) -> None:
    """Write same_top, kl, total_variation and target_entropy, f32 [N], of the test text.

    The targets are p_knn alone of each test position, from its cached neighbors.

    Raises:
        DataError: The memory cannot give a token of a target.
    """
    names = ("same_top", "kl", "total_variation", "target_entropy")
    found = {name: out.array(name, (len(tokens) - 1,), np.float32) for name in names}
    head_OD = memory.head(rules.vocab_size)
    with track(len(tokens) - 1, "tokens", "comparing with the kNN targets") as advance:
        for batch in window_batches(tokens, windows, batch_size, rules):
            hidden_ND = memory(batch.inputs_BT.to(head_OD.device))
            hidden_ND = hidden_ND[batch.scored_BT.to(head_OD.device)]
            size = max(1, CHUNK_LOGITS // len(head_OD))
            for first in range(0, len(hidden_ND), size):
                part = batch.rows_N[first : first + size]
                log_probs_NO = (hidden_ND[first : first + size] @ head_OD.T).float().log_softmax(1)
                rows = np.asarray(rows_NK[part])
                starts, ids, probs = knn_distribution(
                    np.asarray(sq_distances_NK[part]),
                    np.where(rows < 0, -1, values[rows].astype(np.int64)),
                    temperature,
                )
                columns = _columns(ids, memory)
                measures = compare_with_targets(log_probs_NO.cpu(), starts, columns, probs)
                for name, values_N in zip(names, measures, strict=True):
                    found[name][part] = values_N.numpy()
                advance(len(part))


def _columns(ids: Tensor, memory: MemoryDecoder) -> Tensor:
    ids_O = None if memory.output_ids_O is None else memory.output_ids_O.cpu()
    columns, offered = output_columns(ids, ids_O)
    if not offered.all():
        raise DataError(
            f"the memory cannot give {int((~offered).sum()):,} of the {len(ids):,} tokens in the "
            "kNN distributions: it was trained on another text with memory_decoder.vocabulary="
            "corpus; set evaluation.fidelity=false."
        )
    return columns


def compare_with_targets(
    log_probs_NO: Tensor, starts: Tensor, columns: Tensor, probs: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compare log-probs with sparse distributions p (CSR, largest first); return f32 [N] each.

    Whether the top tokens agree (1 or 0); KL(p || q) in nats; the total variation, half the sum
    of |p - q|; and the entropy of p in nats.
    """
    num_rows = len(starts) - 1
    row = torch.repeat_interleave(torch.arange(num_rows), starts.diff())
    log_q = log_probs_NO[row, columns]

    def sums(terms: Tensor) -> Tensor:
        return torch.zeros(num_rows, dtype=torch.float64).index_add_(0, row, terms.double())

    same_top = log_probs_NO.argmax(1) == columns[starts[:-1]]
    entropy = -sums(torch.xlogy(probs, probs))
    kl = -entropy - sums(torch.where(probs > 0, probs * log_q, 0.0))
    outside = 1 - sums(log_q.exp())
    total_variation = (sums((probs - log_q.exp()).abs()) + outside) / 2
    measures = (same_top, kl, total_variation, entropy)
    return tuple(measure.float() for measure in measures)  # type: ignore[return-value]


def fidelity_metrics(fidelity: Artifact) -> dict[str, float]:
    """Return the means over test tokens, and over groups by the target's entropy."""
    names = ("same_top", "kl", "total_variation")
    arrays = {name: np.asarray(fidelity.array(name), np.float64) for name in names}
    entropy_N = np.asarray(fidelity.array("target_entropy"))
    metrics: dict[str, Any] = {f"fidelity/{name}": arrays[name].mean() for name in names}
    low = -np.inf
    for high in ENTROPY_BELOW:
        members_N = (entropy_N >= low) & (entropy_N < high)
        low = high
        group = "entropy_above" if np.isinf(high) else f"entropy_below_{high:g}"
        if members_N.any():
            metrics[f"fidelity/share/{group}"] = members_N.mean()
            metrics |= {f"fidelity/{n}/{group}": arrays[n][members_N].mean() for n in names}
    return {name: float(value) for name, value in metrics.items()}
