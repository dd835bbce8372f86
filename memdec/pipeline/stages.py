"""The ordered stages: what each reads of the configuration, what it needs, and who builds it.

Torch-free: builders import what they need when they run, so that planning is instant.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from memdec.methods.contract import Method
from memdec.pipeline import builders, scoring_builders, training_builders
from memdec.pipeline.experiment import Experiment
from memdec.pipeline.shards import Merge, merge_csr, merge_rows


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the pipeline; its artifact is named by `reads` and by what it `needs`."""

    name: str
    label: str
    """What a person reads while it runs."""
    twin: str = ""
    """Stage that does the same with the settings of another section: where those agree, one
    artifact serves both."""
    reads: tuple[str, ...]
    """Configuration keys, or whole sections, that change the output. Paths are not among them: the
    job adds the hash of what they hold."""
    needs: Callable[[Experiment], tuple[str, ...]]
    """Stages upstream."""
    build: Callable[..., None]
    """(job, out), and for a stage with `merge` also the shard."""
    merge: Merge | None = None
    """Puts shards together; None for a stage that is made in one piece."""
    resumable: bool = False
    """Whether it goes on from what a killed attempt left."""
    collective: bool = False
    """Whether all processes of a distributed run build it together."""
    schema: int = 1
    """Raised when the same configuration gives other output than before."""

    @property
    def kind(self) -> str:
        """The folder of its artifacts."""
        return self.twin or self.name


def _needs(*names: str) -> Callable[[Experiment], tuple[str, ...]]:
    return lambda _: names


def _datastore_needs(experiment: Experiment) -> tuple[str, ...]:
    tuned = ("dapt",) if experiment.datastore.model == "dapt" else ()
    return ("model", "tokens", *tuned)


def _targets_needs(experiment: Experiment) -> tuple[str, ...]:
    scored = ("train_scores",) if experiment.knn.lm_share > 0 else ()
    return ("datastore", "neighbors", *scored)


def _memory_needs(experiment: Experiment) -> tuple[str, ...]:
    always = ("model", "tokens", "base_scores")
    return (*always, "datastore", "targets") if experiment.memory_decoder.beta > 0 else always


def _memory_scores_needs(experiment: Experiment) -> tuple[str, ...]:
    return ("model", "tokens") if experiment.memory_decoder.trained else ("memory", "tokens")


def _fidelity_needs(experiment: Experiment) -> tuple[str, ...]:
    memory = () if experiment.memory_decoder.trained else ("memory",)
    return ("model", *memory, "tokens", "datastore", "query_neighbors")


_TEXT = (
    "source document_split text_field package validation_share test_share split_seed max_overlap "
    "max_train_tokens max_validation_tokens max_test_tokens"
)
_SEARCH = "method exact_max_rows num_lists num_probes code_bytes rerank train_rows"
_WINDOWS = ("corpus.block_size", "model.bos")
_FORWARD = (*_WINDOWS, "model.dtype")
_OPTIMISATION = (
    "learning_rate warmup_steps weight_decay gradient_clip_norm batch_size micro_batch_size "
    "max_epochs max_steps validate_every_steps patience devices num_nodes "
    "strategy precision compile"
)
_TRAINING = (  # in float32, whatever model.dtype
    *_WINDOWS,
    "corpus.stride",
    "corpus.train_stride",
    *(f"trainer.{key}" for key in _OPTIMISATION.split()),
    "seed",
)

FINE_TUNED = ("dapt", "dapt_memory", "lora")
"""Stages that train the base itself, with the settings of their own section."""

