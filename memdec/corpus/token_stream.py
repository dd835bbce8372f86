"""One split as a flat token stream: whole documents in order until a limit, the last one cut."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from memdec.corpus.pieces import PIECE_CHARACTERS, split_long
from memdec.progress import track

Encode = Callable[[list[str]], list[list[int]]]
"""Token ids of each text, without special tokens."""
CountCharacters = Callable[[str, int], int]
"""(text, n) -> how many leading characters of the text its first n tokens cover."""


@dataclass(kw_only=True)
class TokenStream:
    """The tokens of a split and the facts about the text they stand for."""

    limit: int
    """Most tokens, separators included; 0 for no limit."""
    separator_id: int
    """Follows each document; not the last one when the limit leaves no room."""
    count_characters: CountCharacters
    tokens: "array[int]" = field(default_factory=lambda: array("I"))
    document_starts: "array[int]" = field(default_factory=lambda: array("q"))
    num_bytes: int = 0
    """UTF-8 bytes of the kept text; separators count none, a character cut in two counts whole."""

    @property
    def is_full(self) -> bool:
        """Tell whether the limit is reached."""
        return 0 < self.limit <= len(self.tokens)

    def add(self, piece: str, ids: list[int], starts: bool, ends: bool) -> str:
        """Append a piece of a document, cut to the room there is, and return the text kept.

        `starts` and `ends` say whether it is its document's first and last piece.
        """
        if starts:
            self.document_starts.append(len(self.tokens))
        room = self.limit - len(self.tokens) if self.limit else len(ids) + 1
        if len(ids) > room:
            piece = piece[: self.count_characters(piece, room)]
        self.tokens.extend(ids[:room])
        if ends and len(ids) < room:
            self.tokens.append(self.separator_id)
        self.num_bytes += len(piece.encode())
        return piece


def fill_stream(
    stream: TokenStream,
    documents: Iterable[str],
    encode: Encode,
    label: str,
    on_document: Callable[[str], None] = lambda text: None,
) -> None:
    """Encode documents into the stream until it is full, passing each kept text to `on_document`.

    Little more is read and encoded than is kept. `label` names the progress bar.
    """
    total, unit = stream.limit, "tokens"
    if not stream.limit:
        documents = list(documents)
        total, unit = sum(map(len, documents)), "characters"
    kept: list[str] = []
    with track(total, unit, label) as advance:
        for piece, ids, starts, ends in _encode_pieces(documents, encode):
            before = len(stream.tokens)
            kept.append(stream.add(piece, ids, starts, ends))
            advance(len(stream.tokens) - before if stream.limit else len(piece))
            if ends or stream.is_full:
                on_document("".join(kept))
                kept.clear()
            if stream.is_full:
                return


def _encode_pieces(
    documents: Iterable[str], encode: Encode
) -> Iterator[tuple[str, list[int], bool, bool]]:
    """Yield each piece of each document with its ids, and whether it starts and ends the document.

    Only documents above a million characters have more than one piece; tokens never span two.
    """
    batch: list[tuple[str, bool, bool]] = []
    num_characters = 0
    for text in documents:
        start = 0
        for piece in split_long(text):
            batch.append((piece, start == 0, start + len(piece) == len(text)))
            start += len(piece)
            num_characters += len(piece)
            if num_characters >= PIECE_CHARACTERS:
                yield from _encode_batch(batch, encode)
                batch, num_characters = [], 0
    yield from _encode_batch(batch, encode)


def _encode_batch(
    batch: list[tuple[str, bool, bool]], encode: Encode
) -> Iterator[tuple[str, list[int], bool, bool]]:
    all_ids = encode([piece for piece, _, _ in batch]) if batch else []
    for (piece, starts, ends), ids in zip(batch, all_ids, strict=True):
        yield piece, ids, starts, ends
