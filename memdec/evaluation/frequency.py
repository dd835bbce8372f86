"""Where a method gains: on tokens that the training text has never, rarely or often.

Shape legend: N scored tokens.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SEEN_AT_LEAST", "frequency_metrics"]

SEEN_AT_LEAST = (0, 1, 10, 100, 1000)
"""Lower bounds of the groups, in occurrences in the training text."""


def frequency_metrics(
    method_N: NDArray[np.float32],
    base_N: NDArray[np.float32],
    gold_N: NDArray[np.uint32],
    train_tokens: NDArray[np.uint32],
) -> dict[str, float]:
    """Return share, base NLL and gain of each group of gold tokens, as `test/gain/seen_10`.

    A gain is log p_method - log p_base, mean over the group, in nats per token. A group without
    tokens has no metrics. Shares times gains add up to the whole gain.
    """
    counts_V = np.bincount(train_tokens, minlength=int(gold_N.max()) + 1)
    group_N = np.searchsorted(SEEN_AT_LEAST, counts_V[gold_N], side="right") - 1
    gain_N = method_N.astype(np.float64) - base_N
    metrics: dict[str, Any] = {}
    for group, least in enumerate(SEEN_AT_LEAST):
        members_N = group_N == group
        if members_N.any():
            metrics[f"test/share/seen_{least}"] = float(members_N.mean())
            metrics[f"test/base_nll/seen_{least}"] = -float(base_N[members_N].mean(dtype=float))
            metrics[f"test/gain/seen_{least}"] = float(gain_N[members_N].mean())
    return metrics
