import json
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from memdec.corpus.config import CorpusConfig
from memdec.corpus.hub import _commit
from memdec.corpus.sources import describe_source, read_documents
from memdec.errors import DataError, MissingExtraError
from memdec.pipeline.experiment import Experiment
from memdec.pipeline.job import Job

SPLITS = ("train", "validation", "test")


def write_splits(folder, suffix, content_of):
    paths = {}
    for split in SPLITS:
        path = folder / f"{split}.{suffix}"
        path.write_text(content_of(split))
        paths[split] = str(path)
    return paths


def read(config, folder):
    return {split: list(texts) for split, texts in read_documents(config, folder).items()}


def test_given_splits_keep_their_order_and_lose_blank_documents(tmp_path):
    paths = write_splits(tmp_path, "txt", lambda split: f"\n\n{split} one\n\n \n\ntwo\n")
    config = CorpusConfig(source="text", document_split="blank_line", **paths)
    assert read(config, tmp_path) == {
        split: [f"\n\n{split} one".strip(), "two\n"] for split in SPLITS
    }


def test_json_lines_take_the_field_that_is_asked_for(tmp_path):
    paths = write_splits(tmp_path, "jsonl", lambda split: json.dumps({"body": split}) + "\n")
    config = CorpusConfig(source="jsonl", text_field="body", **paths)
    assert read(config, tmp_path) == {split: [split] for split in SPLITS}


def test_given_splits_are_read_only_as_far_as_they_are_used(tmp_path):
    good = json.dumps({"text": "good"})
    paths = write_splits(tmp_path, "jsonl", lambda split: f"{good}\nbroken\n")
    texts = iter(read_documents(CorpusConfig(source="jsonl", **paths), tmp_path)["train"])
    assert next(texts) == "good"
    with pytest.raises(DataError, match=r"train\.jsonl:2 is not JSON"):
        next(texts)


def test_a_missing_file_of_any_split_is_found_before_the_first_is_read(tmp_path):
    paths = write_splits(tmp_path, "txt", lambda split: split)
    config = CorpusConfig(source="text", **{**paths, "test": str(tmp_path / "gone.txt")})
    with pytest.raises(DataError, match=r"corpus\.test is .*gone\.txt"):
        read_documents(config, tmp_path)
    with pytest.raises(DataError, match=r"corpus\.test is .*gone\.txt"):
        describe_source(config)


def one_file(folder, texts, **fields):
    path = folder / "all.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return CorpusConfig(source="jsonl", train=str(path), **fields)


def paragraphs(num):
    return [" ".join(f"w{10 * number + i}" for i in range(10)) for number in range(num)]


def test_train_alone_is_split_by_document_with_near_duplicates_dropped_first(tmp_path):
    texts = paragraphs(40)
    doubled = [text for text in texts for text in (text, text.upper())]
    config = one_file(tmp_path, doubled, validation_share=0.25, test_share=0.1)
    splits = read(config, tmp_path)
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 26,
        "validation": 10,
        "test": 4,
    }
    assert Counter(text for part in splits.values() for text in part) == Counter(texts)
    assert splits["train"] != sorted(splits["train"], key=texts.index), "the order is drawn too"


def test_the_seed_alone_decides_the_split(tmp_path):
    first = read(one_file(tmp_path, paragraphs(40)), tmp_path)
    assert read(one_file(tmp_path, paragraphs(40)), tmp_path) == first
    assert read(one_file(tmp_path, paragraphs(40), split_seed=1), tmp_path) != first
    # Written down: the draw must not change with Python's version or its hash seed.
    assert [int(text.split()[0][1:]) // 10 for text in first["test"]] == [15, 36, 20, 25]


def test_too_few_documents_to_split_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"has 4 documents .* too few to split; give corpus\.valid"):
        read_documents(one_file(tmp_path, paragraphs(4)), tmp_path)


def test_an_empty_file_to_split_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"corpus\.train \(.*all\.jsonl\) holds no text"):
        read_documents(one_file(tmp_path, ["", " \n"]), tmp_path)


def test_the_source_is_known_by_content_not_by_place(tmp_path):
    paths = write_splits(tmp_path, "txt", lambda split: split)
    config = CorpusConfig(source="text", **paths)
    before = describe_source(config)
    moved = tmp_path / "elsewhere.txt"
    (tmp_path / "test.txt").rename(moved)
    config = CorpusConfig(source="text", **{**paths, "test": str(moved)})
    assert describe_source(config) == before
    moved.write_text("tesT")
    after = describe_source(config)
    assert [split for split in SPLITS if before[split] != after[split]] == ["test"]


@pytest.fixture
def saved_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {split: datasets.Dataset.from_dict({"body": [split, "x"]}) for split in SPLITS}
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path / "data"))
    return {"source": "hf", "dataset": str(tmp_path / "data"), "text_field": "body"}


