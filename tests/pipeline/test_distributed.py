import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def start(folder, strategy):
    command = [Path(sys.executable).with_name("memdec"), "run", "tiny.yaml"]
    command += ["methods=[memory_decoder]", "trainer.devices=2", f"trainer.strategy={strategy}"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(run):
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    return out


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def strategy(request):
    return request.param


@pytest.fixture(scope="module")
def both(finished, tmp_path_factory, strategy):
    """Train once more, in two processes that Lightning starts, beside the finished run of one."""
    folder = tmp_path_factory.mktemp(strategy) / "run"
    shutil.copytree(finished, folder)
    # the follower prints no table
    assert finish(start(folder, strategy)).count("test perplexity") == 1
    return folder


def test_two_processes_learn_what_one_learns(both):
    alone, together = (
        next(r for r in load(both) if r["config"]["trainer"]["devices"] == devices)
        for devices in (1, 2)
    )
    # The same windows in each step; only the order of float32 sums differs, and Adam enlarges it.
    for split in ("validation", "test"):
        key = f"{split}/perplexity"
        assert together["metrics"][key] == pytest.approx(alone["metrics"][key], rel=2e-3)
    curves = [record["curves"]["validation"] for record in (alone, together)]
    assert curves[0]["step"] == curves[1]["step"]
    assert curves[0]["validation/perplexity"] == pytest.approx(
        curves[1]["validation/perplexity"], rel=2e-3
    )
    assert together["budget"]["train_tokens"] == alone["budget"]["train_tokens"]


def test_killed_processes_go_on_to_the_same_weights(both, finished, strategy, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    run, saved = start(folder, strategy), []
    while not saved:
        assert run.poll() is None, run.stderr.read()
        saved = list((folder / "artifacts/memory").glob(".*/scratch/last.ckpt"))
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert len(exports(folder)) == 1, "it was done before it was killed"
    finish(start(folder, strategy))
    assert exports(folder) == exports(both)


def exports(folder):
    """Return the weights of each memory by its fingerprint."""
    files = folder.glob("artifacts/memory/[!.]*/export/model.safetensors")
    return {path.parts[-3]: path.read_bytes() for path in files}


def load(folder):
    paths = folder.glob("artifacts/runs/*/memory_decoder/record.json")
    return [json.loads(path.read_text()) for path in paths]
