"""A smaller decoder from a larger one: keep some of its blocks."""

from typing import TYPE_CHECKING

from torch import nn

from memdec.models.config import check_blocks
from memdec.models.loading import blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def kept_blocks(num_blocks: int, num_kept: int) -> list[int]:
    """Return `num_kept` of the numbers 0 .. num_blocks - 1, evenly spread, both ends included."""
    if num_kept == 1:
        return [num_blocks - 1]
    return [round(i * (num_blocks - 1) / (num_kept - 1)) for i in range(num_kept)]


def keep_blocks(lm: "PreTrainedModel", num_kept: int) -> None:
    """Drop all but `num_kept` blocks of the model, in place.

    Raises:
        ConfigError: The model has fewer blocks.
    """
    stack = blocks(lm)
    check_blocks(num_kept, len(stack))
    numbers = kept_blocks(len(stack), num_kept)
    kept = nn.ModuleList(stack[number] for number in numbers)
    for position, block in enumerate(kept):
        for module in block.modules():  # each attention finds its cache by this number
            if hasattr(module, "layer_idx"):
                module.layer_idx = position  # type: ignore[assignment]
    body = lm.base_model
    setattr(body, "layers" if hasattr(body, "layers") else "h", kept)
    config = lm.config.get_text_config()
    config.num_hidden_layers = num_kept
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number] for number in numbers]
