import shutil
from types import SimpleNamespace

import pytest

from memdec.artifacts.files import RESERVE_BYTES, check_disk, gigabytes, read_json, write_text
from memdec.errors import ArtifactError


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"[1]", b"\xff"])
def test_what_is_no_whole_json_object_reads_as_an_empty_one(tmp_path, content):
    path = tmp_path / "facts.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) == {}
    write_text(path, '{"a": 1}')
    assert read_json(path) == {"a": 1}


@pytest.fixture
def free(monkeypatch):
    """Set the free bytes of every disk; the folders that were asked about are kept."""

    def pretend(count):
        asked = []

        def disk_usage(path):
            asked.append(path)
            return SimpleNamespace(free=count)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        return asked

    return pretend


def test_a_disk_that_is_too_small_is_refused_to_the_byte(tmp_path, free):
    free(RESERVE_BYTES + 999)
    check_disk(tmp_path, 999, "this run")
    with pytest.raises(ArtifactError, match=r"this run needs about 1.0 kB but 67.1 MB are free"):
        check_disk(tmp_path, 1000, "this run")


def test_a_folder_that_is_not_there_yet_is_measured_at_its_parent(tmp_path, free):
    asked = free(10**12)
    check_disk(tmp_path / "not" / "yet", 1, "this run")
    assert asked == [tmp_path]


def test_bytes_for_people():
    assert [gigabytes(n) for n in (0, 999, 1000, 2_500_000, 10**9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.5 MB",
        "1.0 GB",
    ]


def test_text_replaces_the_old_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old and longer")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
