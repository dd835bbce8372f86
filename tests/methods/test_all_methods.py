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


def test_budgets_count_what_is_deployed_and_what_is_trained(result):
    budgets = {record["method"]: record["budget"] for record in result.records}
    base = budgets["base"]["parameters"]
    deployed = {name: budget["parameters"] / base for name, budget in budgets.items()}
    lora = deployed.pop("lora")
    assert deployed == {
        "base": 1,
        "dapt": 1,
        "dapt_memory": 2,
        "knn_lm": 1,
        "in_context_rag": 1,
        "memory_decoder": 2,
    }
    assert base * (lora - 1) == pytest.approx(budgets["lora"]["trained_parameters"])
    assert 0 < budgets["lora"]["trained_parameters"] <= base
    trained = {n for n, b in budgets.items() if b["trained_parameters"]}
    assert trained == {"dapt", "dapt_memory", "lora", "memory_decoder"}
    assert len({budgets[name]["train_tokens"] for name in trained}) == 1
    assert budgets["dapt"]["flops"] == 6 * base * budgets["dapt"]["train_tokens"]
