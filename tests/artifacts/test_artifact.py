import hashlib
import json
import os

import numpy as np
import pytest

from memdec.artifacts.artifact import ArtifactWriter, open_artifact
from memdec.errors import ArtifactError

NAME = "0123456789abcdef"


@pytest.fixture
def finished(tmp_path):
    """An artifact with two arrays, a file in a folder, and a fact."""
    writer = ArtifactWriter(tmp_path / ".part")
    writer.clear()
    mapped = writer.array("keys", (3, 2), np.float16)
    mapped[:] = [[1, 2], [3, 4], [5, 6]]
    writer.write_array("values", np.array([7, 8, 9], np.uint32))
    (writer.path / "export").mkdir()
    (writer.path / "export" / "notes.txt").write_text("hello")
    writer.info(num_rows=3)
    return writer.seal(tmp_path / "stage" / NAME, "stage", NAME, {"seconds": 1.0})


def test_what_was_written_is_read_back(finished):
    opened = open_artifact(finished.path, "stage", NAME)
    assert opened.array("keys").tolist() == [[1, 2], [3, 4], [5, 6]]
    assert opened.array("values").dtype == np.uint32
    assert opened.info == {"num_rows": 3}
    assert opened.fingerprint == NAME
    assert not opened.array("keys").flags.writeable
    assert not (finished.path.parents[1] / ".part").exists()


def test_the_manifest_names_sizes_and_hashes_every_file(finished):
    manifest = json.loads((finished.path / "manifest.json").read_text())
    notes = manifest["files"]["export/notes.txt"]
    assert notes["size"] == 5
    assert notes["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert set(manifest["files"]) == {"keys.npy", "values.npy", "export/notes.txt"}
    assert manifest["arrays"] == {
        "keys": {"dtype": "float16", "shape": [3, 2]},
        "values": {"dtype": "uint32", "shape": [3]},
    }
    assert (manifest["schema"], manifest["stage"]) == (1, "stage")
    on_disk = sum((finished.path / name).stat().st_size for name in manifest["files"])
    assert finished.num_bytes == on_disk


def test_an_array_without_rows_is_kept(tmp_path):
    writer = ArtifactWriter(tmp_path / ".part")
    writer.clear()
    writer.array("none", (0, 4), np.float32)
    sealed = writer.seal(tmp_path / "stage" / NAME, "stage", NAME, {})
    assert sealed.array("none").shape == (0, 4)


def test_an_unknown_array_is_refused(finished):
    with pytest.raises(ArtifactError, match="no array 'kyes'"):
        finished.array("kyes")


def truncate(path):
    with (path / "keys.npy").open("r+b") as file:
        file.truncate(100)


def edit(path):
    """Change one byte; the size stays."""
    with (path / "values.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")


def delete(path):
    (path / "export" / "notes.txt").unlink()


def no_manifest(path):
    (path / "manifest.json").unlink()


def torn_manifest(path):
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text[: len(text) // 2])


def foreign_manifest(path):
    facts = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(facts | {"fingerprint": "f" * 16}))


def newer_schema(path):
    facts = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(facts | {"schema": 2}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "keys.npy has 100 bytes, its manifest says 140"),
        (edit, "values.npy was changed"),
        (delete, "export/notes.txt is missing"),
        (no_manifest, "manifest.json is missing or broken"),
        (torn_manifest, "manifest.json is missing or broken"),
        (foreign_manifest, f"is not stage {NAME}"),
        (newer_schema, "schema 2, this version reads 1"),
    ],
)
def test_damage_is_refused_with_one_line_that_says_what_to_delete(finished, damage, says):
    damage(finished.path)
    with pytest.raises(ArtifactError, match=says) as caught:
        open_artifact(finished.path, "stage", NAME)
    assert "\n" not in str(caught.value)
    assert f"delete {finished.path}" in str(caught.value)


@pytest.mark.parametrize("content", ["[1]", '{"files": []}', '{"files": {"keys.npy": 3}}', "null"])
def test_a_manifest_of_another_build_is_refused(finished, content):
    (finished.path / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError):
        open_artifact(finished.path, "stage", NAME)


def test_a_copy_with_other_file_times_is_still_good(finished):
    os.utime(finished.path / "keys.npy", ns=(1, 1))
    assert open_artifact(finished.path, "stage", NAME).array("keys")[2, 1] == 6


def test_a_manifest_left_by_a_kill_before_the_rename_is_not_a_file_of_the_artifact(tmp_path):
    writer = ArtifactWriter(tmp_path / ".part")
    writer.clear()
    writer.write_array("values", np.array([7, 8, 9], np.uint32))
    (writer.path / "manifest.json").write_text("{}")
    writer.seal(tmp_path / "stage" / NAME, "stage", NAME, {"seconds": 1.0})
    opened = open_artifact(tmp_path / "stage" / NAME, "stage", NAME)
    assert list(opened.manifest["files"]) == ["values.npy"]


def test_scratch_survives_until_the_rename_and_is_no_part_of_the_artifact(tmp_path):
    writer = ArtifactWriter(tmp_path / ".part")
    writer.clear()
    writer.scratch.mkdir()
    (writer.scratch / "last.ckpt").write_text("weights")
    writer.write_array("values", np.array([7], np.uint32))
    sealed = writer.seal(tmp_path / "stage" / NAME, "stage", NAME, {"seconds": 1.0})
    assert list(sealed.manifest["files"]) == ["values.npy"]
    assert not (sealed.path / "scratch").exists()
