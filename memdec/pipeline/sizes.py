"""How large the texts and models of a run are, before it is made: what plans and budgets count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memdec.corpus.config import SPLITS, CorpusConfig
from memdec.corpus.files import resolve_files
from memdec.models.config import check_blocks
from memdec.pipeline.experiment import Experiment
from memdec.pipeline.job import Job
from memdec.pipeline.model_facts import (
    EMBEDDED_FACTS,
    ModelFacts,
    guess_model_facts,
    read_model_facts,
)
from memdec.pipeline.model_source import ModelSource

BYTES_PER_TOKEN = 4
"""Of English text, for a corpus that is not tokenized yet."""
UNKNOWN_SOURCE_BYTES = 10_000_000
"""Text of a package or a hub dataset, before it is read."""
RAG_SHARE = 0.27
"""Inputs of in-context RAG, by those of a pass a query: 0.24 to 0.28 on three domains."""


@dataclass(frozen=True)
class Sizes:
    """The numbers that all estimates are made of."""

    experiment: Experiment
    tokens: dict[str, int]
    """Tokens of each split."""
    model: ModelFacts
    """The base."""
    keys: ModelFacts
    """The model whose hidden states are the keys."""
    memory: ModelFacts

    @property
    def held_out(self) -> int:
        """Tokens of validation and test."""
        return self.tokens["validation"] + self.tokens["test"]

    @property
    def rag_passes(self) -> float:
        """Inputs of in-context RAG for each held-out token."""
        config, corpus = self.experiment.in_context_rag, self.experiment.corpus
        wanted = config.passage_tokens + corpus.block_size
        room = config.max_inputs(corpus.block_size, self.model.max_positions)
        inputs = min(wanted - corpus.stride / 2, room)
        # Where the context slides with each query, none shares a pass.
        return (RAG_SHARE if room == wanted else 1) * inputs / config.every_tokens

    def epochs(self, stage: str) -> float:
        """Return the passes over the training text of a stage that trains, at most."""
        options, stride = self.experiment.options_of(stage), self.experiment.corpus.train_stride
        steps = max(1, self.tokens["train"] / stride / options.batch_size)
        at_most = options.max_steps / steps if options.max_steps >= 0 else math.inf
        return min(options.max_epochs, at_most)

    def inputs(self, split: str) -> float:
        """Return the input tokens of a pass over a split."""
        return self.tokens[split] * self.experiment.corpus.passes(split)

    def forward(self, split: str, model: ModelFacts) -> float:
        """FLOPs of a model's body over a split."""
        return 2.0 * model.body_parameters * self.inputs(split)

    def scoring(self, split: str, model: ModelFacts) -> float:
        """FLOPs of a model over a split, its head at each token once."""
        return self.forward(split, model) + 2.0 * self.tokens[split] * model.head_parameters


def read_sizes(job: Job, train_tokens: int | None, stages: Sequence[str]) -> Sizes:
    """Read the sizes of text and models, as far as the stages use them.

    Given `train_tokens`, the training text counts as so long.
    """
    tokens = _token_counts(job)
    if train_tokens is not None:
        tokens["train"] = train_tokens
    facts = model_facts(job)
    has_memory = bool({"memory", "memory_scores"} & set(stages)) or job.sizes_lora(stages)
    return Sizes(
        experiment=job.experiment,
        tokens=tokens,
        model=facts,
        keys=_key_facts(job, facts) if "datastore" in stages else facts,
        memory=_memory_facts(job, facts) if has_memory else facts,
    )


def _facts_of(source: ModelSource) -> ModelFacts:
    assert source.path is not None, "only a GGUF file has no directory, and this was given as one"
    return read_model_facts(source.path)


def _key_facts(job: Job, base: ModelFacts) -> ModelFacts:
    own = job.experiment.datastore.has_own_model
    return base if own else _facts_of(job.key_model)


def _memory_facts(job: Job, base: ModelFacts) -> ModelFacts:
    config = job.experiment.memory_decoder
    if job.plugged_memory is not None:
        return read_model_facts(job.plugged_memory)
    facts = base if job.init_model is None else _facts_of(job.init_model)
    if config.transfer != "refuse":
        rows = facts.embeddings * (base.vocab_size - facts.vocab_size)
        parameters = facts.parameters + rows * facts.hidden_size
        facts = replace(facts, parameters=parameters, vocab_size=base.vocab_size)
    blocks = config.blocks or facts.num_blocks
    check_blocks(blocks, facts.num_blocks)
    left = facts.body_parameters * blocks // facts.num_blocks
    return replace(facts, parameters=facts.parameters - facts.body_parameters + left)


def model_facts(job: Job) -> ModelFacts:
    """Return the base model's sizes, converted yet or not."""
    if job.model.path is not None:
        return read_model_facts(job.model.path)
    converted = job.made("model")
    if converted:
        return read_model_facts(converted.path)
    return guess_model_facts(job.model.gguf.stat().st_size) if job.model.gguf else EMBEDDED_FACTS


def _token_counts(job: Job) -> dict[str, int]:
    done = job.made("tokens")
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
