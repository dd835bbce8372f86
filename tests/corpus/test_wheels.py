"""fetch_wheel with pip replaced by a recorder: the network is not what is tested here."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from memdec.corpus.wheels import fetch_wheel
from memdec.errors import ConfigError, DataError

CONTENT = b"PK pretend wheel"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "some_data-1.2-py3-none-any.whl"


@pytest.fixture
def pip_calls(monkeypatch):
    """Stand in for `pip download`: write CONTENT into --dest, and keep the commands."""
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        (Path(command[command.index("--dest") + 1]) / NAME).write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_wheel_is_downloaded_once_and_nothing_else_is_left(tmp_path, pip_calls):
    folder = tmp_path / "new" / "downloads"
    first = fetch_wheel("Some.Data==1.2", SHA256, folder)
    assert fetch_wheel("some-data==1.2", SHA256, folder) == first == folder / NAME
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert len(pip_calls) == 1
    assert {"download", "--no-deps", "--only-binary=:all:"} < set(pip_calls[0])
    assert "install" not in pip_calls[0]


def test_a_wheel_put_there_by_hand_needs_no_pip(tmp_path, pip_calls):
    (tmp_path / NAME).write_bytes(CONTENT)
    (tmp_path / "some_data-1.3-py3-none-any.whl").write_bytes(b"another release")
    assert fetch_wheel("some-data==1.2", SHA256, tmp_path) == tmp_path / NAME
    assert pip_calls == []


def test_a_wrong_hash_is_refused_and_the_next_call_fetches_afresh(tmp_path, pip_calls):
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=f"{SHA256} is pinned; it was set aside.*run again"):
        fetch_wheel("some-data==1.2", SHA256, tmp_path)
    assert not (tmp_path / NAME).exists()
    assert (tmp_path / f"{NAME}.rejected").exists()
    assert fetch_wheel("some-data==1.2", SHA256, tmp_path).read_bytes() == CONTENT


def test_a_failing_pip_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    def run(command, **kwargs):
        stderr = "WARNING: Retrying\nERROR: No matching distribution found\n[notice] a new pip\n"
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError) as caught:
        fetch_wheel("some-data==1.2", SHA256, tmp_path)
    expected = (
        "pip could not download some-data==1.2 (No matching distribution found); "
        f"check the network, or put the wheel into {tmp_path} by hand."
    )
    assert str(caught.value) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_requirement_without_a_version_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("NAME==VERSION, got 'some-data'")):
        fetch_wheel("some-data", SHA256, tmp_path)
