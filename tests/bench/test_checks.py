"""A benchmark that measures a wrong result must say so."""

import numpy as np
import pytest
import torch

from memdec.bench import alpha, encode, loss, search, targets
from memdec.bench.figures import Check
from memdec.bench.inputs import make_keys
from memdec.bench.registry import run_benchmark
from memdec.datastore.targets import knn_distribution


def passed(outcome):
    return [check.passed for check in outcome.checks]


@pytest.mark.parametrize("value", [2e-6, float("nan"), float("inf")])
def test_a_check_refuses(value):
    assert not Check(what="difference", value=value, limit=1e-6).passed


def test_a_check_of_a_least_value():
    assert Check(what="recall", value=1.0, limit=1.0, at_least=True).passed
    assert not Check(what="recall", value=0.999999, limit=1.0, at_least=True).passed


def test_targets_that_drop_a_pair_are_caught(config, in_process, monkeypatch):
    def drops(sq_distances, ids, temperature):
        return knn_distribution(sq_distances, ids, temperature, threshold=1e-3)

    assert passed(run_benchmark("targets", config)) == [True, True]
    monkeypatch.setattr(targets, "knn_distribution", drops)
    assert passed(run_benchmark("targets", config)) == [False, False]


def test_targets_of_a_wrong_temperature_are_caught(config, in_process, monkeypatch):
    def hot(sq_distances, ids, temperature):
        return knn_distribution(sq_distances, ids, temperature * 1.001)

    monkeypatch.setattr(targets, "knn_distribution", hot)
    assert passed(run_benchmark("targets", config)) == [False, False]


def true_neighbors(keys_ND, k):
    keys = keys_ND.astype(np.float64)
    sq_distances_NN = ((keys[:, None] - keys) ** 2).sum(-1)
    np.fill_diagonal(sq_distances_NN, np.inf)
    return np.argsort(sq_distances_NN, 1, kind="stable")[:, :k]


def test_recall_of_true_neighbors_is_one_and_each_wrong_one_counts(config):
    keys_ND = make_keys(config)
    rows_NK = true_neighbors(keys_ND, config.k)
    assert search.recall(keys_ND, rows_NK, config.k) == 1.0
    count = rows_NK.size
    far = true_neighbors(keys_ND, config.rows - 1)[:, -1]
    for wrong in (far[7], rows_NK[7, 0], 7, -1):  # too far, found twice, the row itself, empty
        changed = rows_NK.copy()
        changed[7, 5] = wrong
        assert search.recall(keys_ND, changed, config.k) == pytest.approx(1 - 1 / count)


def test_recall_leaves_open_which_of_equal_neighbors_is_last():
    keys_ND = np.array([[0.0], [1.0], [-1.0], [5.0]], np.float16)
    for last in (1, 2):
        rows_NK = np.array([[last], [0], [0], [1]])
        assert search.recall(keys_ND, rows_NK, 1) == 1.0


def test_a_scaled_gradient_and_a_wrong_share_are_caught(config, monkeypatch):
    real = loss.ours
    assert all(check.passed for check in loss.check_gradients(config, 700))

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 1.01

    monkeypatch.setattr(loss, "ours", lambda *a: Scaled.apply(real(*a)))
    assert [c.passed for c in loss.check_gradients(config, 700)] == [True, False, False]
    monkeypatch.setattr(loss, "ours", loss.cross_entropy)
    assert not any(check.passed for check in loss.check_gradients(config, 700))


def test_keys_of_other_positions_are_caught(config, monkeypatch):
    real = encode.build_datastore

    def shifted(out, *arguments):
        real(out, *arguments)
        keys_ND = np.load(out.path / "keys.npy")
        np.save(out.path / "keys.npy", np.roll(keys_ND, 1, 0))

    monkeypatch.setattr(encode, "build_datastore", shifted)
    assert passed(run_benchmark("encode", config)) == [False]


def test_a_curve_that_is_off_is_caught(config, monkeypatch):
    real = alpha.alpha_curve
    monkeypatch.setattr(
        alpha, "alpha_curve", lambda *a: (real(*a)[0], [p * (1 + 1e-8) for p in real(*a)[1]])
    )
    assert passed(run_benchmark("alpha", config)) == [False]


def test_curves_may_be_infinite_at_the_same_alphas_only():
    inf = float("inf")
    assert alpha.compare([2.0, inf], [2.0, inf]).passed
    assert not alpha.compare([2.0, 3.0], [2.0, inf]).passed
    assert not alpha.compare([2.0, inf], [2.0, 3.0]).passed