_DAPT = Stage(
    name="dapt",
    label="fine-tuning all of the base",
    reads=_TRAINING,
    needs=_needs("model", "tokens"),
    build=partial(training_builders.fine_tune, stage="dapt"),
    schema=2,
    resumable=True,
    collective=True,
)
_DAPT_SCORES = Stage(
    name="dapt_scores",
    label="scoring validation and test with the fine-tuned base",
    reads=(*_FORWARD, "corpus.stride"),
    needs=_needs("dapt", "tokens"),
    build=partial(scoring_builders.fine_tuned_scores, stage="dapt"),
    schema=2,
)
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="model",
            label="converting the base model",
            reads=(),
            needs=_needs(),
            build=builders.model,
        ),
        Stage(
            name="tokens",
            label="reading and tokenizing the corpus",
            reads=(*(f"corpus.{key}" for key in _TEXT.split()), "model.separator"),
            needs=_needs("model"),
            build=builders.tokens,
            schema=2,
        ),
        Stage(
            name="base_scores",
            label="scoring validation and test with the base",
            reads=(*_FORWARD, "corpus.stride", "datastore.layer"),
            needs=_needs("model", "tokens"),
            build=builders.base_scores,
            schema=2,
        ),
        Stage(
            name="datastore",
            label="encoding the datastore keys",
            reads=(*_FORWARD, "corpus.train_stride", "datastore.layer"),
            needs=_datastore_needs,
            build=builders.datastore,
            merge=merge_rows,
        ),
        Stage(
            name="neighbors",
            label="searching neighbors of the training text",
            reads=("knn.k_max", *(f"search.{key}" for key in _SEARCH.split())),
            needs=_needs("datastore"),
            build=builders.neighbors,
            merge=merge_rows,
        ),
        Stage(
            name="train_scores",
            label="scoring the training text with the key model",
            reads=(*_FORWARD, "corpus.train_stride"),
            needs=_datastore_needs,
            build=builders.train_scores,
        ),
        Stage(
            name="targets",
            label="making the kNN targets",
            reads=("knn.k", "knn.temperature", "knn.threshold", "knn.lm_share"),
            needs=_targets_needs,
            build=builders.targets,
            merge=merge_csr,
        ),
        Stage(
            name="query_neighbors",
            label="searching neighbors of validation and test",
            reads=("knn.k_max", *(f"search.{key}" for key in _SEARCH.split())),
            needs=_needs("datastore", "base_scores"),
            build=builders.query_neighbors,
        ),
        Stage(
            name="memory",
            label="training the memory decoder",
            reads=(
                *_TRAINING,
                "memory_decoder.beta",
                "memory_decoder.divergence",
                "memory_decoder.gating",
                "memory_decoder.blocks",
                "memory_decoder.transfer",
                "memory_decoder.vocabulary",
            ),
            needs=_memory_needs,
            build=training_builders.memory,
            schema=2,
            resumable=True,
            collective=True,
        ),
        Stage(
            name="memory_scores",
            label="scoring validation and test with the memory",
            reads=(*_FORWARD, "corpus.stride"),
            needs=_memory_scores_needs,
            build=scoring_builders.memory_scores,
            schema=2,
        ),
        Stage(
            name="mixture_scores",
            label="scoring validation and test with each memory of the mixture",
            reads=(*_FORWARD, "corpus.stride"),
            needs=_needs("model", "tokens"),
            build=scoring_builders.mixture_scores,
        ),
        Stage(
            name="fidelity",
            label="comparing the memory with the kNN distributions",
            reads=(*_FORWARD, "corpus.stride", "knn.k", "knn.temperature"),
            needs=_fidelity_needs,
            build=scoring_builders.fidelity,
        ),
        _DAPT,
        _DAPT_SCORES,
        replace(
            _DAPT,
            name="dapt_memory",
            label="fine-tuning all of the base to be a memory",
            twin="dapt",
            build=partial(training_builders.fine_tune, stage="dapt_memory"),
        ),
        replace(
            _DAPT_SCORES,
            name="dapt_memory_scores",
            label="scoring validation and test with the fine-tuned memory",
            twin="dapt_scores",
            needs=_needs("dapt_memory", "tokens"),
            build=partial(scoring_builders.fine_tuned_scores, stage="dapt_memory"),
        ),
        Stage(
            name="lora",
            label="training a LoRA adapter of the base",
            reads=(*_TRAINING, "lora.budget_parameters", "lora.scale"),
            needs=_needs("model", "tokens"),
            build=training_builders.lora,
            resumable=True,
            collective=True,
        ),
        Stage(
            name="lora_scores",
            label="scoring validation and test with the adapter",
            reads=(*_FORWARD, "corpus.stride"),
            needs=_needs("model", "lora", "tokens"),
            build=scoring_builders.lora_scores,
            schema=3,
        ),
        Stage(
            name="rag_scores",
            label="scoring validation and test behind retrieved passages",
            reads=(*_FORWARD, "corpus.stride", "in_context_rag"),
            needs=_needs("model", "tokens"),
            build=builders.rag_scores,
            schema=2,
        ),
    )
}


def stages_of(experiment: Experiment, methods: Sequence[Method]) -> tuple[str, ...]:
    """Return the stages that the methods read, and what the evaluation adds to them."""
    names = ["base_scores"]  # each record compares with them
    names += [name for method in methods for name in method.stages]
    if experiment.evaluation.fidelity and any(m.name == "memory_decoder" for m in methods):
        names.append("fidelity")
    return tuple(names)


def required_stages(experiment: Experiment, names: tuple[str, ...]) -> list[str]:
    """Return `names` and all that they need, each after what it needs."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        for upstream in STAGES[name].needs(experiment):
            visit(upstream)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        visit(name)
    return ordered
