"""Experiments from files: values picked by name, and the rates that the shipped ones picked."""

import json
from pathlib import Path

import pytest

from memdec.pipeline.experiment import load_experiment

ROOT = Path(__file__).parents[2]
DOMAINS = ROOT / "experiments" / "domains" / "small-scale.yaml"


@pytest.fixture
def picking(tmp_path):
    path = tmp_path / "picking.yaml"
    path.write_text(
        "name: law\n"
        "trainer: {learning_rate: '${pick:${name},{law: 2.0e-4, news: 0.1, 2024: 0.3},1.0e-3}'}\n"
    )
    return path


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ([], 2e-4),
        (["name=news"], 0.1),
        (["name='2024'"], 0.3),
        (["name=other"], 1e-3),
        (["name=news", "trainer.learning_rate=0.5"], 0.5),
    ],
)
def test_a_value_is_picked_by_name(picking, words, rate):
    assert load_experiment(picking, words).trainer.learning_rate == rate


def test_dapt_as_memory_has_dapts_epochs_at_paper_scale():
    path = ROOT / "experiments" / "domains" / "paper-scale.yaml"
    experiment = load_experiment(path, ["dapt.max_epochs=3"])
    assert experiment.options_of("dapt_memory").max_epochs == 3


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *((name, DOMAINS) for name in ("pubmed", "fomc_minutes", "cuad")),
        ("wikitext2", ROOT / "experiments" / "wikitext103" / "small-scale.yaml"),
    ],
)
def test_every_method_has_the_rate_that_validation_chose(name, path):
    tried: dict[tuple[str, str], dict[float, float]] = {}
    for file in (ROOT / "reports" / "records").glob(f"{name}-*.json"):
        record = json.loads(file.read_text())
        method, table = record["method"], record["table"]
        memory = method == "memory_decoder"  # the one method whose rate is always the trainer's
        if table != "learning-rate" and not (memory and table == "domains"):
            continue
        if (record["status"], record["seed"]) == ("complete", 0):
            gating = record["config"]["memory_decoder"]["gating"] if memory else ""
            rate = record["config"]["trainer"]["learning_rate"]
            perplexity = record["metrics"]["validation/perplexity"]
            tried.setdefault((method, gating), {})[rate] = perplexity
    memories = {("memory_decoder", "gold"), ("memory_decoder", "none")}
    assert set(tried) == {("dapt", ""), ("dapt_memory", ""), ("lora", ""), *memories}
    experiment = load_experiment(path, [f"name={name}"])
    for (method, gating), by_rate in tried.items():
        options = experiment.options_of("memory" if method == "memory_decoder" else method)
        best = min(by_rate, key=by_rate.__getitem__)
        assert options.learning_rate == best, (method, gating)
        assert min(by_rate) < best < max(by_rate), (method, gating)  # and lies between two others
