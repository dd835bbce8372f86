import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def both(finished, tmp_path_factory):
    """Train once more, in two processes that Lightning starts, beside the finished run of one."""
    folder = tmp_path_factory.mktemp("ddp") / "run"
    shutil.copytree(finished, folder)
    command = [Path(sys.executable).with_name("memdec"), "run", "tiny.yaml"]
    command += ["methods=[memory_decoder]", "trainer.devices=2", "trainer.strategy=ddp"]
    ended = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("test perplexity") == 1  # the follower prints no table
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


def load(folder):
    paths = folder.glob("artifacts/runs/*/memory_decoder/record.json")
    return [json.loads(path.read_text()) for path in paths]
