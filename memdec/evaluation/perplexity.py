"""Perplexity, bits per byte, and their intervals over documents.

Shape legend: N scored tokens, D documents, S resamples.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memdec.corpus.windows import documents_of_positions
from memdec.errors import DataError

BITS = 1 / math.log(2)
LEVEL = (2.5, 97.5)
LEAST_DOCUMENTS = 10
"""For an interval over documents."""


def perplexity_metrics(gold_log_probs_N: NDArray[Any], num_bytes: int) -> dict[str, float]:
    """Return perplexity, nll (nats per token), num_tokens and bits_per_byte.

    Perplexity is exp(total nll / tokens). Bits are divided by the bytes of the text of all tokens
    of the split, the first (never predicted) included.

    Raises:
        DataError: There is no token, or a gold token has probability 0 or none at all (NaN).
    """
    if len(gold_log_probs_N) == 0:
        raise DataError("there is no token to score.")
    num_wrong = int(np.isnan(gold_log_probs_N).sum())
    if num_wrong:
        raise DataError(
            f"{num_wrong:,} of {len(gold_log_probs_N):,} scored tokens have no probability (NaN): "
            "the model's numbers overflow; check its weights, or set model.dtype=float32."
        )
    num_lost = int(np.isneginf(gold_log_probs_N).sum())
    if num_lost:
        raise DataError(
            f"{num_lost:,} of {len(gold_log_probs_N):,} scored tokens have probability 0, so there "
            "is no perplexity; set alpha below 1, or memory_decoder.vocabulary=full."
        )
    total = -float(gold_log_probs_N.sum(dtype=np.float64))
    nll = total / len(gold_log_probs_N)
    return {
        "perplexity": math.exp(nll),
        "nll": nll,
        "num_tokens": len(gold_log_probs_N),
        "bits_per_byte": total * BITS / num_bytes,
    }


def document_totals(
    gold_log_probs_N: NDArray[Any], document_starts: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return nll total and token count of each document; row r is stream position r + 1."""
    positions = np.arange(1, len(gold_log_probs_N) + 1)
    document = documents_of_positions(document_starts, positions)
    totals_D = np.bincount(document, -gold_log_probs_N, minlength=len(document_starts))
    counts_D = np.bincount(document, minlength=len(document_starts))
    return totals_D.astype(np.float64), counts_D.astype(np.int64)


def paired_bootstrap(
    method_totals_D: NDArray[np.float64],
    others: Mapping[str, NDArray[np.float64]],
    tokens_D: NDArray[np.int64],
    num_samples: int,
    seed: int,
) -> dict[str, list[float]]:
    """Return 95% intervals of perplexity and of its ratio to others, resampling documents.

    The same documents are drawn for all, so that their common difficulty cancels in a ratio. Too
    few documents (`LEAST_DOCUMENTS`) say nothing of the next one, and give no interval.
    """
    if len(tokens_D) < LEAST_DOCUMENTS:
        return {}
    generator = np.random.default_rng(seed)
    num_documents = len(tokens_D)
    picks_SD = generator.multinomial(
        num_documents, np.full(num_documents, 1 / num_documents), size=num_samples
    )
    tokens_S = picks_SD @ tokens_D
    nll_S = picks_SD @ method_totals_D / tokens_S
    drawn = {"test/perplexity": nll_S} | {
        f"test/perplexity_ratio_to_{name}": nll_S - picks_SD @ totals_D / tokens_S
        for name, totals_D in others.items()
    }
    return {key: np.percentile(np.exp(nll), LEVEL).tolist() for key, nll in drawn.items()}
