import hashlib
import os

import pytest

from memdec.artifacts.fingerprint import FileHashes, fingerprint, hash_file


def test_the_order_of_keys_does_not_matter_and_everything_else_does():
    facts = {"a": 1, "b": [1, 2], "c": {"d": None}}
    name = fingerprint(facts)
    assert name == fingerprint({"c": {"d": None}, "b": [1, 2], "a": 1})
    assert len(name) == 16
    assert int(name, 16) >= 0
    others = [facts | {"a": 2}, facts | {"a": "1"}, facts | {"b": [2, 1]}, facts | {"e": 0}]
    assert len({name, *map(fingerprint, others)}) == 5


def test_what_json_cannot_write_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\xff" * 3)
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"\x00\xff" * 3).hexdigest()


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "memdec.artifacts.fingerprint.hash_file", lambda path: (read.append(path), "h")[1]
    )
    file = tmp_path / "a.txt"
    file.write_text("one")
    cache = tmp_path / "cache.json"
    assert [FileHashes(cache).file(file) for _ in range(2)] == ["h", "h"]  # also across processes
    assert len(read) == 1
    file.write_text("two")
    os.utime(file, ns=(5, 5))
    FileHashes(cache).file(file)
    assert len(read) == 2


def test_a_torn_cache_is_thrown_away(tmp_path):
    (tmp_path / "cache.json").write_text('{"a')
    (tmp_path / "a.txt").write_text("one")
    hashes = FileHashes(tmp_path / "cache.json")
    assert hashes.file(tmp_path / "a.txt") == hashlib.sha256(b"one").hexdigest()


def test_a_folder_is_its_own_files_of_the_named_kinds(tmp_path):
    for folder, name in (("one", "a.json"), ("two", "a.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("same")
    hashes = FileHashes(tmp_path / "cache.json")

    def both():
        return [hashes.folder(tmp_path / folder, (".json",)) for folder in ("one", "two")]

    assert len(set(both())) == 1  # wherever it stands
    (tmp_path / "two" / "readme.md").write_text("not of the kind")
    (tmp_path / "two" / "deeper").mkdir()
    (tmp_path / "two" / "deeper" / "b.json").write_text("not its own")
    assert len(set(both())) == 1
    (tmp_path / "two" / "b.json").write_text("")
    assert len(set(both())) == 2
