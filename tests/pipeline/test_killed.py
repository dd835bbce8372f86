"""SIGKILL at chosen moments, the same command again: the same bytes as an undisturbed run."""

import json
import shutil

import pytest

SEAL = "memdec.artifacts.artifact:ArtifactWriter.seal"
WRITE = "memdec.artifacts.artifact:ArtifactWriter.write_array"
MAP = "memdec.artifacts.artifact:ArtifactWriter.array"
MANIFEST = "memdec.artifacts.artifact:write_text"
TRAIN = "memdec.training.memory_module:MemoryModule.training_step"
VALIDATE = "memdec.training.memory_module:MemoryModule.on_validation_epoch_end"
EXPORT = "memdec.models.memory:MemoryDecoder.export"
SAVE = "memdec.training.fit:AtomicCheckpoints.save_checkpoint"
SYNC = "memdec.training.fit:sync"


def finished_stages(folder):
    return {path.parent.parent.name for path in folder.glob("artifacts/*/[!.]*/manifest.json")}


def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(finished, memdec, contents, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "tiny.yaml", folder)
    moments = [
        ("tokens", {"at": WRITE, "call": 3}),
        ("base_scores", {"at": MAP, "call": 4}),
        ("datastore", {"at": WRITE, "call": 2, "after": True}),
        ("query_neighbors", {"at": MAP, "call": 3}),
        ("neighbors", {"at": MAP, "call": 2, "after": True}),
        ("targets", {"at": SEAL}),
        ("memory", {"at": SEAL}),
        ("memory_scores", {"at": MAP, "call": 1, "after": True}),
    ]
    for stage, moment in moments:
        ended = memdec("run", "tiny.yaml", cwd=folder, kill=moment | {"stage": stage})
        assert ended.code == -9, (stage, ended)
        assert stage not in finished_stages(folder)
    ended = memdec("run", "tiny.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    assert contents(folder) == contents(finished)
    assert not list(folder.glob("artifacts/*/.*.part"))


@pytest.fixture
def untrained(finished, tmp_path):
    """A copy of a finished run without memory and records."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("memory", "memory_scores", "runs"):
        shutil.rmtree(folder / "artifacts" / name)
    return folder


@pytest.mark.parametrize(
    "moment",
    [
        {"at": TRAIN, "call": 4},  # before there is a checkpoint
        {"at": TRAIN, "call": 10},  # between two passes of a step
        {"at": SYNC, "call": 2, "after": True},  # a checkpoint written aside, not in place
        {"at": VALIDATE, "call": 1},  # right after an epoch's last step
        {"at": SAVE, "call": 5, "after": True},  # best.ckpt is there, last.ckpt is older
        {"at": TRAIN, "call": 27, "after": True},  # in the second epoch
        {"at": EXPORT, "after": True},  # trained, exported, not sealed
        {"at": MANIFEST, "after": True},  # all written, not yet renamed
    ],
    ids=lambda moment: f"{moment['at'].rsplit('.')[-1]}-{moment.get('call', 1)}",
)
def test_a_killed_training_goes_on_to_the_same_weights(
    moment, untrained, finished, memdec, contents
):
    ended = memdec("run", "tiny.yaml", cwd=untrained, kill=moment)
    assert ended.code == -9, ended
    assert "memory" not in finished_stages(untrained)
    ended = memdec("run", "tiny.yaml", cwd=untrained)
    assert ended.code == 0, ended.err
    assert contents(untrained) == contents(finished)


def test_killed_again_and_again(untrained, finished, memdec, contents):
    for call in (8, 9, 10):
        kill = {"at": TRAIN, "call": call}
        ended = memdec("run", "tiny.yaml", cwd=untrained, kill=kill)
        assert ended.code == -9, ended
    ended = memdec("run", "tiny.yaml", cwd=untrained)
    assert ended.code == 0, ended.err
    assert contents(untrained) == contents(finished)


def test_a_killed_run_leaves_no_torn_record(untrained, memdec):
    kill = {"at": "memdec.artifacts.files:sync", "call": 1}
    run = memdec("run", "tiny.yaml", "methods=[base]", cwd=untrained, kill=kill)
    assert run.code == -9, run
    assert not list(untrained.glob("artifacts/runs/*/*/record.json"))
    assert memdec("run", "tiny.yaml", "methods=[base]", cwd=untrained).code == 0
    (path,) = untrained.glob("artifacts/runs/*/*/record.json")
    assert json.loads(path.read_text())["status"] == "complete"
