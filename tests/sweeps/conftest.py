"""A double of the W&B server, and a tiny experiment for real runs."""

import os
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # for wandb_double, which no package holds

BIN = str(Path(sys.executable).parent)


@pytest.fixture
def double():
    """Return a running double of the W&B server."""
    from wandb_double import WandbDouble

    with WandbDouble() as served:
        yield served


@pytest.fixture
def environment(double, tmp_path):
    """Return the variables for wandb's binaries: the double, and nothing of this machine's own."""
    return {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")} | {
        **double.environment(),
        "PATH": os.pathsep.join([BIN, os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_DIR": str(tmp_path),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "MEMDEC_ARTIFACTS": str(tmp_path / "artifacts"),
    }


@pytest.fixture
def tiny_experiment(tiny_model, sentences, tmp_path):
    """Write tiny.yaml, which trains a memory for a random model in a second or two."""
    for seed, split in enumerate(("train", "validation", "test")):
        text = "\n\n".join(sentences(12, 10 * seed + number) for number in range(3))
        (tmp_path / f"{split}.txt").write_text(text)
    corpus = {"source": "text", "document_split": "blank_line", "max_overlap": 1.0}
    corpus |= {split: f"{split}.txt" for split in ("train", "validation", "test")}
    content = {
        "name": "tiny",
        "scale": "smoke",
        "methods": ["base", "memory_decoder"],
        "corpus": corpus | {"block_size": 32, "stride": 16, "train_stride": 32},
        "model": {"source": str(tiny_model("llama"))},
        "knn": {"k": 8, "k_max": 9000, "temperature": 1.0},
        "trainer": {"learning_rate": 1.0e-3, "batch_size": 4, "micro_batch_size": 4},
        "evaluation": {"bootstrap_samples": 10, "curve_points": 5, "example_tokens": 0},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return tmp_path
