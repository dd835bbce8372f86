"""Passages of the training text, and the one that fits a query best by BM25."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memdec.checks import check_extra
from memdec.errors import DataError

Tokens = NDArray[np.uint32]


def cut_passages(
    tokens: Tokens, document_starts: NDArray[np.int64], num_tokens: int, separator_id: int
) -> list[Tokens]:
    """Cut each document into passages of `num_tokens`, the last one shorter; no separators."""
    passages = []
    for document in np.split(tokens, document_starts[1:]):
        stop = len(document)
        if stop and document[-1] == separator_id:
            stop -= 1
        passages += [
            document[start : min(start + num_tokens, stop)] for start in range(0, stop, num_tokens)
        ]
    return passages


class PassageIndex:
    """BM25 (Lucene's, k1 = 1.5, b = 0.75) over the words of passages, without English stopwords."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the passages.

        Raises:
            MissingExtraError: bm25s is not installed.
            DataError: No text has a word to index.
        """
        check_extra("in_context_rag", "rag")
        import bm25s

        words = _words(texts)
        if not any(words):
            raise DataError(
                "in_context_rag: no passage of corpus.train has a word that BM25 indexes (two "
                "letters or more, no stopword); leave the method out for this corpus."
            )
        self._index = bm25s.BM25()
        self._index.index(words, show_progress=False)

    def best(self, queries: Sequence[str]) -> NDArray[np.int32]:
        """Return the best passage of each query (ties to the lower one); -1 where none fits."""
        return np.array([self._best(words) for words in _words(queries)], np.int32)

    def _best(self, words: list[str]) -> int:
        if not words:
            return -1
        scores = self._index.get_scores(words)
        best = int(scores.argmax())
        return best if scores[best] > 0 else -1


def _words(texts: Sequence[str]) -> Any:
    import bm25s

    return bm25s.tokenize(list(texts), return_ids=False, show_progress=False)
