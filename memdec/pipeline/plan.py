"""What a run will do before it does it: stages, what is complete, rows, bytes, FLOPs."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from memdec.artifacts.files import check_disk
from memdec.corpus.config import SPLITS, CorpusConfig
from memdec.corpus.files import resolve_files
from memdec.datastore.search_config import SearchConfig
from memdec.errors import ConfigError
from memdec.pipeline.builders import LM_TARGET_TOKENS, load_tokenizer_of
from memdec.pipeline.job import Job
from memdec.pipeline.model_facts import (
    EMBEDDED_FACTS,
    ModelFacts,
    guess_model_facts,
    read_model_facts,
)
from memdec.pipeline.model_source import ModelSource
from memdec.pipeline.stages import STAGES
from memdec.training.config import TrainerConfig

BYTES_PER_TOKEN = 4
"""Of English text, for a corpus that is not tokenized yet."""
UNKNOWN_SOURCE_BYTES = 10_000_000
"""Text of a package or a hub dataset, before it is read."""
TARGETS_PER_ROW = 260
"""Stored pairs of a row; PAPER.md gives 251 for GPT-2 at k = 1024."""
CHECKPOINT_BYTES = 12
"""Per parameter: weights and two moments in float32."""
RAG_SHARE = 0.27
"""Inputs of in-context RAG, by those of a pass a query: 0.24 to 0.28 on three domains."""
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


@dataclass(frozen=True)
class Sizes:
    """The numbers that all estimates are made of."""

    tokens: dict[str, int]
    """Tokens of each split."""
    model: ModelFacts
    """The base."""
    keys: ModelFacts
    """The model whose hidden states are the keys."""
    memory: ModelFacts
    passes: dict[str, float]
    """Input tokens of a pass over a split for each of its tokens: windows overlap."""
    k: int
    k_max: int
    search: SearchConfig
    lm_targets: int
    """Most pairs that a language model adds to a target."""
    num_memories: int
    """Of a mixture."""
    rag_passes: float
    """As passes, once the groups of a window that find one passage share theirs."""
    epochs: dict[str, float]
    """Of each stage that trains, at most."""

    @property
    def held_out(self) -> int:
        """Tokens of validation and test."""
        return self.tokens["validation"] + self.tokens["test"]

    def forward(self, split: str, model: ModelFacts) -> float:
        """FLOPs of a model's body over a split."""
        return 2.0 * model.body_parameters * self.tokens[split] * self.passes[split]


Estimate = Callable[[Sizes], tuple[int, int, float]]
"""Rows, bytes, FLOPs."""


def _scores(s: Sizes, model: ModelFacts) -> tuple[int, int, float]:
    head = 2.0 * s.held_out * model.hidden_size * model.vocab_size
    flops = s.forward("validation", model) + s.forward("test", model) + head
    return s.held_out, s.held_out * (2 * model.hidden_size + 40), flops


def _rag(s: Sizes) -> tuple[int, int, float]:
    per_token = s.rag_passes * s.model.body_parameters + s.model.hidden_size * s.model.vocab_size
    return s.held_out, 5 * s.held_out, 2.0 * s.held_out * per_token


def _neighbors(s: Sizes) -> tuple[int, int, float]:
    num_rows = s.tokens["train"]
    num_cached = min(s.k_max, num_rows)
    flops = s.search.flops(num_rows, s.keys.hidden_size, num_cached)
    return num_rows, num_rows * 8 * num_cached, flops


def _train_scores(s: Sizes) -> tuple[int, int, float]:
    count = s.tokens["train"]
    head = 2.0 * count * s.keys.hidden_size * s.keys.vocab_size
    return count, count * (6 * LM_TARGET_TOKENS + 8), s.forward("train", s.keys) + head


def _fidelity(s: Sizes) -> tuple[int, int, float]:
    head = 2.0 * s.tokens["test"] * s.memory.hidden_size * s.memory.vocab_size
    return s.tokens["test"], 16 * s.tokens["test"], s.forward("test", s.memory) + head


def _training(stage: str) -> Estimate:
    def estimate(s: Sizes) -> tuple[int, int, float]:
        model = s.memory if stage == "memory" else s.model
        size = model.parameters * (CHECKPOINT_BYTES * 2 + 8)  # last.ckpt old, new, best, export
        epoch = 3 * s.forward("train", model) + s.forward("validation", model)
        return s.tokens["train"], size, s.epochs[stage] * epoch

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
    "targets": lambda s: (
        s.tokens["train"],
        s.tokens["train"] * (8 + 6 * (min(s.k, TARGETS_PER_ROW) + s.lm_targets)),
        0.0,
    ),
    "train_scores": _train_scores,
    "query_neighbors": lambda s: (
        s.held_out,
        s.held_out * 8 * min(s.k_max, s.tokens["train"]),
        s.search.flops(s.tokens["train"], s.keys.hidden_size, s.k_max, s.held_out),
    ),
    "memory": _training("memory"),
    "memory_scores": lambda s: _scores(s, s.memory),
    "mixture_scores": lambda s: (
        s.held_out,
        (4 * s.num_memories + 40) * s.held_out,
        s.num_memories * _scores(s, s.memory)[2],
    ),
    "fidelity": _fidelity,
    "dapt": _training("dapt"),
    "dapt_scores": lambda s: _scores(s, s.model),
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
    sizes = _sizes(job, train_tokens, set(job.required(method_stages)))
    _check_positions(job, sizes.model.max_positions)
    _check_prompt(job, sizes.model.max_positions)
    if "neighbors" in job.required(method_stages):
        job.experiment.search.check(sizes.tokens["train"], sizes.keys.hidden_size)
    plans = []
    for name in job.required(method_stages):
        done = None
        if train_tokens is None:
            done = job.store.open(name, job.fingerprint(name))
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


