"""Made-up keys, neighbors, targets and models that are shaped like real ones.

Shape legend: N rows, D key width, K neighbors, M stored target entries, V vocabulary.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memdec.bench.config import BenchConfig
from memdec.errors import DataError
from memdec.models.loading import head_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS_PER_CONTEXT = 60


def make_keys(config: BenchConfig) -> NDArray[np.float16]:
    """Return keys f16 [N, D]: those of the given file, or clusters of very unequal size.

    Real keys crowd around contexts that recur, in few directions, and some are equal.
    """
    if config.keys:
        keys_ND = np.load(config.keys, mmap_mode="r")
        if keys_ND.ndim != 2 or len(keys_ND) < config.rows:
            raise DataError(
                f"--keys holds an array {list(keys_ND.shape)} but --rows asks for "
                f"{config.rows:,} rows; lower --rows or give more keys [rows, width]."
            )
        return np.array(keys_ND[: config.rows], np.float16)
    random = np.random.default_rng(0)
    num_contexts = max(2, config.rows // _ROWS_PER_CONTEXT)
    spread_D = (1 + np.arange(config.key_width)) ** -0.4
    centres = random.standard_normal((num_contexts, config.key_width), np.float32) * spread_D
    weights = 1 / (1 + np.arange(num_contexts))
    context_N = random.choice(num_contexts, config.rows, p=weights / weights.sum())
    noise_ND = random.standard_normal((config.rows, config.key_width), np.float32) * spread_D
    keys_ND = (4 * (centres[context_N] + 0.6 * noise_ND)).astype(np.float16)
    copies = random.random(config.rows) < 0.02
    keys_ND[copies] = keys_ND[random.integers(0, config.rows, copies.sum())]
    return keys_ND


def make_neighbors(
    num_rows: int, k: int, vocab_size: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return rising squared distances f32 [N, K] and token ids i64 [N, K] as a search finds them.

    A row meets about a quarter as many tokens as neighbors, its own context's first.
    """
    random = np.random.default_rng(1)
    sq_distances_NK = np.sort(random.random((num_rows, k), np.float32) ** 0.5 * 60, 1)
    ranks_NK = random.zipf(1.3, (num_rows, k)) * random.integers(1, 1000, (num_rows, 1))
    return sq_distances_NK, ranks_NK % vocab_size


def make_targets(num_rows: int, num_entries: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return sparse targets: distinct token ids i64 [N, M] and probabilities f32 [N, M]."""
    random = torch.Generator().manual_seed(2)
    steps_NM = torch.randint(
        1, vocab_size // num_entries, (num_rows, num_entries), generator=random
    )
    probs_NM = torch.rand(num_rows, num_entries, generator=random) ** 4
    return steps_NM.cumsum(1), probs_NM / probs_NM.sum(1, keepdim=True)


def make_decoder(config: BenchConfig, vocab_size: int) -> "PreTrainedModel":
    """Return a Llama with random weights, shaped like SmolLM2-135M at the default sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.key_width,
        intermediate_size=config.key_width * 8 // 3,
        num_hidden_layers=config.num_blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=config.block_size,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        lm = LlamaForCausalLM(shape)
    torch.nn.Module.to(lm, torch.device(config.device))
    return lm


def body_parameters(lm: "PreTrainedModel") -> int:
    """Count the parameters that every token passes, without embedding and head."""
    total = sum(parameter.numel() for parameter in lm.parameters())
    return total - head_weight(lm).numel()
