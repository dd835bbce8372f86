"""DAPT and LoRA through their stages. Shape legend: T input positions, V vocabulary."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from memdec.corpus.windows import make_windows
from memdec.errors import ConfigError
from memdec.methods.config import DaptConfig, LoraConfig
from memdec.models.exports import read_memory_facts
from memdec.pipeline.job import Job
from memdec.training.config import MemoryDecoderConfig, TrainerConfig
from memdec.training.memory_module import MemoryModule
from memdec.training.order import WindowOrder

RATE, CLIP, BATCH, SEED = 0.01, 0.5, 6, 4
LLAMA_PER_RANK = 936
"""By hand, in tests/models/test_lora.py."""


@pytest.fixture
def job(tiny_experiment, tmp_path):
    """(architecture, **changes) -> a job in a folder of the test."""
    return lambda kind="llama", **changes: Job(
        tiny_experiment(kind, **{"seed": SEED} | changes), tmp_path
    )


def history(artifact, key):
    lines = (artifact.path / "metrics.jsonl").read_text().splitlines()
    return [entry[key] for entry in map(json.loads, lines) if key in entry]


def train_by_hand(lm, tokens, bos, block_size, stride):
    """AdamW on the summed cross-entropy of each step's windows, one window a pass."""
    optimizer = torch.optim.AdamW(lm.parameters(), lr=RATE, weight_decay=0.0)
    windows = make_windows(len(tokens), block_size, stride)
    num_steps = math.ceil(len(windows) / BATCH)
    for step, micro in enumerate(WindowOrder(len(windows), BATCH, BATCH, SEED)):
        chosen = [windows[w] for w in micro.windows]
        loss = torch.zeros(())
        for window in chosen:
            inputs = bos + tokens[window.start : window.end - 1].tolist()
            gold = torch.from_numpy(tokens[window.first_scored : window.end].astype(np.int64))
            logits_TV = lm(torch.tensor([inputs])).logits[0]
            loss = loss + cross_entropy(logits_TV[-len(gold) :], gold, reduction="sum")
        loss = loss / sum(window.end - window.first_scored for window in chosen)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), CLIP)
        optimizer.param_groups[0]["lr"] = RATE * (num_steps - step) / num_steps
        optimizer.step()
    assert num_steps >= 5


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_dapt_is_a_plain_loop(job, tiny_model, kind):
    trainer = TrainerConfig(
        learning_rate=0.3,  # not used: dapt has its own
        batch_size=BATCH,
        micro_batch_size=2,
        gradient_clip_norm=CLIP,
        accelerator="cpu",
    )
    made = job(kind, trainer=trainer, dapt=DaptConfig(learning_rate=RATE))
    tokens = np.asarray(made.artifact("tokens").array("train_tokens"))
    by_hand = AutoModelForCausalLM.from_pretrained(tiny_model(kind)).train()
    before = {name: weight.clone() for name, weight in by_hand.state_dict().items()}
    train_by_hand(by_hand, tokens, [2] if kind == "gemma3" else [], 32, 16)
    export = made.artifact("dapt").path / "export"
    trained = AutoModelForCausalLM.from_pretrained(export).state_dict()
    for name, weight in by_hand.state_dict().items():
        # Adam divides by the size of a gradient, which blows rounding up where that is tiny
        torch.testing.assert_close(trained[name], weight, rtol=1e-2, atol=2e-3, msg=name)
    moved = max(float((weight - before[name]).abs().max()) for name, weight in trained.items())
    assert moved > 0.02
    # how it reads a text, for `memdec generate`
    trained_with = read_memory_facts(export)["trained_with"]
    assert (trained_with["model.bos"], trained_with["model.separator"]) == ("auto", "auto")


@pytest.mark.parametrize("stage", ["dapt", "lora"])
def test_validation_is_the_models_own_perplexity(job, stage):
    made = job()
    curve = history(made.artifact(stage), "validation/perplexity")
    scores = made.artifact(f"{stage}_scores").array("validation_gold_log_probs")
    assert np.exp(-scores.mean(dtype=np.float64)) == pytest.approx(min(curve), rel=1e-4)
    base = made.artifact("base_scores").array("validation_gold_log_probs")
    assert scores.mean() > base.mean() + 0.5


def test_training_stops_when_validation_gets_worse(job):
    dapt = DaptConfig(learning_rate=2.0, max_epochs=12, patience=1)
    curve = history(job(dapt=dapt).artifact("dapt"), "validation/perplexity")
    assert len(curve) < 12
    assert curve[-1] > curve[-2] == min(curve)


def test_dapt_as_a_memory_shares_the_training_of_dapt_only_where_their_settings_agree(job):
    alike = job()
    for kind in ("dapt", "dapt_scores"):
        as_memory = kind.replace("dapt", "dapt_memory")
        assert alike.artifact(as_memory).path == alike.artifact(kind).path
    apart = job(dapt=DaptConfig(learning_rate=2 * RATE))
    assert apart.artifact("dapt_memory_scores").path == alike.artifact("dapt_scores").path
    assert apart.artifact("dapt_scores").path != alike.artifact("dapt_scores").path


