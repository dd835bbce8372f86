import math
import re
import sys

import numpy as np
import pytest

from memdec.datastore.passages import PassageIndex, cut_passages
from memdec.errors import DataError, MissingExtraError

END = 0


def cut(tokens, starts, length):
    cut = cut_passages(np.array(tokens, np.uint32), np.array(starts), length, END)
    return [passage.tolist() for passage in cut]


def test_documents_are_cut_apart_and_lose_their_separator():
    tokens = [1, 2, 3, 4, 5, END, 6, 7, END, END, 8, 9, 1]
    assert cut(tokens, [0, 6, 9, 10], 3) == [[1, 2, 3], [4, 5], [6, 7], [8, 9, 1]]


def test_a_document_that_fills_its_passages_leaves_no_empty_one():
    assert cut([1, 2, 3, 4, END], [0], 2) == [[1, 2], [3, 4]]
    assert cut([1, 2, 3, 4], [0], 9) == [[1, 2, 3, 4]]


TEXTS = [
    "cat dog cat bird",
    "dog dog dog",
    "bird and the fish near the old river bank",
    "fish",
    "fish",
    "",
]


def bm25(query, texts, k1=1.5, b=0.75):
    """Lucene's BM25, word by word; the words 'and' and 'the' are stopwords."""
    bags = [[w for w in re.findall(r"\w\w+", t.lower()) if w not in ("and", "the")] for t in texts]
    mean = sum(map(len, bags)) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for word in re.findall(r"\w\w+", query.lower()):
            holders = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - holders + 0.5) / (holders + 0.5))
            count = bag.count(word)
            score += idf * count / (count + k1 * (1 - b + b * len(bag) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(
    "query", ["dog", "bird", "A Cat, a bird", "river dog dog", "fish bank", "unknown dog"]
)
def test_the_best_passage_has_the_highest_score(query):
    scores = bm25(query, TEXTS)
    assert PassageIndex(TEXTS).best([query]).tolist() == [int(np.argmax(scores))]


def test_a_tie_goes_to_the_lower_passage():
    assert PassageIndex(TEXTS).best(["fish", "fish"]).tolist() == [3, 3]


@pytest.mark.parametrize("query", ["", "the", "?!", "zebra"])
def test_a_query_that_fits_nothing_finds_nothing(query):
    assert PassageIndex(TEXTS).best(["dog", query]).tolist() == [1, -1]


def test_passages_without_a_word_are_refused():
    with pytest.raises(DataError, match="has a word that BM25 indexes"):
        PassageIndex(["1 2 3", "the"])


def test_a_missing_bm25s_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"needs bm25s: .*'memdec\[rag\]'"):
        PassageIndex(TEXTS)
