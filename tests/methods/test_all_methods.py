"""What every method owes a table, on a tiny model without BOS and on one with it."""

import json

import numpy as np
import pytest

from memdec.methods.registry import METHODS
from memdec.pipeline.runner import run_experiment


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def result(request, tiny_experiment, tmp_path_factory):
    experiment = tiny_experiment(request.param, methods=list(METHODS))
    return run_experiment(experiment, tmp_path_factory.mktemp("artifacts"))


def test_every_method_scores_the_same_tokens(result):
    assert [record["method"] for record in result.records] == list(METHODS)
    for split in ("validation", "test"):
        assert len({record["metrics"][f"{split}/num_tokens"] for record in result.records}) == 1


def test_every_metric_is_finite_and_every_record_is_json(result):
    for record in result.records:
        assert record["status"] == "complete"
        assert all(np.isfinite(value) for value in record["metrics"].values())
        assert json.loads((result.folder / record["method"] / "record.json").read_text()) == record


def test_only_mixtures_have_an_alpha(result):
    mixtures = {"dapt_memory", "knn_lm", "memory_decoder"}
    assert {r["method"] for r in result.records if r["alpha"] is not None} == mixtures
