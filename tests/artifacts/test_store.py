import multiprocessing
import os
import signal
import threading
import time
from shutil import rmtree

import numpy as np
import pytest

from memdec.artifacts.store import Earlier, Store
from memdec.errors import ArtifactError, DataError

NAME = "0123456789abcdef"
FORK = multiprocessing.get_context("fork")
"""Children need no torch, so that forking the test process is safe."""


def writes(value):
    return lambda out: out.write_array("value", np.array([value]))


def explode(out):
    out.write_array("value", np.array([0]))
    raise RuntimeError("no luck")


def test_an_artifact_is_built_once_and_then_reused(tmp_path):
    store = Store(tmp_path)
    first = store.make("stage", NAME, writes(1))
    again = store.make("stage", NAME, explode)
    assert (first.reused, again.reused) == (False, True)
    assert again.seconds == first.seconds == first.artifact.manifest["provenance"]["seconds"]
    assert again.artifact.array("value").tolist() == [1]


def test_a_build_that_fails_leaves_no_artifact_and_the_next_one_starts_afresh(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="no luck"):
        store.make("stage", NAME, explode)
    assert store.open("stage", NAME) is None

    def looks(out):
        assert list(out.path.iterdir()) == []
        writes(2)(out)

    assert store.make("stage", NAME, looks).artifact.array("value").tolist() == [2]


