"""The tokens artifact of a toy tokenizer: one token a character, its code point."""

import numpy as np
import pytest

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.config import CorpusConfig
from memdec.corpus.tokenize import tokenize_corpus
from memdec.errors import DataError

SEPARATOR = 3
TEXTS = {
    "train": "first train document here now\n\nsecond ünit\n",
    "validation": "words to validate with",
    "test": "words that are held out\n\nof it all",
}


@pytest.fixture
def writer(tmp_path):
    out = ArtifactWriter(tmp_path / "part")
    out.clear()
    return out


def tokenize(out, folder, texts=TEXTS, vocab_size=1 << 20, **fields):
    paths = {}
    for split, text in texts.items():
        (folder / f"{split}.txt").write_text(text)
        paths[split] = str(folder / f"{split}.txt")
    fields = {"block_size": 8, "stride": 4, "train_stride": 4, **fields}
    config = CorpusConfig(source="text", document_split="blank_line", **paths, **fields)
    tokenize_corpus(
        out,
        config,
        lambda batch: [[ord(character) for character in text] for text in batch],
        SEPARATOR,
        vocab_size=vocab_size,
        count_characters=lambda text, num_tokens: num_tokens,
        tokenizer_hash="0123abcd",
        downloads=folder,
    )
    return out.seal(folder / "final", "tokens", "f" * 16, {"seconds": 0.0})


def test_the_artifact_follows_the_contract(writer, tmp_path):
    artifact = tokenize(writer, tmp_path, max_test_tokens=30)
    assert {name: entry["dtype"] for name, entry in artifact.manifest["arrays"].items()} == {
        f"{split}_{name}": dtype
        for split in TEXTS
        for name, dtype in (("tokens", "uint32"), ("document_starts", "int64"))
    }
    train = [ord(c) for c in "first train document here now"]
    second = [ord(c) for c in "second ünit\n"]
    expected = [*train, SEPARATOR, *second, SEPARATOR]
    np.testing.assert_array_equal(artifact.array("train_tokens"), expected)
    np.testing.assert_array_equal(artifact.array("train_document_starts"), [0, len(train) + 1])
    assert artifact.info == {
        "train": {"num_tokens": 43, "num_documents": 2, "num_bytes": 42},
        "validation": {"num_tokens": 23, "num_documents": 1, "num_bytes": 22},
        "test": {"num_tokens": 30, "num_documents": 2, "num_bytes": 29},
        "separator_id": SEPARATOR,
        "tokenizer_hash": "0123abcd",
        "train_test_overlap": {"test_documents": 2, "exact": 0, "near": 0},
        "validation_test_overlap": {"test_documents": 2, "exact": 0, "near": 0},
    }


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_text_is_refused(writer, tmp_path, split):
    with pytest.raises(DataError, match=rf"corpus\.{split} \(.*{split}\.txt\) holds no text"):
        tokenize(writer, tmp_path, {**TEXTS, split: " \n\n"})


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_token_that_the_model_lacks_is_refused(writer, tmp_path, split):
    texts = {**TEXTS, split: TEXTS[split] + " \u0400"}
    with pytest.raises(DataError, match=f"^{split} text has token 1024, but the model has 1,024"):
        tokenize(writer, tmp_path, texts, vocab_size=1024)
    tokenize(writer, tmp_path, texts, vocab_size=1025)


def test_a_split_shorter_than_one_window_is_refused(writer, tmp_path):
    with pytest.raises(DataError, match=r"validation split has 8 tokens but one window needs 9"):
        tokenize(writer, tmp_path, {**TEXTS, "validation": "1234567"})


@pytest.mark.parametrize(("split", "other"), [("train", "validation"), ("validation", "train")])
def test_shared_documents_are_counted_and_too_many_are_refused(writer, tmp_path, split, other):
    shared = "one two three four five six seven eight nine ten"
    texts = {
        split: f"{shared}\n\nsomething else again",
        other: TEXTS[other],
        "test": f"{shared}\n\n{shared.upper()} eleven\n\nnew words only\n\nmore new ones",
    }
    with pytest.raises(DataError) as caught:
        tokenize(writer, tmp_path, texts, max_overlap=0.49)
    message = str(caught.value)
    assert message.startswith(
        f"2 of 4 test documents also stand in {split}, 1 of them word for word"
    )
    assert "corpus.max_overlap (0.49)" in message
    artifact = tokenize(writer, tmp_path, texts, max_overlap=0.5)
    assert artifact.info[f"{split}_test_overlap"] == {"test_documents": 4, "exact": 1, "near": 2}
    assert artifact.info[f"{other}_test_overlap"] == {"test_documents": 4, "exact": 0, "near": 0}


def test_documents_beyond_the_limits_do_not_count_as_shared(writer, tmp_path):
    texts = {**TEXTS, "train": f"{TEXTS['train']}\n\n{TEXTS['test']}"}
    artifact = tokenize(writer, tmp_path, texts, max_train_tokens=40)
    assert artifact.info["train_test_overlap"]["near"] == 0
