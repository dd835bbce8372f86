"""Exact search against a slow one in float64; every way to run it gives the same bytes.

Shape legend: N rows, Q queries, D key width, K neighbors.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memdec.datastore import search_candidates, search_tiled, search_tiles
from memdec.datastore.search import exact_neighbors, search_neighbors
from memdec.datastore.search_found import Found
from memdec.datastore.search_topk import TopkSearch
from memdec.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def slow(reference):
    return reference("knn").nearest


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 rows and a sample of 128, so that 300 rows make all kinds of tiles."""
    monkeypatch.setattr(search_tiled, "_MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(search_tiled, "_SAMPLE_BLOCKS", 2)
    monkeypatch.setattr(search_candidates, "_TABLE_ENTRIES", 700)


def draw_keys(num_rows, width=5, seed=0, dtype=np.float16):
    return np.random.default_rng(seed).normal(3, 1, (num_rows, width)).astype(dtype)


def assert_found(found, wanted, keys_ND):
    rows_QK, sq_distances_QK = (x.numpy() for x in found)
    # Rounding is relative to the norms of the centred keys; a sum of D products each.
    scale = 2 * float(((keys_ND.astype(np.float64) - keys_ND.mean(0)) ** 2).sum(1).max())
    np.testing.assert_allclose(sq_distances_QK, wanted[1], rtol=0, atol=2e-6 * scale)
    gaps = np.diff(wanted[1], axis=1)
    clear = np.ones(rows_QK.shape, bool)  # ranks whose neighbors in rank are told apart
    clear[:, 1:] &= (gaps > 4e-6 * scale) | (gaps == 0)
    clear[:, :-1] &= (gaps > 4e-6 * scale) | (gaps == 0)
    assert (rows_QK == wanted[0])[clear].all()
    assert clear.mean() > 0.9


def assert_same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("num_rows", "k"), [(2, 1), (5, 4), (70, 9), (300, 13)])
def test_all_against_all(slow, small_blocks, num_rows, k):
    keys_ND = draw_keys(num_rows)
    found = exact_neighbors(keys_ND, k)
    assert [x.dtype for x in found] == [torch.int64, torch.float32]
    assert_found(found, slow(keys_ND, keys_ND, k, np.arange(num_rows)), keys_ND)


def test_queries_against_keys(slow, small_blocks):
    keys_ND, queries_QD = draw_keys(300), draw_keys(71, seed=1)
    assert_found(search_neighbors(queries_QD, keys_ND, 7), slow(queries_QD, keys_ND, 7), keys_ND)


def test_large_blocks_agree_with_the_slow_search(slow):
    keys_ND = draw_keys(1500, width=3)
    found = exact_neighbors(keys_ND, 20)
    some = np.arange(0, 1500, 97)
    wanted = slow(keys_ND[some], keys_ND, 20, some)
    assert_found([x[some] for x in found], wanted, keys_ND)


def test_twins_are_neighbors_at_distance_zero_and_ties_go_to_the_lower_row(small_blocks):
    keys_ND = draw_keys(300)
    twins = [17, 90, 91, 256]
    keys_ND[twins] = keys_ND[17]
    rows_NK, sq_distances_NK = exact_neighbors(keys_ND, 30)
    for twin in twins:
        others = [row for row in twins if row != twin]
        assert rows_NK[twin, :3].tolist() == others
        assert sq_distances_NK[twin, :3].tolist() == [0, 0, 0]
    for row in set(range(300)) - set(twins):  # equally far from any third row, hence in order
        places = [rows_NK[row].tolist().index(t) for t in twins if t in rows_NK[row]]
        assert places == list(range(places[0], places[0] + 4)) if len(places) == 4 else True
        assert len(set(sq_distances_NK[row, places].tolist())) <= 1


