"""Gold log-probabilities and top tokens of a head over a stream of hidden states.

Shape legend: N tokens, D hidden width, O output tokens of the head, K top tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 24  # logits held at once: 64 MB in float32


@dataclass(frozen=True)
class TokenScores:
    """What is kept of each scored token."""

    gold_log_probs_N: Tensor
    """Natural log, f32; -inf where the head does not offer the gold token."""
    top_ids_NK: Tensor
    """Most likely tokens, best first."""
    top_log_probs_NK: Tensor
    entropies_N: Tensor
    """Of the whole distribution, in nats, f32."""


@torch.no_grad()
def score_hidden(
    hidden_ND: Tensor, head_OD: Tensor, gold_N: Tensor, output_ids_O: Tensor | None, num_top: int
) -> TokenScores:
    """Score gold tokens under softmax(hidden @ head.T), in chunks, in float32.

    Args:
        hidden_ND: Last hidden states.
        head_OD: Output head, one row for each output token.
        gold_N: Gold token ids.
        output_ids_O: Ascending token ids of the head's rows; None when row = token id.
        num_top: Top tokens to keep.
    """
    chunk = max(1, CHUNK_LOGITS // head_OD.shape[0])
    parts = [
        _score_chunk(hidden, head_OD, gold, output_ids_O, num_top)
        for hidden, gold in zip(hidden_ND.split(chunk), gold_N.split(chunk), strict=True)
    ]
    return TokenScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _score_chunk(
    hidden_ND: Tensor, head_OD: Tensor, gold_N: Tensor, output_ids_O: Tensor | None, num_top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits_NO = (hidden_ND @ head_OD.T).float()
    total_N = logits_NO.logsumexp(1)
    columns_N, offered_N = output_columns(gold_N, output_ids_O)
    gold_logits_N = logits_NO.gather(1, columns_N[:, None])[:, 0]
    gold_log_probs_N = (gold_logits_N - total_N).masked_fill(~offered_N, -torch.inf)
    top = logits_NO.topk(min(num_top, logits_NO.shape[1]), dim=1)
    ids_NK = top.indices if output_ids_O is None else output_ids_O[top.indices]
    top_log_probs_NK = top.values - total_N[:, None]
    mean_logit_N = (logits_NO.softmax(1) * logits_NO).sum(1)
    # Rounding can leave a sure distribution a hair below 0.
    entropies_N = (total_N - mean_logit_N).clamp_min(0)
    return gold_log_probs_N, ids_NK, top_log_probs_NK, entropies_N


def output_columns(token_ids: Tensor, output_ids_O: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find each token's row in the head: (row, is it there); absent tokens get row 0."""
    if output_ids_O is None:
        return token_ids, torch.ones_like(token_ids, dtype=torch.bool)
    columns = torch.searchsorted(output_ids_O, token_ids).clamp_max(len(output_ids_O) - 1)
    offered = output_ids_O[columns] == token_ids
    return columns.masked_fill(~offered, 0), offered
