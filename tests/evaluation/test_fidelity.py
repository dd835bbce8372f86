"""Fidelity of a distribution to sparse targets, against dense arithmetic in float64.

Shape legend: N tokens, O output tokens (NUM_OUTPUTS).
"""

import numpy as np
import pytest
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.windows import make_windows
from memdec.errors import DataError
from memdec.evaluation import fidelity
from memdec.evaluation.fidelity import compare_with_targets, fidelity_metrics, write_fidelity
from memdec.models.loading import load_causal_lm, load_tokenizer
from memdec.models.memory import MemoryDecoder
from memdec.models.tokenizer import read_token_rules

N, NUM_OUTPUTS = 5, 9


@pytest.fixture
def dense():
    draw = np.random.default_rng(0)
    p_NO = draw.random((N, NUM_OUTPUTS)) * (draw.random((N, NUM_OUTPUTS)) < 0.5)
    p_NO[:, 3] += 0.1
    q_NO = draw.random((N, NUM_OUTPUTS)) + 0.01
    q_NO[0] = np.where(np.arange(NUM_OUTPUTS) == p_NO[0].argmax(), 3.0, 0.1)  # one that agrees
    return p_NO / p_NO.sum(1, keepdims=True), q_NO / q_NO.sum(1, keepdims=True)


def test_measures_equal_dense_arithmetic(dense):
    p_NO, q_NO = dense
    order = [np.argsort(-row, kind="stable")[: (row > 0).sum()] for row in p_NO]
    starts = torch.tensor([0, *np.cumsum([len(ids) for ids in order])])
    columns = torch.tensor(np.concatenate(order))
    probs = torch.tensor(np.concatenate([row[ids] for row, ids in zip(p_NO, order, strict=True)]))
    found = compare_with_targets(torch.tensor(np.log(q_NO)), starts, columns, probs)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p_NO > 0, p_NO * np.log(p_NO / q_NO), 0)
        entropy = -np.where(p_NO > 0, p_NO * np.log(p_NO), 0).sum(1)
    wanted = (
        p_NO.argmax(1) == q_NO.argmax(1),
        terms.sum(1),
        np.abs(p_NO - q_NO).sum(1) / 2,
        entropy,
    )
    for measure, values in zip(found, wanted, strict=True):
        np.testing.assert_allclose(measure, values, rtol=1e-5, atol=1e-6)
    assert 0 < found[0].sum() < N


def test_groups_by_the_targets_entropy(tmp_path):
    writer = ArtifactWriter(tmp_path / ".part")
    writer.clear()
    arrays = {
        "target_entropy": [0.0, 0.4, 0.5, 3.0],
        "same_top": [1, 1, 0, 0],
        "kl": [0.1, 0.3, 1.0, 2.0],
        "total_variation": [0.1, 0.1, 0.4, 0.8],
    }
    for name, values in arrays.items():
        writer.write_array(name, np.float32(values))
    made = writer.seal(tmp_path / "s" / ("a" * 16), "s", "a" * 16, {})
    found = fidelity_metrics(made)
    assert found["fidelity/kl"] == pytest.approx(0.85)
    assert found["fidelity/same_top"] == 0.5
    assert found["fidelity/kl/entropy_below_0.5"] == pytest.approx(0.2)
    assert found["fidelity/share/entropy_below_2"] == 0.25
    assert found["fidelity/total_variation/entropy_above"] == pytest.approx(0.8)


@pytest.fixture
def case(tiny_model):
    """A tiny model as memory, a stream of tokens, and neighbors of each position, some missing."""
    draw = np.random.default_rng(1)
    lm = load_causal_lm(tiny_model("llama"), "float32", torch.device("cpu"))
    tokens = draw.integers(5, 60, 40).astype(np.uint32)
    values = draw.integers(5, 60, 30).astype(np.uint32)
    rows_NK = np.stack([draw.permutation(30)[:6] for _ in range(39)]).astype(np.int32)
    sq_distances_NK = np.sort(draw.random((39, 6), np.float32) * 9, 1)
    rows_NK[7, 4:], sq_distances_NK[7, 4:] = -1, np.inf
    return lm, tokens, values, rows_NK, sq_distances_NK


def write(case, memory, tiny_model, tmp_path):
    _, tokens, values, rows_NK, sq_distances_NK = case
    out = ArtifactWriter(tmp_path / ".part")
    out.clear()
    rules = read_token_rules(load_tokenizer(tiny_model("llama")))
    windows = make_windows(len(tokens), 16, 10)
    neighbors = rows_NK, sq_distances_NK, values, 3.0
    write_fidelity(out, memory, tokens, windows, rules, *neighbors, batch_size=2)
    return out.seal(tmp_path / "s" / ("a" * 16), "s", "a" * 16, {}), windows


@pytest.mark.parametrize("chunk_logits", [1, 1 << 20])
@pytest.mark.parametrize("restricted", [False, True])
def test_every_position_meets_its_own_target(
    case, tiny_model, tmp_path, chunk_logits, restricted, monkeypatch
):
    monkeypatch.setattr(fidelity, "CHUNK_LOGITS", chunk_logits)
    lm, tokens, values, rows_NK, sq_distances_NK = case
    outputs = torch.arange(5, 60) if restricted else None
    made, windows = write(case, MemoryDecoder(lm, outputs), tiny_model, tmp_path)
    allowed = np.arange(5, 60) if restricted else np.arange(300)  # four more only pad the head
    for window in windows:
        ids = torch.tensor(tokens[window.start : window.end - 1].astype(np.int64))
        with torch.no_grad():
            logits_TV = lm(ids[None]).logits[0].double().numpy()
        for position in range(window.first_scored, window.end):
            row = position - 1
            logits = logits_TV[position - 1 - window.start][allowed]
            q = np.zeros(lm.config.vocab_size)
            q[allowed] = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            p = np.zeros_like(q)
            found = rows_NK[row] >= 0
            weights = np.exp(-sq_distances_NK[row][found] / 3)
            np.add.at(p, values[rows_NK[row][found]], weights / weights.sum())
            seen = p > 0
            kl = (p[seen] * np.log(p[seen] / q[seen])).sum()
            assert made.array("kl")[row] == pytest.approx(kl, rel=1e-4)
            assert made.array("total_variation")[row] == pytest.approx(
                np.abs(p - q).sum() / 2, rel=1e-4
            )


def test_a_memory_of_another_text_is_refused(case, tiny_model, tmp_path):
    memory = MemoryDecoder(case[0], torch.arange(5, 40))
    with pytest.raises(DataError, match=r"cannot give \d+ of the \d+ tokens"):
        write(case, memory, tiny_model, tmp_path)
