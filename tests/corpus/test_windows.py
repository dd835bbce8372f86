"""Windows against a slow version written from the contract, one position at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdec.corpus.windows import (
    Window,
    check_fills_a_window,
    documents_of_positions,
    make_windows,
)
from memdec.errors import DataError


def slow_windows(num_tokens, block_size, stride):
    """Give each position its window by counting, then gather the positions of a window."""
    members = {}
    for position in range(1, num_tokens):
        beyond_first = position - block_size  # 1 for the first position after the first window
        number = 0 if beyond_first <= 0 else (beyond_first - 1) // stride + 1
        members.setdefault(number, []).append(position)
    windows = []
    for number in sorted(members):
        last = members[number][-1]
        # The inputs of the last target are the block_size tokens before it, or all there are.
        windows.append((max(0, last - block_size), members[number][0], last + 1))
    return windows


geometry = st.integers(1, 12).flatmap(
    lambda block: st.tuples(st.integers(0, 60), st.just(block), st.integers(1, block))
)


@given(geometry)
def test_windows_agree_with_the_slow_version(sizes):
    fast = [(w.start, w.first_scored, w.end) for w in make_windows(*sizes)]
    assert fast == slow_windows(*sizes)


@given(geometry)
def test_each_position_but_the_first_is_scored_once_and_no_input_is_too_long(sizes):
    num_tokens, block_size, _ = sizes
    windows = make_windows(*sizes)
    scored = [position for w in windows for position in range(w.first_scored, w.end)]
    assert scored == list(range(1, num_tokens))
    for window in windows:
        assert 1 <= (window.end - 1) - window.start <= block_size
        assert window.start < window.first_scored


def test_a_hand_worked_stream_of_ten_tokens():
    assert make_windows(10, block_size=4, stride=3) == [
        Window(0, 1, 5),
        Window(3, 5, 8),
        Window(5, 8, 10),  # the short last window still has its full context
    ]


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_a_stream_without_a_target_has_no_window(num_tokens):
    assert make_windows(num_tokens, 4, 2) == []


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_that_leaves_tokens_out_is_our_own_bug(stride):
    with pytest.raises(AssertionError):
        make_windows(10, block_size=4, stride=stride)


def test_a_split_must_fill_one_window():
    check_fills_a_window("test", num_tokens=513, block_size=512)
    with pytest.raises(DataError, match=r"test split has 512 tokens but one window needs 513"):
        check_fills_a_window("test", num_tokens=512, block_size=512)


def test_positions_find_their_documents():
    starts = np.array([0, 3, 4, 9])
    documents = documents_of_positions(starts, np.array([[0, 1, 2, 3], [4, 8, 9, 100]]))
    assert documents.tolist() == [[0, 0, 0, 1], [2, 2, 3, 3]]
