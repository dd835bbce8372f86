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
    tokens: NDArray[np.uint32],
    windows: Sequence[Window],
    rules: TokenRules,
    passages: Sequence[NDArray[np.uint32]] | None = None,
) -> WindowBatch:
    """Put windows side by side; causal attention never looks at the padding on the right.

    With `passages`, each window's inputs stand behind one of them, and both behind the BOS.
    """
    bos = np.full(int(rules.bos_on_each_window), rules.bos_id)
    fronts = [np.concatenate([bos, p]) for p in passages] if passages else [bos] * len(windows)
    lengths = [len(f) + w.end - 1 - w.start for f, w in zip(fronts, windows, strict=True)]
    inputs_BT = np.full((len(windows), max(lengths)), rules.separator_id, np.int64)
    scored_BT = np.zeros(inputs_BT.shape, bool)
    rows = []
    for i, (front, window, length) in enumerate(zip(fronts, windows, lengths, strict=True)):
        inputs_BT[i, : len(front)] = front
        inputs_BT[i, len(front) : length] = tokens[window.start : window.end - 1]
        scored_BT[i, length - (window.end - window.first_scored) : length] = True
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
