"""Shape legend: Q queries, K neighbors, N datastore rows."""

import numpy as np
import pytest
import torch

from memdec.datastore.config import DatastoreConfig
from memdec.datastore.encoder import encode
from memdec.datastore.targets import knn_distribution
from memdec.methods import knn_lm
from memdec.methods.knn_lm import gold_knn_log_probs
from memdec.models.loading import load_causal_lm
from memdec.pipeline.job import Job

NUM_QUERIES, NUM_NEIGHBORS, NUM_ROWS, VOCABULARY = 19, 6, 23, 7


@pytest.fixture
def found():
    """Neighbors of some queries: rows, squared distances, the store's values, gold tokens."""
    draw = np.random.default_rng(5)
    rows_QK = np.stack([draw.permutation(NUM_ROWS)[:NUM_NEIGHBORS] for _ in range(NUM_QUERIES)])
    sq_distances_QK = np.sort(draw.gamma(3.0, 2.0, rows_QK.shape), axis=1).astype(np.float32)
    values_N = draw.integers(0, VOCABULARY, NUM_ROWS).astype(np.uint32)
    gold_Q = draw.integers(0, VOCABULARY, NUM_QUERIES).astype(np.uint32)
    return rows_QK.astype(np.int32), sq_distances_QK, values_N, gold_Q


def slow_log_probs(rows_QK, sq_distances_QK, values_N, gold_Q, temperature):
    """Equation of kNN-LM, one neighbor at a time, in float64."""
    logs = []
    for rows, distances, gold in zip(rows_QK, sq_distances_QK, gold_Q, strict=True):
        weights = [np.exp(-np.float64(d) / temperature) for d in distances]
        mine = sum(w for w, row in zip(weights, rows, strict=True) if values_N[row] == gold)
        logs.append(np.log(mine / sum(weights)) if mine else -np.inf)
    return np.array(logs)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("queries_at_once", [4, 4096])
def test_gold_probabilities_equal_the_formula(found, temperature, queries_at_once, monkeypatch):
    monkeypatch.setattr(knn_lm, "QUERIES_AT_ONCE", queries_at_once)
    log_probs = gold_knn_log_probs(*found, temperature)
    wanted = slow_log_probs(*found, temperature)
    assert 0 < np.isinf(wanted).sum() < NUM_QUERIES
    np.testing.assert_allclose(log_probs, wanted, atol=1e-5)  # float32 sums
    assert log_probs.dtype == np.float32


def test_they_are_those_of_the_training_targets(found):
    rows_QK, sq_distances_QK, values_N, gold_Q = found
    starts, ids, probs = knn_distribution(sq_distances_QK, values_N[rows_QK], 3.0)
    log_probs = gold_knn_log_probs(*found, 3.0)
    for q, gold in enumerate(gold_Q):
        part = slice(int(starts[q]), int(starts[q + 1]))
        prob = float(probs[part][ids[part] == int(gold)].sum())
        assert np.exp(log_probs[q]) == pytest.approx(prob, abs=1e-6)


def test_far_neighbors_do_not_underflow_together():
    values_N = np.array([3, 4], np.uint32)
    arguments = (np.array([[0, 1]], np.int32), np.float32([[90_000, 90_001]]), values_N)
    log_prob = gold_knn_log_probs(*arguments, np.array([4], np.uint32), 1.0)
    assert log_prob[0] == pytest.approx(-np.log1p(np.e), abs=1e-5)


def test_a_slot_without_neighbor_counts_for_nothing():
    rows_QK = np.array([[1, -1, -1]], np.int32)
    sq_distances_QK = np.float32([[2, np.inf, np.inf]])
    values_N = np.array([3, 4, 5], np.uint32)  # row -1 would be the 5
    for gold, wanted in ((4, 0.0), (5, -np.inf)):
        gold_Q = np.array([gold], np.uint32)
        assert gold_knn_log_probs(rows_QK, sq_distances_QK, values_N, gold_Q, 1.0)[0] == wanted


@pytest.mark.parametrize("model", ["dapt", "gpt2"])
def test_queries_and_fidelity_take_the_keys_of_the_key_model(
    tiny_experiment, tiny_model, tmp_path, model
):
    source = model if model == "dapt" else str(tiny_model(model))
    job = Job(tiny_experiment("llama", datastore=DatastoreConfig(model=source)), tmp_path)
    path = job.artifact("dapt").path / "export" if model == "dapt" else tiny_model(model)
    lm = load_causal_lm(path, "float32", torch.device("cpu"))
    keys_ND = np.asarray(job.artifact("datastore").array("keys"), np.float64)
    found = job.artifact("query_neighbors")
    tokens = job.artifact("tokens").array("test_tokens")
    for position in (1, 20, 31):  # in the first window
        query = encode(
            lm, "last_ffn_input", torch.from_numpy(tokens[:position].astype(np.int64))[None]
        )
        query_D = query[0, -1].half().double().numpy()
        distances_N = ((keys_ND - query_D) ** 2).sum(1)
        np.testing.assert_allclose(
            found.array("test_sq_distances")[position - 1],
            np.sort(distances_N)[:16],
            rtol=1e-3,
            atol=1e-3,
        )
    base = np.asarray(job.artifact("base_scores").array("test_keys"), np.float64)[30]
    assert not np.allclose(base, query_D, atol=1e-2)
    # The fidelity's target at that position is made of these neighbors, not of the base's.
    rows, values_N = found.array("test_rows")[30], job.artifact("datastore").array("values")
    weights = np.exp(-found.array("test_sq_distances")[30].astype(float) / 4.0)
    shares = np.bincount(values_N[rows], weights) / weights.sum()
    entropy = -sum(share * np.log(share) for share in shares if share > 0)
    assert job.artifact("fidelity").array("target_entropy")[30] == pytest.approx(entropy, abs=1e-4)
