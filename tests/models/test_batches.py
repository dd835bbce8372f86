"""Shape legend: B windows, T input positions, N scored positions."""

import numpy as np
import pytest
import torch

from memdec.corpus.windows import Window
from memdec.models.batches import make_batch, window_batches
from memdec.models.tokenizer import TokenRules

TOKENS = np.arange(100, 120, dtype=np.uint32)
WINDOWS = [Window(0, 1, 6), Window(3, 6, 9), Window(6, 9, 11)]


def rules(bos):
    return TokenRules(
        bos_on_each_window=bos, bos_id=2 if bos else -1, separator_id=1, vocab_size=200, hash="h"
    )


def test_a_hand_worked_batch():
    batch = make_batch(TOKENS, WINDOWS, rules(bos=False))
    assert batch.inputs_BT.tolist() == [
        [100, 101, 102, 103, 104],
        [103, 104, 105, 106, 107],
        [106, 107, 108, 109, 1],  # padded on the right
    ]
    assert batch.scored_BT.int().tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]
    assert batch.gold_N.tolist() == [101, 102, 103, 104, 105, 106, 107, 108, 109, 110]
    assert batch.rows_N.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_bos_stands_in_front_and_scores_nothing_new():
    batch = make_batch(TOKENS, WINDOWS[1:], rules(bos=True))
    assert batch.inputs_BT.tolist() == [[2, 103, 104, 105, 106, 107], [2, 106, 107, 108, 109, 1]]
    assert batch.scored_BT.int().tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]]
    assert batch.gold_N.tolist() == [106, 107, 108, 109, 110]


@pytest.mark.parametrize("bos", [False, True])
def test_each_gold_token_follows_the_input_that_predicts_it(bos):
    batch = make_batch(TOKENS, WINDOWS, rules(bos))
    inputs_N = batch.inputs_BT[batch.scored_BT]
    assert (batch.gold_N - inputs_N).tolist() == [1] * 10  # TOKENS count upwards
    assert (batch.rows_N + 101).tolist() == batch.gold_N.tolist()
    assert (batch.inputs_BT.dtype, batch.gold_N.dtype) == (torch.int64, torch.int64)


def test_windows_come_in_order_and_none_is_left_out():
    batches = list(window_batches(TOKENS, WINDOWS, 2, rules(bos=False)))
    assert [len(batch.inputs_BT) for batch in batches] == [2, 1]
    assert np.concatenate([batch.rows_N for batch in batches]).tolist() == list(range(10))