def _check_positions(job: Job, max_positions: int) -> None:
    needed = job.experiment.corpus.block_size + (job.experiment.model.bos == "always")
    if 0 < max_positions < needed:
        raise ConfigError(
            f"corpus.block_size asks for {needed:,} positions but the model has {max_positions:,}; "
            "lower it."
        )


def _check_prompt(job: Job, max_positions: int) -> None:
    """Refuse now what the continuations at the end of the run would refuse after the training."""
    config = job.experiment.evaluation
    continued = {"memory_decoder", "dapt_memory"} & set(job.experiment.methods)
    at_most = len(config.prompt.encode()) + 1 + config.new_tokens  # mostly a byte or more each
    if not (config.prompt and continued and 0 < max_positions < at_most):
        return
    from memdec.models.generation import check_positions, encode_prompt

    prompt = encode_prompt(*load_tokenizer_of(job), config.prompt)
    check_positions(len(prompt), config.new_tokens, max_positions)


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


def _sizes(job: Job, train_tokens: int | None, stages: set[str]) -> Sizes:
    experiment, corpus, trainer = job.experiment, job.experiment.corpus, job.experiment.trainer
    tokens = _token_counts(job)
    if train_tokens is not None:
        tokens["train"] = train_tokens
    facts = model_facts(job)

    def epochs(options: TrainerConfig) -> float:
        steps = max(1, tokens["train"] / corpus.train_stride / options.batch_size)
        at_most = options.max_steps / steps if options.max_steps >= 0 else math.inf
        return min(options.max_epochs, at_most)

    return Sizes(
        tokens=tokens,
        model=facts,
        keys=_key_facts(job, facts) if "datastore" in stages else facts,
        memory=_memory_facts(job, facts) if {"memory", "memory_scores"} & stages else facts,
        passes={split: _passes(corpus, split) for split in SPLITS},
        k=experiment.knn.k,
        k_max=experiment.knn.k_max,
        search=experiment.search,
        lm_targets=LM_TARGET_TOKENS if experiment.knn.lm_share > 0 else 0,
        num_memories=len(experiment.memory_mixture.memories),
        rag_passes=_rag_passes(job, facts.max_positions),
        epochs={
            "memory": epochs(trainer),
            "dapt": epochs(experiment.dapt.options(trainer)),
            "lora": epochs(experiment.lora.options(trainer)),
        },
    )


def _facts_of(source: ModelSource) -> ModelFacts:
    assert source.path is not None, "only a GGUF file has no directory, and this was given as one"
    return read_model_facts(source.path)


def _key_facts(job: Job, base: ModelFacts) -> ModelFacts:
    own = job.experiment.datastore.model in ("base", "dapt")
    return base if own else _facts_of(job.key_model)


def _memory_facts(job: Job, base: ModelFacts) -> ModelFacts:
    """Return the memory's sizes; a moved one keeps its own vocabulary here."""
    if job.plugged_memory is not None:
        return read_model_facts(job.plugged_memory)
    facts = base if job.init_model is None else _facts_of(job.init_model)
    blocks = job.experiment.memory_decoder.blocks or facts.num_blocks
    left = facts.body_parameters * blocks // facts.num_blocks
    return replace(facts, parameters=facts.parameters - facts.body_parameters + left)


def _rag_passes(job: Job, max_positions: int) -> float:
    config, corpus = job.experiment.in_context_rag, job.experiment.corpus
    inputs = config.passage_tokens + corpus.block_size - corpus.stride / 2
    if 0 < max_positions < corpus.block_size + config.passage_tokens:
        # Where the context slides with each query, none shares a pass.
        return min(inputs, max_positions) / config.every_tokens
    return RAG_SHARE * inputs / config.every_tokens


def model_facts(job: Job) -> ModelFacts:
    """Return the base model's sizes, converted yet or not."""
    if job.model.path is not None:
        return read_model_facts(job.model.path)
    converted = job.store.open("model", job.fingerprint("model"))
    if converted:
        return read_model_facts(converted.path)
    return guess_model_facts(job.model.gguf.stat().st_size) if job.model.gguf else EMBEDDED_FACTS


def _token_counts(job: Job) -> dict[str, int]:
    done = job.store.open("tokens", job.fingerprint("tokens"))
    if done:
        return {split: done.info[split]["num_tokens"] for split in SPLITS}
    corpus = job.experiment.corpus
    counts = {split: _source_bytes(corpus, split) // BYTES_PER_TOKEN for split in SPLITS}
    return {
        split: min(counts[split], corpus.max_tokens(split) or counts[split]) for split in SPLITS
    }


def _source_bytes(corpus: CorpusConfig, split: str) -> int:
    shares = {"validation": corpus.validation_share, "test": corpus.test_share}
    share = 1.0
    if corpus.makes_splits:
        share = shares.get(split, 1 - sum(shares.values()))
    if corpus.source not in ("text", "jsonl"):
        return round(share * UNKNOWN_SOURCE_BYTES)
    name = "train" if corpus.makes_splits else split
    files = resolve_files(f"corpus.{name}", corpus.locator(name))
    packed = sum(path.stat().st_size * (3 if path.suffix == ".gz" else 1) for path in files)
    return round(share * packed)


def _passes(corpus: CorpusConfig, split: str) -> float:
    stride = corpus.train_stride if split == "train" else corpus.stride
    return corpus.block_size / stride
