"""Long texts in bounded pieces, so that memory does not grow with a document."""

from collections.abc import Iterator

PIECE_CHARACTERS = 1 << 20


def split_long(text: str, limit: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Yield `text` in pieces of at most `limit` characters which join to it, cut at line ends.

    A stretch of `limit` characters without a line end is cut where it is.
    """
    start = 0
    while len(text) - start > limit:
        end = text.rfind("\n", start, start + limit) + 1 or start + limit
        yield text[start:end]
        start = end
    yield text[start:]
