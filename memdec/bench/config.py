"""Sizes of the benchmarks; the defaults are those of the goals, but for fewer rows."""

from dataclasses import dataclass
from pathlib import Path

from memdec.checks import check_at_least
from memdec.errors import ConfigError, DataError

GROWTH = 8
"""The largest size of `growth` over its smallest."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured, and on what."""

    rows: int = 20_000
    """Keys to search, and the largest size of `growth`."""
    repeats: int = 5
    """Timings of each side, of which the median counts."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    keys: str = ""
    """A .npy file of keys [N, D]; empty for made-up ones."""
    model: str = ""
    """A Hugging Face directory for `encode`; empty for random weights in SmolLM2-135M's shape."""
    experiment: str = "experiments/demo.yaml"
    """Whose finished run `startup` starts again, when there is one."""
    k: int = 1024
    """Neighbors of a row."""
    key_width: int = 576
    """Width of made-up keys, and of the decoder."""
    vocab_size: int = 49_152
    """Tokens that targets and heads range over."""
    large_vocab_size: int = 151_936
    """The second vocabulary of `loss`."""
    target_rows: int = 2048
    """Rows turned into distributions."""
    target_entries: int = 260
    """Stored pairs of a row in `loss`; PAPER.md gives 251 for GPT-2 at k = 1024."""
    step_tokens: int = 1024
    """Tokens of a training step, a multiple of block_size."""
    block_size: int = 512
    """Tokens of a window."""
    num_blocks: int = 30
    """Transformer blocks of the decoder."""
    encode_windows: int = 8
    """Windows to encode."""
    alpha_tokens: int = 1_000_000
    """Cached gold log-probs."""
    alpha_points: int = 1001
    """Alphas of the curve."""

    def __post_init__(self) -> None:
        check_at_least("--repeats", self.repeats, 1)
        least = GROWTH * (self.k + 2)
        if self.rows < least:
            raise ConfigError(
                f"--rows must be at least {least:,}, so that an eighth of them has k = {self.k:,} "
                f"neighbors, got {self.rows:,}."
            )
        for name, path in (("--keys", self.keys), ("--model", self.model)):
            if path and not Path(path).exists():
                raise DataError(f"{name} {path} is not there; leave {name} out for made-up ones.")
        assert self.step_tokens % self.block_size == 0, "whole windows"
