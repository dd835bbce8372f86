import itertools
import json

import pytest
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.errors import DataError
from memdec.models.loading import load_tokenizer
from memdec.models.memory import load_memory
from memdec.training.config import MemoryDecoderConfig, TrainerConfig
from memdec.training.fit import MONITOR, AtomicCheckpoints, fit_memory

CPU = torch.device("cpu")
SMALL = {
    "learning_rate": 5e-3,
    "batch_size": 6,
    "micro_batch_size": 2,
    "max_epochs": 2,
    "accelerator": "cpu",
}


def perplexity(gold_N):
    return {MONITOR: float(gold_N.clamp_min(-20).mean().neg().exp())}


@pytest.fixture
def fit(problem, tmp_path):
    """Train into a folder of that name; return the folder, and the sealed artifact's info."""

    def run(name, validate=perplexity, memory=None, **options):
        out = ArtifactWriter(tmp_path / name / ".part")
        out.path.mkdir(parents=True, exist_ok=True)
        config = TrainerConfig(**SMALL | options)
        fit_memory(
            out,
            memory or problem.memory(),
            load_tokenizer(problem.model),
            problem.data(config),
            MemoryDecoderConfig(),
            config,
            validate,
            seed=3,
            facts={"tokenizer_hash": "abc"},
            logger=False,
        )
        return out.seal(tmp_path / name / "memory" / ("a" * 16), "memory", "a" * 16, {})

    return run


def exported(artifact):
    """Every file that matters of a training, as bytes."""
    files = sorted((artifact.path / "export").iterdir())
    assert len(files) >= 5
    return {file.name: file.read_bytes() for file in [*files, artifact.path / "metrics.jsonl"]}


def test_the_artifact_holds_the_export_the_curves_and_the_counts(fit, problem):
    made = fit("run", checkpoint_every_steps=2)
    assert {path.name for path in made.path.iterdir()} == {
        "export",
        "manifest.json",
        "metrics.jsonl",
    }
    assert made.info["train_tokens"] == 2 * (len(problem.tokens) - 1)
    assert made.info["steps"] == 8
    assert made.info["tokenizer_hash"] == "abc"
    entries = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    losses = [e["train/loss"] for e in entries if "train/loss" in e]
    assert len(losses) == 22  # three steps of three passes and one of two, twice
    assert losses[-1] < losses[0]
    assert [e["step"] for e in entries if MONITOR in e] == [4, 8]
    assert min(e[MONITOR] for e in entries if MONITOR in e) == made.info["best"]
    assert load_memory(made.path / "export", "float32", CPU).output_ids_O is not None


@pytest.mark.parametrize("changes", [{"num_workers": 1}, {"num_workers": 2}])
def test_data_workers_change_no_byte(fit, changes):
    assert exported(fit("some", **changes)) == exported(fit("none"))


@pytest.mark.parametrize("every", [1, 3])
def test_checkpoints_change_no_byte(fit, every):
    assert exported(fit("some", checkpoint_every_steps=every)) == exported(fit("none"))


def test_the_best_validation_is_exported_not_the_last(fit):
    def script(values):
        found = iter(values)
        return lambda gold_N: {MONITOR: next(found)}

    first_is_best = exported(fit("first", script([1.0, 2.0])))
    one_of_the_same = exported(fit("second", script([2.0, 1.0])))
    assert first_is_best["model.safetensors"] != one_of_the_same["model.safetensors"]
    # the weights after epoch 1 of the same schedule
    stopped = exported(fit("stopped", script([1.0, 2.0, 3.0]), patience=1))
    assert stopped["model.safetensors"] == first_is_best["model.safetensors"]


def test_a_training_that_diverges_says_so(fit):
    with pytest.raises(DataError, match=r"NaN\) after 2 steps: .* rate of 1e\+30; lower it"):
        fit("diverged", learning_rate=1e30, max_steps=2)


def test_patience_stops_the_training(fit):
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    made = fit("run", lambda gold_N: {MONITOR: next(values)}, max_epochs=5, patience=2)
    assert made.info["steps"] == 12
    assert made.info["best"] == 1.0


def test_max_steps_and_validation_by_steps(fit):
    made = fit("run", max_steps=5, validate_every_steps=2, max_epochs=3)
    entries = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert made.info["steps"] == 5
    assert [e["step"] for e in entries if MONITOR in e][:2] == [2, 4]


class InterruptedFitError(Exception):
    pass


@pytest.mark.parametrize(("fails_at", "passes"), [(1, 3 + 3 + 12 + 3), (2, 3 + 3)])
def test_an_interrupted_training_goes_on_in_its_folder(fit, problem, fails_at, passes):
    """An epoch has 4 steps of 3 passes, and 3 of validation; the last step before it is redone."""
    calls = []

    def fragile(gold_N):
        calls.append(gold_N)
        if len(calls) == fails_at:
            raise InterruptedFitError
        return perplexity(gold_N)

    with pytest.raises(InterruptedFitError):
        fit("run", fragile, checkpoint_every_steps=1)
    seen = []
    memory = problem.memory()
    memory.register_forward_hook(lambda *_: seen.append(1))
    resumed = fit("run", memory=memory, checkpoint_every_steps=1)
    whole = fit("whole", checkpoint_every_steps=1)
    assert exported(resumed) == exported(whole)
    assert len(seen) == passes


def test_a_training_that_stopped_early_stops_there_again(fit, problem):
    rising = itertools.count(1.0)
    options = {"patience": 2, "max_epochs": 6, "checkpoint_every_steps": 1}
    memory = problem.memory()
    memory.export = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit("run", lambda gold_N: {MONITOR: next(rising)}, memory=memory, **options)
    resumed = fit("run", lambda gold_N: {MONITOR: next(rising)}, **options)
    assert resumed.info["steps"] == 12
    assert resumed.info["best"] == 1.0


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path):
    plugin = AtomicCheckpoints()
    path = tmp_path / "deeper" / "last.ckpt"
    plugin.save_checkpoint({"value": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        plugin.save_checkpoint({"value": lambda: None}, path)
    assert torch.load(path)["value"] == 1


@pytest.mark.parametrize(("max_steps", "validated"), [(3, [3]), (6, [4, 6])])
def test_the_last_step_is_validated_wherever_it_falls(fit, max_steps, validated):
    made = fit("run", max_steps=max_steps, max_epochs=3)
    entries = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert made.info["steps"] == max_steps
    assert [e["step"] for e in entries if MONITOR in e] == validated


@pytest.mark.parametrize(
    ("values", "same_as_four_steps"), [([1.0, 2.0], True), ([2.0, 1.0], False)]
)
def test_the_last_step_competes_with_the_earlier_ones(fit, values, same_as_four_steps):
    found, first = iter(values), iter([1.0, 2.0])
    made = exported(fit("run", lambda gold_N: {MONITOR: next(found)}, max_steps=6, max_epochs=3))
    four = fit("four", lambda gold_N: {MONITOR: next(first)}, max_steps=6, max_epochs=3)
    weights = "model.safetensors"
    assert (made[weights] == exported(four)[weights]) == same_as_four_steps