def test_a_resumable_stage_finds_what_the_failed_attempt_left(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.make("stage", NAME, explode, resumable=True)

    def looks(out):
        assert [path.name for path in out.path.iterdir()] == ["value.npy"]
        writes(3)(out)

    made = store.make("stage", NAME, looks, resumable=True)
    assert made.artifact.array("value").tolist() == [3]


@pytest.mark.parametrize("resumable", [False, True])
def test_refused_work_leaves_nothing_behind(tmp_path, resumable):
    def refuses(out):
        out.write_array("value", np.array([0]))
        raise DataError("such a text will not do")

    with pytest.raises(DataError, match="will not do"):
        Store(tmp_path).make("stage", NAME, refuses, resumable)
    assert sorted(path.suffix for path in (tmp_path / "stage").iterdir()) == [".lock", ".part"]
    assert not list(tmp_path.glob("stage/*.part/*"))


def test_a_refused_resume_loses_nothing(tmp_path):
    def fails_to_load(out):
        raise DataError("no model there, for now")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.make("stage", NAME, works_and_fails, resumable=True)
    with pytest.raises(DataError, match="for now"):
        store.make("stage", NAME, fails_to_load, resumable=True)
    made = store.make("stage", NAME, lambda out: None, resumable=True)
    assert made.artifact.array("value").tolist() == [0]
    assert made.seconds > 0.3


def works_and_fails(out):
    time.sleep(0.3)
    explode(out)


def test_what_a_kill_after_the_rename_left_is_cleared(tmp_path, monkeypatch):
    def scratches(out):
        writes(4)(out)
        out.scratch.mkdir()
        (out.scratch / "last.ckpt").write_text("large")

    def interrupted(path, **_):
        if path.name == "scratch":
            raise KeyboardInterrupt
        rmtree(path, ignore_errors=True)

    store = Store(tmp_path)
    monkeypatch.setattr("memdec.artifacts.artifact.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.make("stage", NAME, scratches, resumable=True)
    monkeypatch.undo()
    folder = store.path("stage", NAME)
    assert (folder / "scratch" / "last.ckpt").is_file()
    assert store.make("stage", NAME, explode).reused
    assert not (folder / "scratch").exists()


def test_the_seconds_of_all_attempts_are_added_up(tmp_path):
    store = Store(tmp_path)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            store.make("stage", NAME, works_and_fails, resumable=True)
    made = store.make("stage", NAME, writes(3), resumable=True)
    assert 0.6 <= made.seconds < 5
    assert made.artifact.manifest["provenance"]["seconds"] == made.seconds
    assert list(made.artifact.manifest["files"]) == ["value.npy"]
    assert not list((tmp_path / "stage").glob("*attempts"))


def test_an_attempt_that_is_thrown_away_does_not_count(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.make("stage", NAME, works_and_fails)
    assert store.make("stage", NAME, writes(3)).seconds < 0.3


def test_a_merge_takes_the_seconds_of_its_shards(tmp_path):
    assert (
        100 <= Store(tmp_path).make("stage", NAME, writes(3), earlier=Earlier(100.0)).seconds < 101
    )


def test_edited_sources_in_any_part_of_the_work_stay_marked(tmp_path, monkeypatch):
    store, edited = Store(tmp_path), [False]
    monkeypatch.setattr("memdec.artifacts.store.provenance", lambda: {"dirty": edited[0]})

    def is_dirty(stage, **options):
        made = store.make(stage, NAME, writes(3), **options).artifact
        return made.manifest["provenance"]["dirty"]

    assert not is_dirty("plain")
    assert is_dirty("merged", earlier=Earlier(1.0, dirty=True))
    for resumable in (True, False):
        stage, edited[0] = f"attempt{resumable}", True
        with pytest.raises(RuntimeError):
            store.make(stage, NAME, explode, resumable=resumable)
        edited[0] = False
        assert is_dirty(stage, resumable=resumable) == resumable  # else it started afresh


def test_a_damaged_artifact_is_not_silently_rebuilt(tmp_path):
    store = Store(tmp_path)
    path = store.make("stage", NAME, writes(1)).artifact.path
    (path / "value.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"value.npy has 0 bytes"):
        store.make("stage", NAME, writes(1))


def build_slowly(root, started, go_on):
    def build(out):
        started.set()
        go_on.wait(30)
        out.write_array("value", np.array([os.getpid()]))

    Store(root).make("stage", NAME, build)


def make_and_report(root, report):
    made = Store(root).make("stage", NAME, writes(-1))
    report.put((made.reused, int(made.artifact.array("value")[0])))


@pytest.fixture
def holder(tmp_path):
    """A process inside a build; (process, the event that lets it finish)."""
    started, go_on = FORK.Event(), FORK.Event()
    process = FORK.Process(target=build_slowly, args=(tmp_path, started, go_on))
    process.start()
    assert started.wait(30)
    yield process, go_on
    process.kill()
    process.join()


def wait_until_it_waits(capfd):
    said = ""
    deadline = time.monotonic() + 30
    while "waiting for" not in said and time.monotonic() < deadline:
        time.sleep(0.02)
        said += capfd.readouterr().err
    return said


def test_a_second_process_says_who_holds_the_lock_waits_and_reuses(tmp_path, holder, capfd):
    process, go_on = holder
    report = FORK.Queue()
    second = FORK.Process(target=make_and_report, args=(tmp_path, report))
    second.start()
    said = wait_until_it_waits(capfd)
    assert f"process {process.pid} on {os.uname().nodename} is building it" in said
    assert said.count("\n") == 1
    assert second.is_alive()
    assert report.empty()
    go_on.set()
    assert report.get(timeout=30) == (True, process.pid)
    second.join()


def test_a_killed_holder_blocks_nobody(tmp_path, holder, capfd):
    process, _ = holder
    report = FORK.Queue()
    second = FORK.Process(target=make_and_report, args=(tmp_path, report))
    second.start()
    assert "waiting for" in wait_until_it_waits(capfd)
    os.kill(process.pid, signal.SIGKILL)
    assert report.get(timeout=30) == (False, -1)  # the waiting one builds it itself
    second.join()


def test_different_artifacts_do_not_wait_for_each_other(tmp_path, holder):
    made = Store(tmp_path).make("stage", "f" * 16, writes(5))
    assert not made.reused


def test_a_follower_works_in_the_leaders_folder_and_opens_what_the_leader_seals(tmp_path, holder):
    process, go_on = holder
    seen = []

    def join_in(out):
        seen.append(out.path)
        go_on.set()

    made = Store(tmp_path).join("stage", NAME, join_in)
    assert seen == [tmp_path / "stage" / f".{NAME}.part"]
    assert made.reused
    assert made.artifact.array("value").tolist() == [process.pid]


def test_a_follower_that_is_first_waits_for_the_leaders_folder(tmp_path):
    seen = []

    def follow():
        Store(tmp_path).join("stage", NAME, lambda out: seen.append(out.path.is_dir()))

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    time.sleep(0.3)
    assert seen == []

    def leads(out):
        wait_for(lambda: seen)
        writes(1)(out)

    Store(tmp_path).make("stage", NAME, leads, resumable=True)
    follower.join(timeout=30)
    assert seen == [True]


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
