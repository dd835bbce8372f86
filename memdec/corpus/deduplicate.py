"""Near duplicates: two texts of which the smaller has half its 5-word shingles in the other.

A text below 20 shingles counts as 20, or as the other where that is shorter: a phrase is no copy
of the long text that it stands in.

The search is exact, by an inverted index of shingles; no sketch, so nothing is missed. On the
1,386 licence texts of the demo it takes about five seconds.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain

from memdec.corpus.pieces import split_long

CONTAINMENT = 0.5
"""Share of the smaller text's shingles that makes a pair near duplicates."""
LEAST_SHINGLES = 20
"""What the smaller text counts as where it has fewer."""
SHINGLE_WORDS = 5

_WORD = re.compile(r"\w+")

Shingle = tuple[str, ...]


def shingles(text: str) -> set[Shingle]:
    """Return the runs of 5 lower-case words in `text`; a shorter text is one run, an empty none."""
    words = _WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return {tuple(words)} if words else set()
    return set(zip(*(words[i:] for i in range(SHINGLE_WORDS)), strict=False))


class ShingleIndex:
    """Texts that can be asked for the near duplicates of another."""

    def __init__(self, whole_phrases: bool = False) -> None:
        """Start empty; with `whole_phrases` a phrase added is a copy of what it stands in."""
        self._whole_phrases = whole_phrases
        self._texts_with: defaultdict[Shingle, list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, text: str) -> None:
        """Add a text; its number is how many were added before."""
        found = set().union(*map(shingles, split_long(text)))
        for shingle in found:
            self._texts_with[shingle].append(len(self._sizes))
        self._sizes.append(len(found))

    def _counted(self, asked: int, added: int) -> int:
        """Return the shingles of which half make a near duplicate: those of the smaller text."""
        if self._whole_phrases and added <= asked:
            return added
        return max(min(asked, added), min(LEAST_SHINGLES, max(asked, added)))

    def near_duplicates(self, text: str) -> list[int]:
        """Return the numbers of the texts that are near duplicates of `text`, ascending."""
        shared: set[Shingle] = set()
        size = 0
        # Above one piece (a million characters) size counts repeats of a shingle in two pieces; it
        # matters only when the text in the index is as long.
        for piece in split_long(text):
            found = shingles(piece)
            size += len(found)
            shared |= found & self._texts_with.keys()
        counts = Counter(chain.from_iterable(self._texts_with[shingle] for shingle in shared))
        return sorted(
            number
            for number, count in counts.items()
            if count >= CONTAINMENT * self._counted(size, self._sizes[number])
        )


def drop_near_duplicates(texts: Iterable[str]) -> list[str]:
    """Keep each text that is no near duplicate of one kept before it, in order."""
    index = ShingleIndex()
    kept = []
    for text in texts:
        if not index.near_duplicates(text):
            index.add(text)
            kept.append(text)
    return kept


class Overlap:
    """Count the test documents that also stand in another split; all of test first."""

    def __init__(self) -> None:
        self._test = ShingleIndex(whole_phrases=True)
        self._numbers: defaultdict[str, set[int]] = defaultdict(set)
        self._exact: defaultdict[str, set[int]] = defaultdict(set)
        self._near: defaultdict[str, set[int]] = defaultdict(set)

    def add_test_document(self, text: str) -> None:
        """Add a document to look for."""
        self._numbers[text].add(len(self._test))
        self._test.add(text)

    def add_document(self, split: str, text: str) -> None:
        """Mark the test documents that `text` of another split repeats, exactly or nearly."""
        exact = self._numbers.get(text, set())
        self._exact[split] |= exact
        self._near[split] |= exact.union(self._test.near_duplicates(text))

    def share(self, split: str) -> float:
        """Return the share of the test documents that have a near duplicate in the split."""
        return len(self._near[split]) / max(1, len(self._test))

    def facts(self, split: str) -> dict[str, int]:
        """Return how many test documents there are, and have an exact or a near twin there."""
        return {
            "test_documents": len(self._test),
            "exact": len(self._exact[split]),
            "near": len(self._near[split]),
        }
