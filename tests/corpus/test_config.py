import re

import pytest

from memdec.corpus.config import CorpusConfig
from memdec.errors import ConfigError

FILES = {"train": "a.txt", "validation": "b.txt", "test": "c.txt"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "jsnl"}, r"corpus\.source is 'jsnl'; did you mean 'jsonl'\?.*text, jsonl, hf"),
        ({"source": "text", **FILES, "document_split": "blank"}, "'blank_line'"),
        ({"package": "licencedcode"}, "did you mean 'licensedcode'"),
        ({"source": "text"}, r"corpus\.train is empty; source text needs a file or a pattern"),
        ({"source": "hf", "dataset": "d"}, r"corpus\.train is empty; source hf needs a split name"),
        ({"source": "hf", "train": "train"}, r"corpus\.dataset is empty"),
        ({"source": "jsonl", "train": "a", "test": "c"}, "give both, or neither"),
        ({"train": "a.txt"}, r"corpus\.train is 'a\.txt' but corpus\.source is package"),
        ({"stride": 1025}, r"corpus\.stride must lie between 1 and corpus\.block_size \(1024\)"),
        ({"stride": 0}, r"corpus\.stride must lie between 1 and .* got 0"),
        ({"train_stride": 9, "stride": 8, "block_size": 8}, r"corpus\.train_stride must lie"),
        ({"block_size": 0}, r"corpus\.block_size must be at least 1, got 0"),
        ({"max_test_tokens": 1024}, r"corpus\.max_test_tokens must be 0 \(all\) or above"),
        ({"max_train_tokens": -1}, r"corpus\.max_train_tokens must be 0 .* got -1"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave something for train"),
        ({"test_share": 0.0}, r"must be above 0"),
        ({"test_share": 1.5}, r"corpus\.test_share must lie in \[0, 1\], got 1\.5"),
        ({"max_overlap": -0.1}, r"corpus\.max_overlap must lie in \[0, 1\]"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(fields, message):
    with pytest.raises(ConfigError) as caught:
        CorpusConfig(**fields)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_memdec_makes_the_splits_of_a_package_and_of_train_alone():
    assert CorpusConfig().makes_splits
    assert CorpusConfig(source="jsonl", train="a.jsonl").makes_splits
    assert not CorpusConfig(source="text", **FILES).makes_splits


def test_shares_are_not_looked_at_when_the_splits_are_given():
    assert CorpusConfig(source="text", test_share=0.0, **FILES).locator("test") == "c.txt"


def test_a_limit_may_hold_exactly_one_window():
    config = CorpusConfig(block_size=512, max_test_tokens=513)
    assert (config.max_tokens("test"), config.max_tokens("train")) == (513, 0)
