"""Sparse targets against the paper in float64.

Shape legend: Q queries, K neighbors, N datastore rows.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memdec.artifacts.artifact import ArtifactWriter
from memdec.datastore import target_blocks
from memdec.datastore.targets import LmTargets, knn_distribution, write_targets
from memdec.errors import ConfigError, DataError

DISTANCES = st.floats(0, 200, width=32) | st.just(np.inf)


@pytest.fixture(scope="module")
def slow(reference):
    return reference("knn").knn_distribution


def rows_of(starts, ids, probs):
    edges = starts.tolist()
    return [
        list(zip(ids[a:b].tolist(), probs[a:b].tolist(), strict=True)) for a, b in pairwise(edges)
    ]


def assert_rows(found, wanted):
    assert len(found) == len(wanted)
    for found_row, wanted_row in zip(found, wanted, strict=True):
        probs = dict(found_row)
        # float32 sums of at most K terms; what underflows in float32 is left out
        for token, prob in wanted_row:
            assert probs.pop(token, 0.0) == pytest.approx(prob, abs=1e-6)
        assert not probs
        assert sum(p for _, p in found_row) == pytest.approx(1, abs=1e-6)
        assert found_row == sorted(found_row, key=lambda entry: (-entry[1], entry[0]))
        assert all(p > 0 for _, p in found_row)


@given(data=st.data(), temperature=st.floats(0.05, 50), threshold=st.sampled_from([0, 0.1, 0.6]))
def test_it_agrees_with_the_paper(slow, data, temperature, threshold):
    sq_distances_QK = data.draw(hnp.arrays(np.float32, (2, 7), elements=DISTANCES))
    sq_distances_QK[:, 3] = np.minimum(sq_distances_QK[:, 3], 9)  # no row without a neighbor
    token_ids_QK = data.draw(hnp.arrays(np.int64, (2, 7), elements=st.integers(0, 4)))
    found = knn_distribution(sq_distances_QK, token_ids_QK, temperature, threshold)
    assert [x.dtype for x in found] == [torch.int64, torch.int64, torch.float32]
    wanted = slow(sq_distances_QK, token_ids_QK, temperature, threshold)
    # In float32 two that nearly tie for the largest do tie, and a row keeps both.
    if not any(
        abs(p - threshold) < 1e-5 or (threshold > 0 and 0 < row[0][1] - p < 1e-6)
        for row in slow(sq_distances_QK, token_ids_QK, temperature)
        for _, p in row
    ):
        assert_rows(rows_of(*found), wanted)


def test_a_row_by_hand():
    # weights 1, 1/e, 1/e: token 4 has 1, token 9 has 2/e
    starts, ids, probs = knn_distribution(
        torch.tensor([[2.0, 4.0, 4.0]]), torch.tensor([[4, 9, 9]]), temperature=2.0
    )
    assert starts.tolist() == [0, 2]
    assert ids.tolist() == [4, 9]
    total = 1 + 2 / np.e
    np.testing.assert_allclose(probs, [1 / total, 2 / np.e / total], rtol=1e-6)


def test_equal_probabilities_are_ordered_by_token():
    found = knn_distribution(np.full((1, 4), 3, np.float32), np.array([[7, 2, 5, 1]]), 1.0)
    assert found[1].tolist() == [1, 2, 5, 7]


def test_the_order_of_neighbors_changes_rounding_only():
    draw = np.random.default_rng(0)
    sq_distances_QK = draw.uniform(0, 9, (3, 50)).astype(np.float32)
    token_ids_QK = draw.integers(0, 6, (3, 50))
    shuffle = draw.permutation(50)
    one = knn_distribution(sq_distances_QK, token_ids_QK, 2.0)
    other = knn_distribution(sq_distances_QK[:, shuffle], token_ids_QK[:, shuffle], 2.0)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    torch.testing.assert_close(one[2], other[2], rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1, (1 << 26) - 7])
def test_token_ids_too_large_to_share_32_bits_with_a_column(scale):
    draw = np.random.default_rng(2)
    sq_distances_QK = draw.uniform(0, 9, (4, 70)).astype(np.float32)
    token_ids_QK = draw.integers(-1, 8, (4, 70))
    small = knn_distribution(sq_distances_QK, token_ids_QK, 2.0)
    scaled_QK = np.where(token_ids_QK < 0, -1, token_ids_QK * scale)
    large = knn_distribution(sq_distances_QK, scaled_QK, 2.0)
    assert large[1].tolist() == [token * scale for token in small[1].tolist()]
    assert torch.equal(large[2], small[2])


def test_the_size_of_blocks_does_not_change_a_byte(monkeypatch):
    draw = np.random.default_rng(1)
    arrays = draw.uniform(0, 9, (37, 5)).astype(np.float32), draw.integers(0, 4, (37, 5))
    whole = knn_distribution(*arrays, 2.0)
    monkeypatch.setattr(target_blocks, "_BLOCK_ENTRIES", 17)
    parts = knn_distribution(*arrays, 2.0)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_missing_neighbors_weigh_nothing():
    sq_distances_QK = np.array([[0.5, np.inf, np.inf], [0.0, 2.0, 0.1]], np.float32)
    token_ids_QK = np.array([[3, -1, 6], [-1, 8, -1]])
    found = rows_of(*knn_distribution(sq_distances_QK, token_ids_QK, 1.0))
    assert found == [[(3, 1.0)], [(8, 1.0)]]


def test_a_threshold_keeps_the_largest():
    found = knn_distribution(np.ones((1, 4), np.float32), np.array([[0, 1, 2, 2]]), 1.0, 0.9)
    assert rows_of(*found) == [[(2, 1.0)]]


def test_far_distances_do_not_underflow_together():
    found = knn_distribution(np.full((1, 2), 1e6, np.float32), np.array([[1, 2]]), 0.01)
    assert rows_of(*found) == [[(1, 0.5), (2, 0.5)]]


def test_no_queries():
    starts, ids, probs = knn_distribution(torch.zeros(0, 3), torch.zeros(0, 3).long(), 1.0)
    assert (starts.tolist(), len(ids), len(probs)) == ([0], 0, 0)


@pytest.mark.parametrize("temperature", [0, -1, 1e-60, float("nan")])
def test_a_temperature_must_be_above_zero(temperature):
    with pytest.raises(ConfigError, match=r"knn\.temperature must be at least 1e-06"):
        knn_distribution(np.zeros((1, 2), np.float32), np.zeros((1, 2), int), temperature)


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_must_leave_something(threshold):
    with pytest.raises(ConfigError, match=r"knn\.threshold"):
        knn_distribution(np.zeros((1, 2), np.float32), np.zeros((1, 2), int), 1.0, threshold)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_row_without_neighbors_is_refused_by_number(bad, monkeypatch):
    monkeypatch.setattr(target_blocks, "_BLOCK_ENTRIES", 4)
    sq_distances_QK = np.ones((7, 2), np.float32)
    sq_distances_QK[5] = bad
    with pytest.raises(DataError, match="row 5 has no neighbor"):
        knn_distribution(sq_distances_QK, np.zeros((7, 2), int), 1.0)


def test_shapes_must_agree():
    with pytest.raises(DataError, match=r"\[2, 3\] and token_ids \[3, 2\]"):
        knn_distribution(np.zeros((2, 3), np.float32), np.zeros((3, 2), int), 1.0)


def written(folder, *arguments, **options):
    """Write targets as an artifact; return starts, ids and probs, and the manifest's facts."""
    out = ArtifactWriter(folder / ".part")
    out.clear()
    write_targets(out, *arguments, **options)
    made = out.seal(folder / "targets", "targets", "0" * 16, {})
    return *(made.array(name) for name in ("starts", "token_ids", "probs")), made.info


