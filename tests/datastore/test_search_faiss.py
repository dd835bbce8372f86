"""Approximate search: candidates from FAISS, everything else as exact; and its report."""

import numpy as np
import pytest

from memdec.datastore.search import (
    exact_neighbors,
    find_for_queries,
    find_neighbors,
    search_neighbors,
)
from memdec.datastore.search_config import SearchConfig
from memdec.errors import ConfigError

N, D, K = 600, 8, 5


@pytest.fixture(scope="module")
def keys_ND():
    draw = np.random.default_rng(0)
    keys = draw.normal(size=(12, D))[draw.integers(0, 12, N)] * 2 + draw.normal(size=(N, D))
    keys[17] = keys[300]  # twins
    return keys.astype(np.float16)


@pytest.fixture(scope="module")
def values_N():
    return np.random.default_rng(1).integers(0, 9, N).astype(np.uint32)


def find(keys_ND, values_N, rows=None, **settings):
    rows = rows or range(N)
    shape = (len(rows), K)
    out = np.empty(shape, np.int32), np.empty(shape, np.float32)
    facts = find_neighbors(keys_ND, values_N, K, SearchConfig(**settings), out=out, rows=rows)
    return *out, facts


def test_exact_is_exact(keys_ND, values_N):
    rows, sq_distances, facts = find(keys_ND, values_N)
    wanted = exact_neighbors(keys_ND, K)
    assert rows.tolist() == wanted[0].tolist()
    assert sq_distances.tolist() == wanted[1].tolist()
    assert facts == {"search": "exact", "recall": 1.0}


def test_auto_leaves_exact_above_its_limit():
    config = SearchConfig(exact_max_rows=100)
    assert [config.method_for(n) for n in (100, 101)] == ["exact", "ivf_pq"]
    assert SearchConfig(method="exact", exact_max_rows=100).method_for(101) == "exact"


@pytest.mark.parametrize("method", ["ivf_flat", "ivf_pq"])
def test_all_lists_probed_and_enough_candidates_are_exact(keys_ND, values_N, method):
    rows, sq_distances, facts = find(
        keys_ND, values_N, method=method, num_lists=7, num_probes=7, code_bytes=4, rerank=60
    )
    wanted = exact_neighbors(keys_ND, K)
    assert facts["recall"] == 1.0
    assert facts["sampled_rows"] == 256
    assert max(facts["target_kl"].values()) < 1e-5
    # Distances are sums of other roundings; the order of near ties may differ with them.
    np.testing.assert_allclose(sq_distances, wanted[1], rtol=1e-4, atol=1e-5)
    assert (rows == wanted[0].numpy()).mean() > 0.99
    assert (rows[17, 0], sq_distances[17, 0]) == (300, 0)
    assert not (rows == np.arange(N)[:, None]).any()


@pytest.mark.parametrize("method", ["exact", "ivf_flat", "ivf_pq"])
def test_queries_are_searched_like_rows_with_nothing_left_out(keys_ND, values_N, method):
    queries_QD = np.concatenate([keys_ND[[5, 17]], keys_ND[:40] + np.float16(0.25)])
    out = np.empty((42, K), np.int32), np.empty((42, K), np.float32)
    config = SearchConfig(method=method, num_lists=7, num_probes=7, code_bytes=4, rerank=60)
    found = {"a": out, "b": (out[0][:3].copy(), out[1][:3].copy())}
    queries = {"a": queries_QD, "b": queries_QD[7:10]}
    facts = find_for_queries(queries, keys_ND, values_N, K, config, out=found)
    distances_QN = ((queries_QD[:, None].astype(float) - keys_ND.astype(float)) ** 2).sum(2)
    wanted = np.argsort(distances_QN, axis=1)[:, :K], np.sort(distances_QN, axis=1)[:, :K]
    assert facts["a"]["recall"] == facts["b"]["recall"] == 1.0
    assert (found["b"][0] == out[0][7:10]).all()
    assert out[0][0, 0] == 5
    assert out[0][1, :2].tolist() == [17, 300]
    np.testing.assert_allclose(out[1], wanted[1], rtol=1e-4, atol=1e-5)
    assert (out[0] == wanted[0]).mean() > 0.97


def test_the_report_compares_queries_with_their_own_exact_search(keys_ND, values_N):
    queries_QD = np.random.default_rng(2).normal(size=(90, D)).astype(np.float16)
    out = np.empty((90, K), np.int32), np.empty((90, K), np.float32)
    config = SearchConfig(method="ivf_flat", num_lists=40, num_probes=1, min_recall=0.0)
    queries, found = {"test": queries_QD}, {"test": out}
    facts = find_for_queries(queries, keys_ND, values_N, K, config, out=found)["test"]
    wanted = search_neighbors(queries_QD, keys_ND, K)[0].numpy()
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(wanted, out[0], strict=True)])
    assert facts["recall"] == pytest.approx(recall)
    assert facts["recall"] < 0.95
    assert (out[0][:, 0] >= 0).all()  # rescued


def test_a_shard_is_a_part_of_the_whole(keys_ND, values_N):
    settings = {"method": "ivf_flat", "num_lists": 9, "num_probes": 3, "min_recall": 0.0}
    whole = find(keys_ND, values_N, **settings)
    part = find(keys_ND, values_N, range(111, 402), **settings)
    assert (part[0] == whole[0][111:402]).all()
    assert (part[1] == whole[1][111:402]).all()


def test_low_recall_is_reported_with_the_knob(keys_ND, values_N):
    settings = {"method": "ivf_flat", "num_lists": 60, "num_probes": 1, "sample_rows": 50}
    with pytest.warns(UserWarning, match=r"recall@5 .* raise search\.num_probes \(now 1\)"):
        rows, sq_distances, facts = find(keys_ND, values_N, **settings)
    exact = exact_neighbors(keys_ND, K)[0].numpy()
    true_recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact, rows, strict=True)])
    assert facts["recall"] < 0.95
    assert facts["recall"] == pytest.approx(true_recall, abs=0.15)  # 50 of 600 rows
    assert facts["target_kl"]["1.0"] > 0.01
    empty = rows < 0
    assert empty.any()
    assert not empty[:, 0].any()
    assert facts["rescued_rows"] > 0
    assert np.isinf(sq_distances[empty]).all()
    assert np.isfinite(sq_distances[~empty]).all()


def test_a_code_cannot_be_longer_than_a_key(keys_ND, values_N):
    with pytest.raises(ConfigError, match=r"search\.code_bytes must be at most 8"):
        find(keys_ND, values_N, method="ivf_pq", code_bytes=9)


def test_too_few_training_rows_are_refused(keys_ND, values_N):
    with pytest.raises(ConfigError, match=r"search\.train_rows gives 100 rows, .* at least 256"):
        find(keys_ND, values_N, method="ivf_pq", code_bytes=4, num_lists=7, train_rows=100)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("method", "ivfpq", r"did you mean 'ivf_pq'"),
        ("num_probes", 0, r"search\.num_probes must be at least 1"),
        ("min_recall", 1.5, r"search\.min_recall must lie in \[0, 1\]"),
    ],
)
def test_settings_are_checked(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**{setting: value})
