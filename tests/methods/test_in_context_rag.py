import sys
from dataclasses import replace

import numpy as np
import pytest

from memdec.corpus.config import CorpusConfig
from memdec.errors import ConfigError, MissingExtraError
from memdec.methods.config import InContextRagConfig
from memdec.models.loading import load_tokenizer
from memdec.pipeline.builders import base_of
from memdec.pipeline.experiment import Experiment
from memdec.pipeline.job import Job
from memdec.pipeline.runner import run_experiment


def test_the_stage_finds_a_passage_that_says_what_the_context_says(tiny_experiment, tmp_path):
    config = InContextRagConfig(passage_tokens=12, query_tokens=16, every_tokens=4)
    experiment = tiny_experiment("llama", in_context_rag=config)
    job = Job(experiment, tmp_path)
    found = job.artifact("rag_scores")
    tokens = job.artifact("tokens")
    test = np.asarray(tokens.array("test_tokens"))
    assert found.array("test_gold_log_probs").shape == (len(test) - 1,)
    assert (found.array("test_gold_log_probs") < 0).all()
    numbers = found.array("test_passages")
    assert numbers.max() < found.info["num_passages"]
    tokenizer = load_tokenizer(job.model_path)
    train = np.asarray(tokens.array("train_tokens"))
    starts = tokens.array("train_document_starts")
    texts = [
        tokenizer.decode(document[i : i + 12].tolist())
        for document in (d[:-1] for d in np.split(train, starts[1:]))
        for i in range(0, len(document), 12)
    ]
    assert len(texts) == found.info["num_passages"]
    # group 5 of the first window scores positions 21 to 24
    query = set(tokenizer.decode(test[21 - 16 : 21].tolist()).lower().replace(".", "").split())
    shared = [len(query & set(t.lower().replace(".", "").split()) - {"the"}) for t in texts]
    assert shared[numbers[5]] > np.mean(shared)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_passage_takes_room_from_the_context_only_where_the_model_has_no_more(
    tiny_experiment, tmp_path, kind
):
    config = InContextRagConfig(passage_tokens=90)
    experiment = tiny_experiment(kind, in_context_rag=config)
    corpus = replace(experiment.corpus, block_size=100, stride=50, train_stride=50)
    job = Job(replace(experiment, corpus=corpus), tmp_path)
    widths = []
    with base_of(job).base_model.register_forward_pre_hook(
        lambda _, __, named: widths.append(named["input_ids"].shape[1]), with_kwargs=True
    ):
        job.artifact("rag_scores")
    assert max(widths) == 128  # the model's positions, not the 190 asked for


@pytest.mark.parametrize(("passage", "fits"), [(28, True), (29, False)])
def test_a_passage_longer_than_the_window_is_refused(passage, fits):
    settings = {
        "name": "x",
        "corpus": CorpusConfig(block_size=32, stride=16, train_stride=16),
        "in_context_rag": InContextRagConfig(passage_tokens=passage),
    }
    Experiment(**settings)  # it does not matter to the other methods
    if fits:
        Experiment(**settings, methods=["in_context_rag"])
        return
    with pytest.raises(ConfigError, match=r"passage_tokens is 29 but a window .* has room for 28"):
        Experiment(**settings, methods=["in_context_rag"])


@pytest.mark.parametrize("key", ["passage_tokens", "query_tokens", "every_tokens"])
def test_counts_below_one_are_refused(key):
    with pytest.raises(ConfigError, match=rf"in_context_rag\.{key} must be at least 1, got 0"):
        InContextRagConfig(**{key: 0})


@pytest.mark.parametrize(
    ("method", "package", "extra"), [("in_context_rag", "bm25s", "rag"), ("lora", "peft", "lora")]
)
def test_a_missing_extra_is_found_before_any_work(
    tiny_experiment, tmp_path, monkeypatch, method, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    experiment = tiny_experiment("llama", methods=["base", method])
    with pytest.raises(MissingExtraError, match=rf"method {method} needs .*'memdec\[{extra}\]'"):
        run_experiment(experiment, tmp_path)
    assert list(tmp_path.iterdir()) == []
