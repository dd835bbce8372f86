"""Fidelity of a distribution to sparse targets, against dense arithmetic in float64.

Shape legend: N tokens, O output tokens (NUM_OUTPUTS).
"""

import numpy as np
import pytest
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.evaluation.fidelity import compare_with_targets, fidelity_metrics

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
