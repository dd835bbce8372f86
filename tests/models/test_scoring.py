"""Shape legend: N tokens, D width, O output tokens, V vocabulary, K top tokens."""

import numpy as np
import pytest
import torch

from memdec.models import scoring
from memdec.models.scoring import output_columns, score_hidden

NUM_TOKENS, WIDTH, VOCABULARY = 7, 5, 11
OUTPUTS = [0, 2, 3, 7, 10]


@pytest.fixture
def tensors():
    draw = torch.Generator().manual_seed(6)
    hidden_ND = torch.randn(NUM_TOKENS, WIDTH, generator=draw)
    head_VD = torch.randn(VOCABULARY, WIDTH, generator=draw)
    return hidden_ND, head_VD, torch.tensor([0, 10, 5, 3, 3, 9, 7])


def slow_log_probs(hidden_ND, head_VD, outputs):
    """Return a full softmax in float64 over the outputs; -inf elsewhere."""
    logits = hidden_ND.double().numpy() @ head_VD.double().numpy().T
    found = np.full(logits.shape, -np.inf)
    for n in range(len(logits)):
        total = np.log(sum(np.exp(logits[n, v]) for v in outputs))
        for v in outputs:
            found[n, v] = logits[n, v] - total
    return found


@pytest.mark.parametrize("chunk_logits", [1, 3 * VOCABULARY, 1 << 20])
@pytest.mark.parametrize("outputs", [None, OUTPUTS])
def test_scores_equal_a_full_softmax(tensors, outputs, chunk_logits, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", chunk_logits)
    hidden_ND, head_VD, gold_N = tensors
    ids = None if outputs is None else torch.tensor(outputs)
    head_OD = head_VD if ids is None else head_VD[ids]
    scores = score_hidden(hidden_ND, head_OD, gold_N, ids, num_top=3)
    wanted_NV = slow_log_probs(hidden_ND, head_VD, outputs or range(VOCABULARY))
    gold = wanted_NV[np.arange(NUM_TOKENS), gold_N]
    assert np.isinf(gold).sum() == (0 if outputs is None else 2)
    np.testing.assert_allclose(scores.gold_log_probs_N, gold, atol=1e-5)  # float32
    top_NK = np.argsort(-wanted_NV, axis=1)[:, :3]
    assert scores.top_ids_NK.tolist() == top_NK.tolist()
    wanted_top = np.take_along_axis(wanted_NV, top_NK, 1)
    np.testing.assert_allclose(scores.top_log_probs_NK, wanted_top, atol=1e-5)
    probs_NV = np.exp(wanted_NV)
    entropy_N = -np.where(probs_NV > 0, probs_NV * np.nan_to_num(wanted_NV), 0).sum(1)
    np.testing.assert_allclose(scores.entropies_N, entropy_N, atol=1e-5)


def test_no_more_top_tokens_than_there_are_outputs(tensors):
    hidden_ND, head_VD, gold_N = tensors
    scores = score_hidden(hidden_ND, head_VD[:2], gold_N, torch.tensor([4, 8]), num_top=5)
    assert scores.top_ids_NK.shape == (NUM_TOKENS, 2)
    torch.testing.assert_close(scores.top_log_probs_NK.exp().sum(1), torch.ones(NUM_TOKENS))


def test_half_precision_models_are_summed_in_float32(tensors):
    hidden_ND, head_VD, gold_N = tensors
    scores = score_hidden(hidden_ND.bfloat16(), head_VD.bfloat16(), gold_N, None, num_top=1)
    assert scores.gold_log_probs_N.dtype == torch.float32


def test_columns_of_output_tokens():
    ids = torch.tensor(OUTPUTS)
    columns, offered = output_columns(torch.tensor([[10, 1], [0, 11], [7, 2]]), ids)
    assert columns.tolist() == [[4, 0], [0, 0], [3, 1]]
    assert offered.tolist() == [[True, False], [True, False], [True, True]]
    columns, offered = output_columns(torch.tensor([3]), None)
    assert (columns.tolist(), offered.tolist()) == ([3], [True])
