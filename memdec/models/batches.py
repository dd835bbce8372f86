"""Windows of a token stream as batches of model inputs.

Shape legend: B windows, T input positions, N scored positions of the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memdec.corpus.windows import Window
from memdec.models.tokenizer import TokenRules


@dataclass(frozen=True)
class WindowBatch:
    """Inputs of some windows, and which of their positions are scored."""

    inputs_BT: Tensor
    """Token ids i64; starts with BOS where the model wants one; padded on the right."""
    scored_BT: Tensor
    """Bool: the model's output at this position predicts a scored token."""
    gold_N: Tensor
    """Scored tokens i64, in the order of scored_BT read row by row."""
    rows_N: NDArray[np.int64]
    """Score rows (token position minus one) of gold_N."""


def make_batch(
    tokens: NDArray[np.uint32], windows: Sequence[Window], rules: TokenRules
) -> WindowBatch:
    """Put windows side by side; causal attention never looks at the padding on the right."""
    prefix = int(rules.bos_on_each_window)
    width = prefix + max(w.end - 1 - w.start for w in windows)
    inputs_BT = np.full((len(windows), width), rules.separator_id, np.int64)
    scored_BT = np.zeros((len(windows), width), bool)
    rows = []
    for inputs_T, scored_T, window in zip(inputs_BT, scored_BT, windows, strict=True):
        length = window.end - 1 - window.start
        inputs_T[:prefix] = rules.bos_id if prefix else 0
        inputs_T[prefix : prefix + length] = tokens[window.start : window.end - 1]
        first = prefix + window.first_scored - 1 - window.start
        scored_T[first : prefix + length] = True
        rows.append(np.arange(window.first_scored - 1, window.end - 1))
    rows_N = np.concatenate(rows)
    return WindowBatch(
        inputs_BT=torch.from_numpy(inputs_BT),
        scored_BT=torch.from_numpy(scored_BT),
        gold_N=torch.from_numpy(np.asarray(tokens[rows_N + 1], np.int64)),
        rows_N=rows_N,
    )


def window_batches(
    tokens: NDArray[np.uint32], windows: Sequence[Window], batch_size: int, rules: TokenRules
) -> Iterator[WindowBatch]:
    """Yield the windows in order, `batch_size` at a time."""
    for start in range(0, len(windows), batch_size):
        yield make_batch(tokens, windows[start : start + batch_size], rules)