def test_zero_means_as_the_trainer():
    trainer = TrainerConfig(learning_rate=0.5, max_epochs=7, patience=3, weight_decay=0.25)
    assert DaptConfig().options(trainer) == replace(trainer, patience=1)
    own = LoraConfig(learning_rate=0.1, max_epochs=2, patience=0).options(trainer)
    assert own == replace(trainer, learning_rate=0.1, max_epochs=2, patience=0)


def test_the_default_budget_is_the_size_of_the_memory(job, tiny_model, capsys):
    made = job()
    lm = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    size = sum(parameter.numel() for parameter in lm.parameters())
    info = made.artifact("lora").info
    assert info["budget_parameters"] == size
    assert info["rank"] == size // LLAMA_PER_RANK
    assert info["trained_parameters"] == info["rank"] * LLAMA_PER_RANK
    assert info["parameters"] == size + info["trained_parameters"]
    assert f"LoRA: rank {info['rank']}, " in capsys.readouterr().err


def test_the_default_budget_follows_a_shallower_memory(job):
    shallow = MemoryDecoderConfig(blocks=1)
    made = job(memory_decoder=shallow)
    budget = made.artifact("lora").info["budget_parameters"]
    assert budget == made.artifact("memory").info["parameters"]
    assert made.fingerprint("lora") != job().fingerprint("lora")


def test_the_default_budget_is_that_of_a_memory_plugged_in(job, tiny_model):
    memory = job(memory_decoder=MemoryDecoderConfig(blocks=1)).artifact("memory")
    plugged = MemoryDecoderConfig(trained=str(memory.path / "export"), init="elsewhere")
    made = job(memory_decoder=plugged)
    assert made.artifact("lora").info["budget_parameters"] == memory.info["parameters"]
    names = {job().fingerprint("lora"), made.fingerprint("lora")}
    other = job(memory_decoder=MemoryDecoderConfig(blocks=2)).artifact("memory")
    (other.path / "export" / "memory.json").touch()
    plugged = MemoryDecoderConfig(trained=str(other.path / "export"))
    assert len(names | {job(memory_decoder=plugged).fingerprint("lora")}) == 3


def test_a_given_budget_is_kept(job):
    info = job(lora=LoraConfig(budget_parameters=2 * LLAMA_PER_RANK + 5)).artifact("lora").info
    assert (info["rank"], info["trained_parameters"]) == (2, 2 * LLAMA_PER_RANK)


def test_a_budget_below_rank_1_ends_the_run_in_one_sentence(job):
    with pytest.raises(ConfigError, match=r"lora\.budget_parameters is 935 .* at least 936"):
        job(lora=LoraConfig(budget_parameters=935)).artifact("lora")


def test_only_the_default_budget_depends_on_the_memory(job, tiny_model):
    other = MemoryDecoderConfig(init=str(tiny_model("qwen2")))
    given = LoraConfig(budget_parameters=5000)

    def name(**changes):
        return job(**changes).fingerprint("lora")

    assert name() != name(memory_decoder=other)
    assert name(lora=given) == name(lora=given, memory_decoder=other)
    assert job().fingerprint("dapt") == job(memory_decoder=other, lora=given).fingerprint("dapt")
    assert job().fingerprint("dapt") != job(dapt=DaptConfig(patience=2)).fingerprint("dapt")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DaptConfig(learning_rate=-1.0), r"dapt\.learning_rate must be at least 0"),
        (lambda: DaptConfig(max_epochs=-1), r"dapt\.max_epochs must be at least 0, got -1"),
        (lambda: LoraConfig(patience=-1), r"lora\.patience must be at least 0"),
        (lambda: LoraConfig(budget_parameters=-5), r"lora\.budget_parameters must be at least 0"),
        (lambda: LoraConfig(scale=0.0), r"lora\.scale must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize("stage", ["dapt", "dapt_memory", "lora"])
def test_an_interrupted_training_goes_on_and_comes_to_the_same_end(
    tiny_experiment, tmp_path, monkeypatch, stage
):
    trainer = TrainerConfig(
        learning_rate=RATE, batch_size=6, micro_batch_size=3, max_epochs=2, accelerator="cpu"
    )
    experiment = tiny_experiment("llama", trainer=trainer)
    whole = Job(experiment, tmp_path / "whole").artifact(stage)
    validated, calls = MemoryModule.on_validation_epoch_end, []

    def fragile(module):
        calls.append(module)
        if len(calls) == 2:
            raise InterruptedError
        validated(module)

    monkeypatch.setattr(MemoryModule, "on_validation_epoch_end", fragile)
    with pytest.raises(InterruptedError):
        Job(experiment, tmp_path / "killed").artifact(stage)
    resumed = Job(experiment, tmp_path / "killed").artifact(stage)
    assert len(calls) == 3  # the first epoch was not trained again
    names = {path.name for path in (whole.path / "export").iterdir()}
    assert ("adapter_model.safetensors" in names) == (stage == "lora")
    for name in names:
        made = (resumed.path / "export" / name).read_bytes()
        assert made == (whole.path / "export" / name).read_bytes(), name
