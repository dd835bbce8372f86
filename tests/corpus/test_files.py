import gzip
import json

import pytest

from memdec.corpus.files import read_json_lines, read_text_files, resolve_files
from memdec.errors import DataError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_pattern_gives_its_files_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        write(tmp_path / name, name)
    (tmp_path / "z.txt").mkdir()
    files = resolve_files("corpus.train", f"{tmp_path}/*.txt")
    assert [path.name for path in files] == ["a.txt", "b.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    odd = write(tmp_path / "notes[1].txt", "x")
    assert resolve_files("corpus.train", str(odd)) == [odd]


def test_a_missing_file_an_empty_pattern_and_a_folder_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"corpus\.train is '.*nowhere\.txt', where there is no file"
    ):
        resolve_files("corpus.train", str(tmp_path / "nowhere.txt"))
    with pytest.raises(DataError, match="check the path or pattern"):
        resolve_files("corpus.test", f"{tmp_path}/*.txt")
    with pytest.raises(DataError, match=r"corpus\.test is the folder .*such as .*\*\.txt"):
        resolve_files("corpus.test", str(tmp_path))


def test_text_is_one_document_a_file_without_mark_and_carriage_returns(tmp_path):
    first = write(tmp_path / "a.txt", "\ufeffone\r\n\r\ntwo\r\n")
    second = write(tmp_path / "b.txt", "three")
    assert list(read_text_files([first, second], "file")) == ["one\n\ntwo\n", "three"]


def test_text_is_cut_at_blank_lines_and_keeps_its_indent(tmp_path):
    path = write(tmp_path / "a.txt", "one\nmore\n \t\n\n  two\n\n\nthree")
    assert list(read_text_files([path], "blank_line")) == ["one\nmore", "  two", "three"]


def test_text_may_be_gzipped(tmp_path):
    path = write(tmp_path / "a.txt.gz", gzip.compress("größer".encode()))
    assert list(read_text_files([path], "file")) == ["größer"]


def test_text_that_is_not_utf8_names_file_and_byte_offset(tmp_path):
    path = write(tmp_path / "latin.txt", "größer".encode("latin1"))
    with pytest.raises(DataError) as caught:
        list(read_text_files([path], "file"))
    assert f"{path} is not UTF-8: byte 0xf6 at offset 2;" in one_line(caught)


LINES = [{"text": "one\ntwo", "id": 1}, {"text": "größer"}, {"text": ""}]


@pytest.mark.parametrize("zipped", [False, True])
def test_json_lines_plain_and_gzipped_are_told_apart_by_content(tmp_path, zipped):
    content = ("\n".join(json.dumps(line) for line in LINES) + "\n\n").encode()
    path = write(tmp_path / "data", gzip.compress(content) if zipped else content)
    assert list(read_json_lines([path, path], "text")) == ["one\ntwo", "größer", ""] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "is not JSON (Expecting ',' delimiter, column 13); each line must hold"),
        ("plain words", "is not JSON (Expecting value, column 1)"),
        ('["a"]', "holds a list; each line must hold an object with a field 'text'"),
        ("null", "holds null; each line"),
        ('{"texts": "a", "id": 7}', "has no field 'text'; did you mean 'texts'? set "),
        ('{"body": 1, "id": 7}', "has no field 'text'; set corpus.text_field to one of: body, id."),
        ("{}", "set corpus.text_field to one of: (there is none)"),
        ('{"text": 5}', "field 'text' holds a number; it must hold a string"),
        ('{"text": null}', "field 'text' holds null"),
        ('{"text": true}', "field 'text' holds true or false"),
        (r'{"text": "ab\ud800"}', "holds half a character (a lone surrogate) at index 2"),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line, message):
    path = write(tmp_path / "data.jsonl", '{"text": "good"}\n\n' + line + "\n")
    rows = read_json_lines([path], "text")
    assert next(rows) == "good"
    with pytest.raises(DataError) as caught:
        next(rows)
    assert one_line(caught).startswith(f"{path}:3")
    assert message in one_line(caught)


def test_a_json_line_that_is_not_utf8_names_the_offset_in_the_file(tmp_path):
    path = write(tmp_path / "data.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"data\.jsonl is not UTF-8: byte 0xff at offset 24;"):
        list(read_json_lines([path], "text"))


@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_a_damaged_gzip_file_is_one_line(tmp_path, damage):
    content = gzip.compress(b'{"text": "a"}\n' * 1000)
    content = content[:-20] if damage == "cut" else content[:12] + b"\xff" * 8 + content[20:]
    path = write(tmp_path / "data.jsonl.gz", content)
    with pytest.raises(DataError, match=r"data\.jsonl\.gz is a damaged gzip file") as caught:
        list(read_json_lines([path], "text"))
    assert one_line(caught)
