"""What every method owes a table, on a tiny model without BOS and on one with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memdec.datastore.config import DatastoreConfig, KnnConfig
from memdec.errors import ConfigError, DataError
from memdec.evaluation.config import EvaluationConfig
from memdec.methods.config import MemoryMixtureConfig
from memdec.methods.memory_mixture import short_names
from memdec.methods.registry import METHODS
from memdec.pipeline.job import Job
from memdec.pipeline.model_facts import read_model_facts
from memdec.pipeline.runner import run_experiment
from memdec.training.config import MemoryDecoderConfig, TrainerConfig


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def result(request, tiny_experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    run_experiment(tiny_experiment(request.param, methods=["memory_decoder"]), folder)
    mixture = MemoryMixtureConfig(memories=[str(path) for path in folder.glob("memory/*/export")])
    experiment = tiny_experiment(request.param, methods=list(METHODS), memory_mixture=mixture)
    return run_experiment(experiment, folder)


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
    mixtures = {"dapt_memory", "knn_lm", "memory_decoder", "memory_mixture"}
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
        "adaptive_alpha": 2,
        "memory_mixture": 2,
    }
    assert base * (lora - 1) == pytest.approx(budgets["lora"]["trained_parameters"])
    assert 0 < budgets["lora"]["trained_parameters"] <= base
    trained = {n for n, b in budgets.items() if b["trained_parameters"]}
    assert trained == {"dapt", "dapt_memory", "lora", "memory_decoder", "adaptive_alpha"}
    assert len({budgets[name]["train_tokens"] for name in trained}) == 1
    # windows of 32 tokens, 16 apart: each token is read twice, and predicted once
    facts = read_model_facts(Path(result.records[0]["config"]["model"]["source"]))
    a_token = 6 * (2 * facts.body_parameters + facts.head_parameters)
    assert budgets["dapt"]["flops"] == a_token * budgets["dapt"]["train_tokens"]
    saved = 2 * (2 * facts.body_parameters + facts.head_parameters)  # gradients of frozen weights
    adapter = 2 * 6 * budgets["lora"]["trained_parameters"]
    assert budgets["lora"]["flops"] == pytest.approx(
        (a_token - saved + adapter) * budgets["lora"]["train_tokens"]
    )
    searched = {n for n, b in budgets.items() if b["datastore_flops"]}
    assert searched == {"knn_lm", "memory_decoder", "adaptive_alpha"}


def test_a_budget_counts_the_model_that_makes_the_keys_of_queries(tiny_experiment, tmp_path):
    experiment = tiny_experiment(
        "llama", methods=["base", "knn_lm"], datastore=DatastoreConfig(model="dapt")
    )
    base, knn_lm = (record["budget"] for record in run_experiment(experiment, tmp_path).records)
    assert knn_lm["parameters"] == 2 * base["parameters"]
    assert knn_lm["flops"] > 0 == base["flops"]
    experiment = replace(experiment, methods=["dapt", "memory_decoder"])
    dapt, memory = (record["budget"] for record in run_experiment(experiment, tmp_path).records)
    for key in ("train_tokens", "flops"):  # the fine-tuned model of the keys, and the memory
        assert memory[key] == 2 * dapt[key]


def test_every_record_counts_the_test_documents_and_their_copies_elsewhere(result):
    (manifest,) = (result.folder.parents[1] / "tokens").glob("*/manifest.json")
    facts = json.loads(manifest.read_text())["info"]
    for record in result.records:
        metrics = record["metrics"]
        for split in ("train", "validation"):
            overlap = facts[f"{split}_test_overlap"]
            assert metrics["test/num_documents"] == overlap["test_documents"] == 4
            assert metrics[f"test/documents_in_{split}"] == overlap["near"]
            assert metrics[f"test/documents_exactly_in_{split}"] == overlap["exact"]
            assert metrics[f"{split}/num_documents"] == facts[split]["num_documents"]
        assert record["intervals"] == {}  # too few documents


def test_the_gate_is_compared_with_one_alpha(result):
    records = {record["method"]: record for record in result.records}
    gate, one = records["adaptive_alpha"], records["memory_decoder"]
    ratio = gate["metrics"]["test/perplexity"] / one["metrics"]["test/perplexity"]
    assert gate["metrics"]["test/perplexity_ratio_to_one_alpha"] == pytest.approx(ratio, rel=1e-6)
    assert gate["tuned"]["best single alpha"] == one["alpha"]
    assert "test/perplexity_ratio_to_one_alpha" not in one["metrics"]


def test_an_oracle_bounds_every_alpha(result):
    metrics = {record["method"]: record["metrics"] for record in result.records}
    bound = metrics["memory_decoder"]["test/oracle_perplexity"]
    assert metrics["adaptive_alpha"]["test/oracle_perplexity"] == bound
    for name in ("memory_decoder", "adaptive_alpha"):
        assert bound < metrics[name]["test/perplexity"]
    assert "test/oracle_perplexity" not in metrics["lora"]


def test_a_gate_is_no_worse_than_one_alpha_on_the_text_it_was_fitted_on(result):
    metrics = {record["method"]: record["metrics"] for record in result.records}
    gated, fixed = (
        metrics[name]["validation/nll"] for name in ("adaptive_alpha", "memory_decoder")
    )
    assert gated <= fixed + 1e-6


def test_gains_by_frequency_add_up(result):
    for record in result.records:
        metrics = record["metrics"]
        groups = [key.removeprefix("test/share/") for key in metrics if "test/share/" in key]
        gain = sum(metrics[f"test/share/{g}"] * metrics[f"test/gain/{g}"] for g in groups)
        base_nll = sum(metrics[f"test/share/{g}"] * metrics[f"test/base_nll/{g}"] for g in groups)
        assert base_nll - gain == pytest.approx(metrics["test/nll"], abs=1e-5)


def test_fidelity_is_the_memorys_alone(result):
    measured = {r["method"] for r in result.records if "fidelity/kl" in r["metrics"]}
    assert measured == {"memory_decoder"}
    metrics = next(r["metrics"] for r in result.records if r["method"] == "memory_decoder")
    assert metrics["fidelity/kl"] > 0
    assert 0 < metrics["fidelity/total_variation"] < 1


def test_memories_are_mixed_with_weights_of_their_own(tiny_experiment, tmp_path):
    """The second memory has seen nothing, so nearly all weight goes to the first and the base."""
    records = {}
    for name, settings in {"good": {}, "poor": {"init": "scratch"}}.items():
        config = MemoryDecoderConfig(**settings)
        experiment = tiny_experiment(
            "llama",
            methods=["memory_decoder"],
            memory_decoder=config,
            trainer=TrainerConfig(
                learning_rate=0.01 if name == "good" else 1e-9,
                batch_size=6,
                micro_batch_size=3,
                accelerator="cpu",
            ),
        )
        (records[name],) = run_experiment(experiment, tmp_path).records
    exports = {
        name: next(
            str(tmp_path / "memory" / stage["fingerprint"] / "export")
            for stage in record["stages"]
            if stage["name"] == "memory"
        )
        for name, record in records.items()
    }
    mixture = MemoryMixtureConfig(memories=[exports["good"], exports["poor"]])
    experiment = tiny_experiment("llama", methods=["memory_mixture"], memory_mixture=mixture)
    (record,) = run_experiment(experiment, tmp_path).records
    again = replace(experiment, memory_mixture=MemoryMixtureConfig(memories=[exports["good"]]))
    assert Job(again, tmp_path).fingerprint("mixture_scores") != Job(
        experiment, tmp_path
    ).fingerprint("mixture_scores")
    alone = records["good"]["metrics"]["validation/nll"]
    assert record["metrics"]["validation/nll"] <= alone + 1e-6
    weights = {
        name: record["tuned"][f"weight of {path.split('/')[-2]}"] for name, path in exports.items()
    }
    assert weights["good"] > 2 * weights["poor"]
    base, deployed = records["good"]["budget"]["trained_parameters"], record["budget"]["parameters"]
    assert deployed == 3 * base
    assert record["alpha"] == pytest.approx(sum(record["tuned"].values()))
    made = {path: plugged["trained_with"] for path, plugged in record["memories"].items()}
    assert made[exports["good"]]["trainer.learning_rate"] == 0.01
    assert made[exports["poor"]]["memory_decoder.init"] == "scratch"
    settings = record["config"]["memory_decoder"]
    assert (settings["init"], settings["beta"]) == (None, 0.5)  # they differ in one, not the other


def test_a_record_says_how_the_memory_that_was_plugged_in_was_trained(tiny_experiment, tmp_path):
    config, knn = (
        MemoryDecoderConfig(beta=0.3, gating="gold"),
        KnnConfig(k=4, k_max=16, temperature=3.0),
    )
    experiment = tiny_experiment(
        "llama", methods=["memory_decoder"], memory_decoder=config, knn=knn
    )
    (trained,) = run_experiment(experiment, tmp_path).records
    (memory,) = tmp_path.glob("memory/*/export")
    given = MemoryDecoderConfig(trained=str(memory), alpha=0.5)
    experiment = tiny_experiment(
        "llama",
        methods=["memory_decoder"],
        memory_decoder=given,
        datastore=DatastoreConfig(model="dapt"),
        trainer=TrainerConfig(learning_rate=0.5, accelerator="cpu"),
        evaluation=EvaluationConfig(),
    )
    (plugged,) = run_experiment(experiment, tmp_path).records
    settings, made_with = plugged["config"], trained["config"]
    changed = {"trained": str(memory), "alpha": 0.5}
    assert settings["memory_decoder"] == made_with["memory_decoder"] | changed
    assert settings["knn"] == made_with["knn"]
    assert settings["datastore"] == made_with["datastore"]
    assert settings["trainer"]["learning_rate"] == made_with["trainer"]["learning_rate"]
    assert plugged["memories"][str(memory)]["trained_with"]["knn.k"] == 4


@pytest.mark.parametrize(
    ("key", "beta", "refused"),
    [
        ("", 0.5, False),
        ("knn.k", 0.5, True),
        ("knn.temperature", 0.5, True),
        ("datastore", 0.5, True),
        ("datastore", 0.0, False),  # trained on no targets, so these are as good as any
    ],
)
def test_fidelity_to_other_targets_than_a_plugged_memorys_is_refused(
    key, beta, refused, tiny_experiment, tmp_path
):
    config = MemoryDecoderConfig(beta=beta)
    experiment = tiny_experiment("llama", methods=["memory_decoder"], memory_decoder=config)
    (trained,) = run_experiment(experiment, tmp_path).records
    (memory,) = tmp_path.glob("memory/*/export")
    again = replace(experiment, memory_decoder=MemoryDecoderConfig(trained=str(memory)))
    again = replace(
        again,
        knn=replace(
            again.knn,
            k=4 if key == "knn.k" else again.knn.k,
            temperature=1.0 if key == "knn.temperature" else again.knn.temperature,
        ),
        corpus=replace(again.corpus, max_train_tokens=300 if key == "datastore" else 0),
    )
    if refused:
        with pytest.raises(ConfigError, match=f"true and {key} is .* give evaluation.fidelity=f"):
            run_experiment(again, tmp_path)
        return
    (plugged,) = run_experiment(again, tmp_path).records
    as_before = plugged["metrics"]["fidelity/kl"] == trained["metrics"]["fidelity/kl"]
    assert as_before == (key == "")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/memories/law", "/a/memories/news"], ["law", "news"]),
        (["memory/1f/export", "memory/2e/export/"], ["1f", "2e"]),
        (["../one/export", "other/deep/export"], ["../one", "other/deep"]),
        (["memory/1f/export"], ["memory/1f/export"]),
        (["law", "law/export"], ["law", "law/export"]),
    ],
)
def test_memories_are_named_by_what_tells_them_apart(paths, names):
    assert short_names(paths) == names


def test_a_mixture_without_memories_is_refused(tiny_experiment):
    with pytest.raises(ConfigError, match=r"memory_mixture\.memories is empty"):
        tiny_experiment("llama", methods=["memory_mixture"])


def test_a_memory_that_is_none_is_refused_before_any_work(tiny_experiment, tmp_path):
    mixture = MemoryMixtureConfig(memories=[str(tmp_path)])
    experiment = tiny_experiment("llama", methods=["memory_mixture"], memory_mixture=mixture)
    with pytest.raises(DataError, match=r"memory_mixture\.memories: .* \(no memory\.json\)"):
        run_experiment(experiment, tmp_path / "artifacts")
    assert not (tmp_path / "artifacts/base_scores").exists()
