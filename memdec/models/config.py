"""Which language model is adapted, and how it is read and run."""

from dataclasses import dataclass

from memdec.checks import check_at_least, check_choice
from memdec.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")
BOS_RULES = ("auto", "always", "never")


def check_blocks(num_kept: int, num_blocks: int) -> None:
    """Raise ConfigError unless a model of `num_blocks` blocks can keep so many."""
    if num_kept > num_blocks:
        raise ConfigError(
            f"memory_decoder.blocks is {num_kept} but the starting model has {num_blocks} blocks."
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base language model; it stays frozen."""

    source: str = "smollm2-135m"
    """Name of an embedded model, a Hugging Face directory, a .gguf file or a hub name."""
    bos: str = "auto"
    """Put the BOS token in front of each window: auto (as the tokenizer does), always or never."""
    separator: str = "auto"
    """Token that ends each document: auto, or the token's text."""
    dtype: str = "float32"
    """Dtype of weights and activations while encoding and scoring; sums stay in float32."""
    device: str = "auto"
    """Where encoding, search and scoring run: auto, cpu, cuda or cuda:N."""
    batch_size: int = 4
    """Windows per forward pass when encoding and scoring."""

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError("model.source is empty; give a model directory or smollm2-135m.")
        check_choice("model.bos", self.bos, BOS_RULES)
        check_choice("model.dtype", self.dtype, DTYPES)
        check_at_least("model.batch_size", self.batch_size, 1)
