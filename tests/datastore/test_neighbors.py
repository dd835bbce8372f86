"""Shape legend: N datastore rows, Q queries, D key width, K neighbors."""

import numpy as np
import pytest

from memdec.artifacts.artifact import ArtifactWriter
from memdec.datastore.neighbors import build_neighbors, build_query_neighbors, check_k
from memdec.datastore.search_config import SearchConfig
from memdec.errors import ConfigError


@pytest.fixture
def out(tmp_path):
    writer = ArtifactWriter(tmp_path / ".part")
    writer.clear()
    return writer


def seal(out):
    return out.seal(out.path.parent / "s" / ("a" * 16), "s", "a" * 16, {})


def draw_keys(num_rows, seed):
    return np.random.default_rng(seed).normal(size=(num_rows, 5)).astype(np.float16)


def assert_found(rows, sq_distances, wanted):
    assert rows.tolist() == wanted[0]
    # distances are sums of float32 products
    np.testing.assert_allclose(sq_distances, wanted[1], rtol=1e-4, atol=1e-5)
    assert (rows.dtype, sq_distances.dtype) == (np.int32, np.float32)


def slow_neighbors(queries_QD, keys_ND, k, exclude_self):
    rows, distances = [], []
    for q, query in enumerate(queries_QD.astype(np.float64)):
        found = sorted(
            (float(((query - key) ** 2).sum()), n)
            for n, key in enumerate(keys_ND.astype(np.float64))
            if not (exclude_self and n == q)
        )[:k]
        rows.append([n for _, n in found])
        distances.append([d for d, _ in found])
    return rows, distances


def search(out, keys_ND, k_max, **settings):
    rows, values_N = range(len(keys_ND)), np.arange(len(keys_ND), dtype=np.uint32)
    build_neighbors(out, keys_ND, values_N, k_max, SearchConfig(**settings), rows, "cpu")


def test_rows_are_searched_against_all_others(out):
    keys_ND = draw_keys(61, seed=1)
    keys_ND[40] = keys_ND[3]  # twins find each other, not themselves
    search(out, keys_ND, 7)
    made = seal(out)
    wanted = slow_neighbors(keys_ND, keys_ND, 7, exclude_self=True)
    assert_found(made.array("rows"), made.array("sq_distances"), wanted)
    assert (made.array("rows")[3, 0], made.array("rows")[40, 0]) == (40, 3)
    assert made.info["k_max"] == 7


def test_k_max_stops_at_all_other_rows(out):
    keys_ND = draw_keys(6, seed=2)
    search(out, keys_ND, 1024)
    made = seal(out)
    assert made.array("rows").tolist() == slow_neighbors(keys_ND, keys_ND, 5, True)[0]
    assert made.info["k_max"] == 5


def test_an_index_reports_its_recall_and_leaves_slots_empty(out):
    keys_ND = draw_keys(300, seed=6)
    with pytest.warns(UserWarning, match=r"recall@9 .*search\.num_probes \(now 1\)"):
        search(out, keys_ND, 9, method="ivf_flat", num_lists=60, num_probes=1)
    made = seal(out)
    exact = slow_neighbors(keys_ND, keys_ND, 9, True)[0]
    rows = made.array("rows")
    hits = sum(len(set(a) & set(b)) for a, b in zip(exact, rows.tolist(), strict=True))
    # 256 of 300 rows are sampled for the report
    assert made.info["recall"] == pytest.approx(hits / rows.size, abs=0.05)
    assert made.info["search"] == "IVF60,Flat"
    assert (rows < 0).any()
    assert np.isinf(made.array("sq_distances")[rows < 0]).all()
    assert (rows[:, 0] >= 0).all()


def test_a_query_may_find_its_own_twin(out):
    keys_ND, validation_QD, test_QD = draw_keys(40, 3), draw_keys(9, 4), draw_keys(11, 5)
    test_QD[2] = keys_ND[2]
    queries = {"validation": validation_QD, "test": test_QD}
    values_N = np.zeros(len(keys_ND), np.uint32)
    build_query_neighbors(out, queries, keys_ND, values_N, 4, SearchConfig(), "cpu")
    made = seal(out)
    assert made.info["test"] == {"search": "exact", "recall": 1.0}
    for split, queries_QD in (("validation", validation_QD), ("test", test_QD)):
        wanted = slow_neighbors(queries_QD, keys_ND, 4, exclude_self=False)
        assert_found(made.array(f"{split}_rows"), made.array(f"{split}_sq_distances"), wanted)
    assert made.array("test_rows")[2, 0] == 2


def test_k_is_at_most_the_number_of_other_rows():
    check_k(9, 10)
    with pytest.raises(ConfigError, match=r"knn.k is 10 but .* 10 datastore rows, so at most 9"):
        check_k(10, 10)