def test_keys_that_are_all_equal_are_searched_in_bounded_memory(small_blocks):
    keys_ND = np.ones((300, 5), np.float16)
    rows_NK, sq_distances_NK = exact_neighbors(keys_ND, 3)
    assert not sq_distances_NK.any()
    assert rows_NK[[0, 1, 2, 150]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_a_row_finds_itself_first_when_it_may(small_blocks):
    rows_NK, sq_distances_NK = exact_neighbors(draw_keys(130), 2, exclude_self=False)
    assert rows_NK[:, 0].tolist() == list(range(130))
    assert not sq_distances_NK[:, 0].any()


def test_every_other_row_is_found_when_k_is_their_number(small_blocks):
    rows_NK, _ = exact_neighbors(draw_keys(150), 149)
    for row, found in enumerate(rows_NK.sort(1).values.tolist()):
        assert found == [n for n in range(150) if n != row]


@given(edges=st.tuples(st.integers(0, 149), st.integers(1, 150)).filter(lambda e: e[0] < e[1]))
def test_shards_give_the_bytes_of_the_whole(edges):
    start, stop = edges
    keys_ND = draw_keys(150)
    whole = exact_neighbors(keys_ND, 6)
    assert_same(exact_neighbors(keys_ND, 6, start=start, stop=stop), [x[start:stop] for x in whole])


def test_threads_and_blocks_kept_do_not_change_a_byte(small_blocks, monkeypatch):
    keys_ND, queries_QD = draw_keys(300, width=40), draw_keys(110, width=40, seed=3)
    before = torch.get_num_threads()
    found, of_queries, of_a_part = [], [], []
    for num_threads, held in ((1, 1 << 28), (2, 1 << 28), (3, 0)):
        torch.set_num_threads(num_threads)
        monkeypatch.setitem(search_tiles._HELD_BYTES, "cpu", held)
        found.append(exact_neighbors(keys_ND, 11))
        of_queries.append(search_neighbors(queries_QD, keys_ND, 11))
        of_a_part.append(exact_neighbors(keys_ND, 11, start=30, stop=217))
    torch.set_num_threads(before)
    for results in (found, of_queries, of_a_part):
        assert_same(results[0], results[1])
        assert_same(results[0], results[2])


def test_a_cutoff_that_was_too_strict_does_not_lose_a_neighbor(small_blocks, monkeypatch):
    keys_ND, queries_QD = draw_keys(300), draw_keys(30, seed=2)
    wanted = exact_neighbors(keys_ND, 20), search_neighbors(queries_QD, keys_ND, 20)
    part = exact_neighbors(keys_ND, 20, start=40, stop=99)
    monkeypatch.setattr(search_tiled, "_sample_rank", lambda *_: 1)
    assert_same(exact_neighbors(keys_ND, 20), wanted[0])
    assert_same(search_neighbors(queries_QD, keys_ND, 20), wanted[1])
    assert_same(exact_neighbors(keys_ND, 20, start=40, stop=99), part)


@pytest.mark.parametrize(
    "make", [torch.from_numpy, lambda x: x.astype(np.float32), np.asfortranarray]
)
def test_any_kind_of_array_gives_the_same(make):
    keys_ND = draw_keys(70)
    assert_same(exact_neighbors(make(keys_ND), 4), exact_neighbors(keys_ND, 4))


def test_memory_maps_go_in_and_out(tmp_path):
    keys_ND = draw_keys(70)
    np.save(tmp_path / "keys.npy", keys_ND)
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.int32, (70, 4))
    sq_distances = np.lib.format.open_memmap(tmp_path / "d.npy", "w+", np.float32, (70, 4))
    exact_neighbors(np.load(tmp_path / "keys.npy", mmap_mode="r"), 4, out=(rows, sq_distances))
    wanted = exact_neighbors(keys_ND, 4)
    assert rows.tolist() == wanted[0].tolist()
    assert sq_distances.tolist() == wanted[1].tolist()


def test_progress_counts_every_row_once(small_blocks):
    done = []
    exact_neighbors(draw_keys(300), 3, advance=done.append)
    assert sum(done) == 300


def test_a_far_mean_costs_no_precision(slow):
    keys_ND = (draw_keys(90, dtype=np.float32) + 1000).astype(np.float32)
    # The centred keys are about 1, so float32 keeps the distances although the norms are 5e6.
    assert_found(exact_neighbors(keys_ND, 5), slow(keys_ND, keys_ND, 5, range(90)), keys_ND)


def test_the_accelerators_search_agrees(slow, small_blocks, monkeypatch):
    monkeypatch.setattr("memdec.datastore.search_topk._KEY_ROWS", 96)
    monkeypatch.setattr("memdec.datastore.search_topk._QUERY_ROWS", 64)
    keys_ND = draw_keys(300)
    keys_ND[200] = keys_ND[3]
    found = Found(np.empty((300, 13), np.int64), np.empty((300, 13), np.float32))
    rows_N = torch.arange(300)
    TopkSearch(keys_ND, 13, torch.device("cpu")).one_sided(found, keys_ND, own_rows=rows_N)
    assert (found.rows[3, 0], found.rows[200, 0], found.sq_distances[3, 0]) == (200, 3, 0)
    found = torch.from_numpy(found.rows), torch.from_numpy(found.sq_distances)
    assert_found(found, slow(keys_ND, keys_ND, 13, range(300)), keys_ND)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_rows(slow):
    keys_ND = draw_keys(300)
    found = exact_neighbors(keys_ND, 13, device="cuda")
    assert_found(found, slow(keys_ND, keys_ND, 13, range(300)), keys_ND)


@pytest.mark.parametrize(("k", "exclude_self"), [(0, True), (70, True), (71, False)])
def test_k_must_fit_the_rows(k, exclude_self):
    with pytest.raises(ConfigError, match=rf"knn\.k must be in 1\.\.{70 - exclude_self}.*is {k}"):
        exact_neighbors(draw_keys(70), k, exclude_self)


def test_k_must_fit_the_keys_of_a_query():
    with pytest.raises(ConfigError, match=r"1\.\.70"):
        search_neighbors(draw_keys(3), draw_keys(70), 71)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    keys_ND = draw_keys(70)
    keys_ND[9, 2] = bad
    with pytest.raises(DataError, match="not finite"):
        exact_neighbors(keys_ND, 3)
    with pytest.raises(DataError, match="not finite"):
        search_neighbors(keys_ND, draw_keys(70), 3)


def test_keys_beyond_float32_are_refused():
    keys_ND = draw_keys(70, dtype=np.float32)
    keys_ND[9] = 1e30
    with pytest.raises(DataError, match="query 0 has fewer than 3 rows at a finite distance"):
        exact_neighbors(keys_ND, 3)


def test_widths_must_agree():
    with pytest.raises(DataError, match=r"\[4, 6\] and keys \[70, 5\]"):
        search_neighbors(draw_keys(4, width=6), draw_keys(70), 3)
