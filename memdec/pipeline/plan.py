"""What a run will do before it does it: stages, what is complete, rows, bytes, FLOPs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memdec.artifacts.files import check_disk
from memdec.datastore.neighbors import check_k
from memdec.errors import ConfigError
from memdec.pipeline.builders import LM_TARGET_TOKENS
from memdec.pipeline.job import Job
from memdec.pipeline.model_facts import ModelFacts, read_model_facts
from memdec.pipeline.sizes import Sizes, read_sizes
from memdec.pipeline.stages import STAGES

TARGETS_PER_ROW = 260
"""Stored pairs of a row; PAPER.md gives 251 for GPT-2 at k = 1024."""
CHECKPOINT_BYTES = 12
"""Per parameter: weights and two moments in float32."""
_GEMM_SIZE = 1536


@dataclass(frozen=True)
class StagePlan:
    """One line of the plan."""

    name: str
    label: str
    complete: bool
    rows: int
    num_bytes: int
    """On disk at the worst moment; exact where complete."""
    flops: float


Estimate = Callable[[Sizes], tuple[int, int, float]]
"""Rows, bytes, FLOPs."""


def _scores(s: Sizes, model: ModelFacts) -> tuple[int, int, float]:
    flops = s.scoring("validation", model) + s.scoring("test", model)
    return s.held_out, s.held_out * (2 * model.hidden_size + 40), flops


def _rag(s: Sizes) -> tuple[int, int, float]:
    per_token = s.rag_passes * s.model.body_parameters + s.model.head_parameters
    return s.held_out, 5 * s.held_out, 2.0 * s.held_out * per_token


def _neighbors(s: Sizes) -> tuple[int, int, float]:
    num_rows = s.tokens["train"]
    num_cached = min(s.experiment.knn.k_max, num_rows)
    flops = s.experiment.search.flops(num_rows, s.keys.hidden_size, num_cached)
    return num_rows, num_rows * 8 * num_cached, flops


def _train_scores(s: Sizes) -> tuple[int, int, float]:
    count = s.tokens["train"]
    return count, count * (6 * LM_TARGET_TOKENS + 8), s.scoring("train", s.keys)


def _targets(s: Sizes) -> tuple[int, int, float]:
    knn, num_rows = s.experiment.knn, s.tokens["train"]
    num_pairs = min(knn.k, TARGETS_PER_ROW) + (LM_TARGET_TOKENS if knn.lm_share > 0 else 0)
    return num_rows, num_rows * (8 + 6 * num_pairs), 0.0


def _query_neighbors(s: Sizes) -> tuple[int, int, float]:
    num_rows, k_max = s.tokens["train"], s.experiment.knn.k_max
    flops = s.experiment.search.flops(num_rows, s.keys.hidden_size, k_max, s.held_out)
    return s.held_out, s.held_out * 8 * min(k_max, num_rows), flops


def _mixture(s: Sizes) -> tuple[int, int, float]:
    num_memories = len(s.experiment.memory_mixture.memories)
    num_bytes = (4 * num_memories + 40) * s.held_out
    return s.held_out, num_bytes, num_memories * _scores(s, s.memory)[2]


def _training(stage: str) -> Estimate:
    def estimate(s: Sizes) -> tuple[int, int, float]:
        model = s.memory if stage == "memory" else s.model
        size = model.parameters * (CHECKPOINT_BYTES * 2 + 8)  # last.ckpt old, new, best, export
        # forward, gradients of the inputs, and of what is trained: all, or LoRA's adapters
        epoch = 3 * s.scoring("train", model)
        if stage == "lora":
            trained = s.experiment.lora.budget_parameters or s.memory.parameters
            epoch = 2 * s.scoring("train", model) + 6.0 * trained * s.inputs("train")
        epoch += s.scoring("validation", model)
        return s.tokens["train"], size, s.epochs(stage) * epoch

    return estimate


_ESTIMATES: dict[str, Estimate] = {
    "model": lambda s: (1, 4 * s.model.parameters + (200 << 20), 0.0),
    "tokens": lambda s: (sum(s.tokens.values()), 4 * sum(s.tokens.values()), 0.0),
    "base_scores": lambda s: _scores(s, s.model),
    "datastore": lambda s: (
        s.tokens["train"],
        s.tokens["train"] * (2 * s.keys.hidden_size + 12),
        s.forward("train", s.keys),
    ),
    "neighbors": _neighbors,
    "targets": _targets,
    "train_scores": _train_scores,
    "query_neighbors": _query_neighbors,
    "memory": _training("memory"),
    "memory_scores": lambda s: _scores(s, s.memory),
    "mixture_scores": _mixture,
    "fidelity": lambda s: (s.tokens["test"], 16 * s.tokens["test"], s.scoring("test", s.memory)),
    "dapt": _training("dapt"),
    "dapt_scores": lambda s: _scores(s, s.model),
    "dapt_memory": _training("dapt_memory"),
    "dapt_memory_scores": lambda s: _scores(s, s.model),
    "lora": _training("lora"),
    "lora_scores": lambda s: _scores(s, s.model),
    "rag_scores": _rag,
}


def make_plan(
    job: Job, method_stages: tuple[str, ...], train_tokens: int | None = None
) -> list[StagePlan]:
    """Return the stages that the methods need, in order, with what they take.

    Given `train_tokens`, everything is planned anew for a training text of that size.
    """
    stages = job.required(method_stages)
    sizes = read_sizes(job, train_tokens, stages)
    check_window(job, sizes, stages, job.experiment.model.bos == "always")
    if "datastore" in stages and (train_tokens or job.made("tokens")):  # else it is a guess
        check_k(job.experiment.knn.k, sizes.tokens["train"] - 1)
    if "neighbors" in stages:
        job.experiment.search.check(sizes.tokens["train"], sizes.keys.hidden_size)
    plans: list[StagePlan] = []
    planned: set[str] = set()
    for name in stages:
        if job.fingerprint(name) in planned:  # its twin's artifact
            continue
        planned.add(job.fingerprint(name))
        done = None
        if train_tokens is None:
            done = job.made(name)
        rows, num_bytes, flops = _ESTIMATES[name](sizes)
        plans.append(
            StagePlan(
                name=name,
                label=STAGES[name].label,
                complete=done is not None,
                rows=rows,
                num_bytes=done.num_bytes if done else num_bytes,
                flops=flops,
            )
        )
    return plans


def stage_flops(name: str, sizes: Sizes) -> float:
    """Return what a stage takes at these sizes."""
    return _ESTIMATES[name](sizes)[2]


def check_window(job: Job, sizes: Sizes, stages: Sequence[str], has_bos: bool) -> None:
    """Raise ConfigError where a window, and its BOS, are too long for one of its readers."""
    needed = job.experiment.corpus.block_size + has_bos
    readers = {"the model": sizes.model, "the model of the keys": sizes.keys}
    if {"memory", "memory_scores"} & set(stages):
        readers["the memory"] = sizes.memory
    if "mixture_scores" in stages:
        readers |= {f"memory {path}": read_model_facts(path) for path in job.mixed_memories}
    for name, facts in readers.items():
        if 0 < facts.max_positions < needed:
            raise ConfigError(
                f"corpus.block_size asks for {needed:,} positions but {name} has "
                f"{facts.max_positions:,}; lower it."
            )


def measured_gflops() -> float:
    """Return this machine's speed in float32 matrix products, without loading PyTorch."""
    factor = np.ones((_GEMM_SIZE, _GEMM_SIZE), np.float32)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        factor @ factor
        seconds.append(time.perf_counter() - start)
    return 2e-9 * _GEMM_SIZE**3 / min(seconds)


def check_room(job: Job, plans: list[StagePlan]) -> None:
    """Raise ArtifactError when what is still to be made does not fit on the disk."""
    need = sum(plan.num_bytes for plan in plans if not plan.complete)
    check_disk(job.root, need, "this run")
