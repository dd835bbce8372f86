"""Settings of the methods that are compared with the Memory Decoder."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from memdec.checks import SMALLEST_TEMPERATURE, check_alpha, check_at_least, check_positive
from memdec.errors import ConfigError
from memdec.training.config import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class KnnLmConfig:
    """kNN-LM (Khandelwal et al. 2020): search at inference; alpha is its lambda."""

    temperatures: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    """Temperatures tried on validation, each with its own exact alpha; all at least 1e-6."""
    alpha: float | int | str = "validation"
    """The retriever's share in the mixture: a number in [0, 1], or validation."""

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise ConfigError("knn_lm.temperatures is empty; give at least one, such as [1.0].")
        for temperature in self.temperatures:
            check_at_least("knn_lm.temperatures", temperature, SMALLEST_TEMPERATURE)
        check_alpha("knn_lm.alpha", self.alpha)


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """Where training the model itself differs from training a memory."""

    section: ClassVar[str]
    learning_rate: float = 0.0
    """Peak rate; 0 for trainer.learning_rate."""
    max_epochs: int = 0
    """Passes over the training windows; 0 for trainer.max_epochs."""
    patience: int = 1
    """Validations without a better perplexity before training stops; 0 for never."""

    def __post_init__(self) -> None:
        for key in ("learning_rate", "max_epochs", "patience"):
            check_at_least(f"{self.section}.{key}", getattr(self, key), 0)

    def options(self, trainer: TrainerConfig) -> TrainerConfig:
        """Return the trainer's options with these in their place."""
        return replace(
            trainer,
            learning_rate=self.learning_rate or trainer.learning_rate,
            max_epochs=self.max_epochs or trainer.max_epochs,
            patience=self.patience,
        )


@dataclass(frozen=True, kw_only=True)
class DaptConfig(FineTuneConfig):
    """Domain-adaptive pre-training (Gururangan et al. 2020): all weights, the LM loss."""

    section: ClassVar[str] = "dapt"


@dataclass(frozen=True, kw_only=True)
class DaptMemoryConfig(FineTuneConfig):
    """DAPT's training for a model that is mixed with the base.

    It stops by its own perplexity, not the mixture's, so that DAPT can share the training.
    """

    section: ClassVar[str] = "dapt_memory"


@dataclass(frozen=True, kw_only=True)
class LoraConfig(FineTuneConfig):
    """LoRA (Hu et al. 2021) on the q, k, v and feed-forward projections of every block."""

    section: ClassVar[str] = "lora"
    budget_parameters: int = 0
    """Most parameters to train; the rank follows from it. 0 for as many as the memory has."""
    scale: float = 2.0
    """Factor of the adapter's output (LoRA's alpha divided by its rank); above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("lora.budget_parameters", self.budget_parameters, 0)
        check_positive("lora.scale", self.scale)


@dataclass(frozen=True, kw_only=True)
class MemoryMixtureConfig:
    """Several trained memories beside one base, each with its own share."""

    memories: list[str] = field(default_factory=list)
    """Export folders of memories with the base's tokenizer, each another one."""


@dataclass(frozen=True, kw_only=True)
class InContextRagConfig:
    """In-context RAG (Ram et al. 2023): passages of the training text in front of the context.

    Inputs are the passage and the whole window, up to corpus.block_size + passage_tokens; where the
    model has fewer positions, the oldest context goes.
    """

    passage_tokens: int = 256
    """Tokens of a passage; with every_tokens at most corpus.block_size."""
    query_tokens: int = 32
    """Last tokens of the context, whose words are looked for."""
    every_tokens: int = 4
    """Scored tokens from one retrieval to the next; the cost grows as this shrinks."""

    def __post_init__(self) -> None:
        for key in ("passage_tokens", "query_tokens", "every_tokens"):
            check_at_least(f"in_context_rag.{key}", getattr(self, key), 1)

    def max_inputs(self, block_size: int, positions: int) -> int:
        """Return the most inputs of passage and context, BOS apart, with so many (0: any) free."""
        wanted = block_size + self.passage_tokens
        return min(wanted, positions) if positions > 0 else wanted

    def check_window(self, block_size: int) -> None:
        """Raise ConfigError when a passage leaves no room for the context of the scored tokens."""
        if self.passage_tokens + self.every_tokens > block_size:
            raise ConfigError(
                f"in_context_rag.passage_tokens is {self.passage_tokens} but a window of "
                f"corpus.block_size {block_size} has room for {block_size - self.every_tokens} and "
                f"{self.every_tokens} tokens to score; lower it or raise the block size."
            )