def test_the_files_hold_the_distributions(tmp_path, slow, monkeypatch):
    monkeypatch.setattr(target_blocks, "_BLOCK_ENTRIES", 8)
    draw = np.random.default_rng(2)
    rows_NK = draw.integers(0, 11, (11, 6)).astype(np.int32)
    sq_distances_NK = np.sort(draw.uniform(0, 5, (11, 6)), 1).astype(np.float32)
    rows_NK[4, 3:], sq_distances_NK[4, 3:] = -1, np.inf
    values_N = draw.integers(0, 5, 11).astype(np.uint32)
    nearest, done = (rows_NK[:, :5], sq_distances_NK[:, :5]), []
    starts, ids, probs, facts = written(tmp_path, *nearest, values_N, 0.7, 0.01, done.append)
    assert (starts.dtype, ids.dtype, probs.dtype) == (np.int64, np.uint32, np.float16)
    assert (facts["num_pairs"], sum(done)) == (len(ids), 11)
    wanted = slow(sq_distances_NK[:, :5], values_N[rows_NK[:, :5]], 0.7, 0.01)
    for row, (a, b) in zip(wanted, pairwise(starts), strict=True):
        assert ids[a:b].tolist() == [token for token, _ in row]
        read = probs[a:b].astype(np.float32) / probs[a:b].astype(np.float32).sum()
        # float16 keeps 11 bits
        np.testing.assert_allclose(read, [p for _, p in row], rtol=2e-3)


def test_what_float16_flushes_to_zero_is_not_stored(tmp_path):
    sq_distances_NK = np.array([[0.0, 10.0, 20.0]], np.float32)  # e-20 is 2e-9
    rows_NK, values_N = np.array([[0, 1, 2]]), np.array([5, 6, 7])
    starts, ids, probs, _ = written(tmp_path, rows_NK, sq_distances_NK, values_N, 1.0)
    assert (starts.tolist(), ids.tolist()) == ([0, 2], [5, 6])
    assert probs.min() > 0


def test_a_language_model_takes_its_share(tmp_path):
    draw = np.random.default_rng(4)
    num_rows, k, num_top = 11, 6, 4
    values_N = draw.integers(0, 7, num_rows).astype(np.uint32)
    rows_NK = np.stack([draw.permutation(num_rows)[:k] for _ in range(num_rows)]).astype(np.int32)
    rows_NK[3, 4:] = -1
    sq_distances_NK = np.sort(draw.random((num_rows, k), np.float32) * 5, 1)
    ids_NL = np.stack([draw.permutation(10)[:num_top] for _ in range(num_rows)]).astype(np.uint32)
    probs_NL = draw.dirichlet(np.ones(num_top), num_rows) * 0.9
    lm = LmTargets(ids_NL, np.log(probs_NL).astype(np.float16), 0.3)
    starts, ids, probs, _ = written(tmp_path, rows_NK, sq_distances_NK, values_N, 2.0, lm=lm)
    for n in range(num_rows):
        weights = np.exp(-sq_distances_NK[n].astype(float) / 2) * (rows_NK[n] >= 0)
        wanted = np.zeros(10)
        np.add.at(wanted, values_N[rows_NK[n]], weights / weights.sum())
        wanted *= 0.7
        np.add.at(wanted, ids_NL[n], 0.3 * probs_NL[n] / probs_NL[n].sum())
        found = np.zeros(10)
        found[ids[starts[n] : starts[n + 1]]] = probs[starts[n] : starts[n + 1]]
        np.testing.assert_allclose(found, wanted, atol=2e-3)  # float16
