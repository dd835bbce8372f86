"""Which artifacts a change makes anew: those that it changes, and what is made from them."""

import json
import shutil
from pathlib import Path

import pytest

from memdec.methods.registry import METHODS
from memdec.pipeline.experiment import load_experiment
from memdec.pipeline.identity import record_fingerprint
from memdec.pipeline.job import Job

SEARCH = {"neighbors", "query_neighbors"}
TRAINED = {"memory", "memory_scores"}
KEYS = {"datastore", "targets", *SEARCH}
ALL = {"tokens", "base_scores", *KEYS, *TRAINED}

CHANGES = [
    ("memory_decoder.beta=0.3", TRAINED),
    ("memory_decoder.vocabulary=full", TRAINED),
    ("memory_decoder.init=scratch", TRAINED),
    ("trainer.learning_rate=0.02", TRAINED),
    ("trainer.max_epochs=3", TRAINED),
    ("trainer.precision=bf16-mixed", TRAINED),
    ("trainer.compile=true", TRAINED),
    ("seed=1", TRAINED),
    ("knn.temperature=8.0", {"targets", *TRAINED}),
    ("memory_decoder.divergence=jsd", TRAINED),
    ("memory_decoder.gating=gold", TRAINED),
    ("evaluation.fidelity=true", set()),
    ("knn.threshold=0.01", {"targets", *TRAINED}),
    ("knn.k=8", {"targets", *TRAINED}),
    ("knn.k_max=32", {"neighbors", "query_neighbors", "targets", *TRAINED}),
    ("search.num_probes=3", {*SEARCH, "targets", *TRAINED}),
    ("datastore.layer=final_hidden", ALL - {"tokens"}),
    ("corpus.block_size=30", ALL - {"tokens"}),
    ("corpus.stride=20", ALL - KEYS - {"tokens"} | TRAINED | {"query_neighbors"}),
    ("corpus.train_stride=20", KEYS | TRAINED),
    ("corpus.max_test_tokens=100", ALL),
    ("model.bos=always", ALL - {"tokens"}),
    ("model.dtype=bfloat16", ALL - {"tokens"}),
    ("model.separator=<|im_start|>", ALL),
    ("memory_decoder.alpha=0.5", set()),
    ("knn_lm.alpha=0.5", set()),
    ("knn_lm.temperatures=[1.0]", set()),
    ("evaluation.bootstrap_samples=10", set()),
    ("trainer.num_workers=2", set()),
    ("trainer.accelerator=auto", set()),
    ("model.batch_size=2", set()),
    ("model.device=auto", set()),
    ("logger=none", set()),
    ("name=other", set()),
    ("title=other", set()),
]


@pytest.fixture
def stages(experiment, tmp_path):
    """(overrides) -> fingerprint of each stage."""

    def read(*overrides):
        job = Job(load_experiment(experiment, list(overrides)), tmp_path / "artifacts")
        return {name: job.fingerprint(name) for name in ALL}

    return read


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(("override", "made_anew"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_setting_changes_these_artifacts_and_no_others(override, made_anew, stages):
    assert changed(stages(), stages(override)) == made_anew


@pytest.mark.parametrize("section", ["dapt", "dapt_memory", "lora"])
def test_fine_tuning_depends_on_the_settings_that_it_uses(section, experiment, tmp_path):
    def name(*overrides):
        job = Job(load_experiment(experiment, list(overrides)), tmp_path / "artifacts")
        return job.fingerprint(section)

    assert name("model.dtype=float16") == name()  # training is in trainer.precision
    own = (f"{section}.learning_rate=0.003", f"{section}.max_epochs=5")
    trainer = ("trainer.learning_rate=0.5", "trainer.max_epochs=9", "trainer.patience=7")
    assert name(*own) == name(*own, *trainer)
    assert name(*own) == name("trainer.learning_rate=0.003", "trainer.max_epochs=5")
    assert len({name(), name(own[0]), name(own[1]), name(f"{section}.patience=3")}) == 4


def test_a_share_of_the_key_model_changes_the_targets(stages):
    full = "memory_decoder.vocabulary=full"
    assert changed(stages(full), stages(full, "knn.lm_share=0.2")) == {"targets", *TRAINED}


def test_without_knn_targets_the_memory_does_not_depend_on_the_search(stages):
    nll = "memory_decoder.beta=0"
    assert changed(stages(nll), stages(nll, "knn.k=8")) == {"targets"}
    assert changed(stages(nll), stages(nll, "corpus.train_stride=20")) == KEYS | TRAINED


def test_a_moved_corpus_changes_nothing_and_an_edited_one_everything(stages, settings, tmp_path):
    before = stages()
    for split in ("train", "validation", "test"):
        Path(settings["corpus"][split]).rename(tmp_path / f"{split}.moved")
    moved = [f"corpus.{s}={tmp_path}/{s}.moved" for s in ("train", "validation", "test")]
    assert changed(before, stages(*moved)) == set()
    with (tmp_path / "validation.moved").open("a") as file:
        file.write(".")
    assert changed(before, stages(*moved)) == ALL


def test_swapped_splits_are_another_corpus(stages, settings):
    paths = settings["corpus"]
    swapped = [f"corpus.validation={paths['test']}", f"corpus.test={paths['validation']}"]
    assert changed(stages(), stages(*swapped)) == ALL


def test_a_moved_model_is_the_same_and_an_edited_one_is_not(stages, settings, tmp_path):
    source, copy = settings["model"]["source"], tmp_path / "model"
    before = stages()
    shutil.copytree(source, copy)
    assert changed(before, stages(f"model.source={copy}")) == set()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert changed(before, stages(f"model.source={copy}")) == ALL


def record_names(experiment, tmp_path, *overrides):
    job = Job(load_experiment(experiment, list(overrides)), tmp_path / "artifacts")
    return {name: record_fingerprint(job, METHODS[name]) for name in job.experiment.methods}


@pytest.mark.parametrize("override", ["memory_decoder.alpha=0.5", "evaluation.curve_points=9"])
def test_what_changes_no_artifact_still_names_another_record(override, experiment, tmp_path):
    before = record_names(experiment, tmp_path)
    after = record_names(experiment, tmp_path, override)
    assert all(before[name] != after[name] for name in before)


def test_the_logger_changes_not_even_the_record(experiment, tmp_path):
    before = record_names(experiment, tmp_path)
    assert record_names(experiment, tmp_path, "logger=none") == before
    fewer = record_names(experiment, tmp_path, "methods=[base]")
    assert fewer == {"base": before["base"]}


def test_two_methods_have_two_names(experiment, tmp_path):
    assert len(set(record_names(experiment, tmp_path).values())) == 3
