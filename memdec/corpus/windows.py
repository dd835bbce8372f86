"""Windows over a token stream in which every position but the first is predicted exactly once.

They depend on the stream's length and the configuration only, never on workers or batch size.
"""

from dataclasses import dataclass

import numpy as np

from memdec.errors import DataError


@dataclass(frozen=True, slots=True)
class Window:
    """Inputs are tokens[start : end - 1]; the targets scored are tokens[first_scored : end]."""

    start: int
    first_scored: int
    end: int


def make_windows(num_tokens: int, block_size: int, stride: int) -> list[Window]:
    """Cover positions 1 .. num_tokens - 1, each scored once, with at most block_size inputs.

    The first window scores up to block_size targets; each later one ends `stride` positions
    further and has as much context as block_size allows. Position 0 has no context, so it is never
    scored. A backbone's BOS goes in front of the inputs, on top of block_size.
    """
    assert 1 <= stride <= block_size, (stride, block_size)
    windows: list[Window] = []
    first_scored = 1
    while first_scored < num_tokens:
        end = min(first_scored + (stride if windows else block_size), num_tokens)
        windows.append(Window(max(0, end - 1 - block_size), first_scored, end))
        first_scored = end
    return windows


def check_fills_a_window(split: str, num_tokens: int, block_size: int) -> None:
    """Raise DataError when a split is too short for one whole window and its last target."""
    if num_tokens <= block_size:
        raise DataError(
            f"The {split} split has {num_tokens:,} tokens but one window needs {block_size + 1:,}; "
            f"add text or lower corpus.block_size."
        )


def documents_of_positions(document_starts: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return, per stream position, the index of its document (a separator ends its document).

    document_starts is i64 [num_documents], ascending from 0; the result has the shape of positions.
    """
    return np.searchsorted(document_starts, positions, side="right") - 1
