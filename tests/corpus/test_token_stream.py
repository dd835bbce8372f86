"""Token streams of a toy tokenizer in which one token is one letter (or half of a wide one)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdec.corpus.pieces import PIECE_CHARACTERS, split_long
from memdec.corpus.token_stream import TokenStream, fill_stream

SEPARATOR = 7


def encode(texts):
    """Give each character the tokens of its UTF-8 bytes, as a byte-level tokenizer would."""
    return [[256 + byte for byte in text.encode()] for text in texts]


def count_characters(text, num_tokens):
    """Count a character as covered when any of its bytes is."""
    num_bytes = 0
    for covered, character in enumerate(text):
        if num_bytes >= num_tokens:
            return covered
        num_bytes += len(character.encode())
    return len(text)


def fill(documents, limit=0, on_document=lambda text: None):
    stream = TokenStream(limit=limit, separator_id=SEPARATOR, count_characters=count_characters)
    fill_stream(stream, documents, encode, "tokenize test", on_document)
    return stream


def tokens_of(text):
    return encode([text])[0]


def test_every_document_is_followed_by_the_separator():
    stream = fill(["abc", "de"])
    assert list(stream.tokens) == [*tokens_of("abc"), SEPARATOR, *tokens_of("de"), SEPARATOR]
    assert list(stream.document_starts) == [0, 4]
    assert stream.num_bytes == 5


@pytest.mark.parametrize(
    ("limit", "tokens", "starts", "num_bytes", "kept"),
    [
        (2, [*b"ab"], [0], 2, ["ab"]),
        (3, [*b"abc"], [0], 3, ["abc"]),  # whole, but no room for its separator
        (4, [*b"abc", None], [0], 3, ["abc"]),  # the next document is not begun
        (5, [*b"abc", None, *b"d"], [0, 4], 4, ["abc", "d"]),
        (9, [*b"abc", None, *b"de", None], [0, 4], 5, ["abc", "de"]),
    ],
)
def test_the_last_document_is_cut_at_the_limit(limit, tokens, starts, num_bytes, kept):
    seen = []
    stream = fill(["abc", "de"], limit, seen.append)
    expected = [SEPARATOR if token is None else token + 256 for token in tokens]
    assert list(stream.tokens) == expected
    assert list(stream.document_starts) == starts
    assert stream.num_bytes == num_bytes
    assert seen == kept


def test_a_character_that_the_cut_falls_into_counts_whole():
    stream = fill(["aéb"], limit=2)
    assert list(stream.tokens) == tokens_of("aé")[:2]
    assert stream.num_bytes == 3


def test_little_more_is_read_and_encoded_than_is_kept():
    read = []

    def documents():
        for number in range(100):
            read.append(number)
            yield "x" * (PIECE_CHARACTERS // 4)

    fill(documents(), limit=10)
    assert read == [0, 1, 2, 3]


def test_a_long_document_is_one_document_and_is_cut_in_any_piece():
    line = "y" * 99_999 + "\n"
    text = line * 25
    seen = []
    stream = fill(["ab", text, "cd"], on_document=seen.append)
    assert list(stream.document_starts) == [0, 3, 3 + len(text) + 1]
    assert list(stream.tokens[3:-4]) == tokens_of(text)
    assert seen == ["ab", text, "cd"]
    cut = fill(["ab", text, "cd"], limit=2_000_000)
    assert list(cut.tokens) == list(stream.tokens[:2_000_000])
    assert cut.num_bytes == 2_000_000 - 1
    assert list(cut.document_starts) == [0, 3]


@given(st.lists(st.text(max_size=9), max_size=6), st.integers(1, 40))
def test_a_limit_keeps_a_prefix_of_the_whole_stream(documents, limit):
    whole, cut = fill(documents), fill(documents, limit)
    assert list(cut.tokens) == list(whole.tokens[:limit])
    starts = [start for start in whole.document_starts if start < limit]
    assert list(cut.document_starts) == starts
    text = "".join(documents).encode()
    assert whole.num_bytes == len(text)
    separators = sum(token == SEPARATOR for token in cut.tokens)
    assert 0 <= cut.num_bytes - (len(cut.tokens) - separators) <= 3


@given(st.text(alphabet="ab\n", max_size=40), st.integers(1, 9))
def test_pieces_join_to_the_text_and_keep_to_the_limit(text, limit):
    pieces = list(split_long(text, limit))
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)
    for piece in pieces[:-1]:
        assert piece.endswith("\n") or (len(piece) == limit and "\n" not in piece)
