"""How keys, neighbors and targets are made."""

from dataclasses import dataclass

from memdec.checks import SMALLEST_TEMPERATURE, check_at_least, check_share
from memdec.errors import ConfigError

LAST_FFN_INPUT = "last_ffn_input"


@dataclass(frozen=True, kw_only=True)
class DatastoreConfig:
    """Which hidden state is the key (paper: input of the last block's feed-forward layer)."""

    model: str = "base"
    """Whose hidden states the keys are: base, dapt (the base fine-tuned on the same text first, as
    in the paper), or a model of the same tokenizer."""
    layer: str = LAST_FFN_INPUT
    """last_ffn_input, final_hidden, or BLOCK.ffn_input / BLOCK.output with BLOCK from 0."""

    @property
    def has_own_model(self) -> bool:
        """Whether the keys are the base's, as it is or fine-tuned, and no third model's."""
        return self.model in ("base", "dapt")

    def __post_init__(self) -> None:
        block, _, point = self.layer.partition(".")
        named = self.layer in (LAST_FFN_INPUT, "final_hidden")
        if not named and not (block.isdecimal() and point in ("ffn_input", "output")):
            raise ConfigError(
                f"datastore.layer is {self.layer!r}; allowed: {LAST_FFN_INPUT}, final_hidden, "
                "BLOCK.ffn_input, BLOCK.output (BLOCK counts from 0, as in 20.ffn_input)."
            )


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """The kNN distribution that the memory learns to imitate."""

    k: int = 1024
    """Neighbors per position."""
    k_max: int = 1024
    """Neighbors that are cached, so that any k up to it needs no new search."""
    temperature: float = 16.0
    """Divides minus the squared distance before the softmax; at least 1e-6."""
    threshold: float = 0.0
    """Target probabilities at or below this are dropped and the rest renormalised; in [0, 1)."""

    lm_share: float = 0.0
    """The key model's own share in the targets, as in a kNN-LM (its 64 most likely tokens); in
    [0, 1). 0, the paper's, imitates the retriever alone."""

    def __post_init__(self) -> None:
        check_at_least("knn.k", self.k, 1)
        check_at_least("knn.k_max", self.k_max, 1)
        check_at_least("knn.temperature", self.temperature, SMALLEST_TEMPERATURE)
        check_share("knn.threshold", self.threshold)
        check_share("knn.lm_share", self.lm_share)
        if self.lm_share == 1:
            raise ConfigError("knn.lm_share must be below 1: at 1 no neighbor would count.")
        if self.threshold == 1:
            raise ConfigError("knn.threshold must be below 1: at 1 every target would be dropped.")
        if self.k > self.k_max:
            raise ConfigError(
                f"knn.k is {self.k} but only knn.k_max = {self.k_max} neighbors are cached; "
                "raise knn.k_max or lower knn.k."
            )