NAMES = {split: split for split in SPLITS}


def test_a_saved_dataset_is_read_by_split_name(tmp_path, saved_dataset):
    config = CorpusConfig(**saved_dataset, **NAMES)
    assert read(config, tmp_path) == {split: [split, "x"] for split in SPLITS}
    assert describe_source(config) == describe_source(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test": "tset"}, r"has no split 'tset'; it has: train, validation, test\."),
        (
            {"text_field": "bdy"},
            r"has no field 'bdy'; did you mean 'body'\? set corpus\.text_field",
        ),
    ],
)
def test_a_saved_dataset_without_split_or_field_is_refused(
    tmp_path, saved_dataset, fields, message
):
    config = CorpusConfig(**{**saved_dataset, **NAMES, **fields})
    with pytest.raises(DataError, match=message):
        read(config, tmp_path)


def test_saved_rows_without_splits_are_split_or_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": paragraphs(20)}).save_to_disk(str(tmp_path / "rows"))
    fields = {"source": "hf", "dataset": str(tmp_path / "rows")}
    parts = read(CorpusConfig(**fields, train="train"), tmp_path)
    assert sorted(text for part in parts.values() for text in part) == sorted(paragraphs(20))
    with pytest.raises(DataError, match=r"holds rows without splits"):
        read(CorpusConfig(**fields, **NAMES), tmp_path)


def test_a_dataset_that_cannot_be_loaded_is_one_line(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(name, config, split, revision):
        raise RuntimeError(f"no way to {name}\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = CorpusConfig(
        source="hf", dataset="nobody/nothing", dataset_revision="a1" * 20, **NAMES
    )
    with pytest.raises(
        DataError, match=r"'nobody/nothing', split 'train', cannot be loaded \(no way"
    ):
        read(config, tmp_path)


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the hub: a dictionary of dataset names and their newest commits.

    A branch or tag stands behind the name, as in `some/name@main`.
    """
    commits = {}

    def dataset_info(api, name, revision):
        return SimpleNamespace(sha=commits[f"{name}@{revision}" if revision else name])

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    _commit.cache_clear()
    yield commits
    _commit.cache_clear()


def test_a_named_dataset_is_known_by_its_newest_commit(hub, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    config = CorpusConfig(source="hf", dataset="some/name", **NAMES)
    hub["some/name"] = "c0ffee"
    before = describe_source(config)
    assert before["revision"] == "c0ffee"
    asked = []

    def load_dataset(name, config, split, revision):
        asked.append(revision)
        return datasets.Dataset.from_dict({"text": [split]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub["some/name"] = "decade"  # a commit between naming and reading
    read(config, tmp_path)
    assert asked == ["c0ffee"] * 3
    _commit.cache_clear()  # the next run
    assert describe_source(config) != before


def test_a_given_commit_asks_no_hub(hub):
    commit = "a1" * 20
    config = CorpusConfig(source="hf", dataset="some/name", dataset_revision=commit, **NAMES)
    assert describe_source(config)["revision"] == commit


def test_a_branch_is_known_by_its_commit(hub):
    config = CorpusConfig(source="hf", dataset="some/name", dataset_revision="main", **NAMES)
    hub["some/name@main"] = "c0ffee"
    assert describe_source(config)["revision"] == "c0ffee"
    hub["some/name@main"] = "decade"
    _commit.cache_clear()  # the next run
    assert describe_source(config)["revision"] == "decade"


def test_other_splits_of_a_dataset_are_another_text(tmp_path, monkeypatch):
    paths = {split: [f"{split} {n}" for n in range(3)] for split in ("train", "test", "more")}
    datasets = pytest.importorskip("datasets")
    rows = {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in paths.items()}
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path / "rows"))
    prints = set()
    for validation, test in (("test", "more"), ("more", "test")):
        corpus = CorpusConfig(
            source="hf",
            dataset=str(tmp_path / "rows"),
            train="train",
            validation=validation,
            test=test,
        )
        prints.add(Job(Experiment(name="any", corpus=corpus), tmp_path).fingerprint("tokens"))
    assert len(prints) == 2


def test_a_named_dataset_without_hub_or_revision_is_refused(hub):
    config = CorpusConfig(source="hf", dataset="some/name", **NAMES)
    with pytest.raises(DataError, match=r"commit of dataset 'some/name'.*corpus\.dataset_revision"):
        describe_source(config)


def test_a_missing_extra_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    config = CorpusConfig(source="hf", dataset="some/name", **NAMES)
    with pytest.raises(MissingExtraError, match=r"pip install 'memdec\[hub\]'"):
        read(config, tmp_path)


def test_the_package_imports_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "pandas", "lightning")
    code = f"import memdec.corpus.tokenize, sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
