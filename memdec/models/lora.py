"""LoRA adapters inside a causal LM, through peft."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from memdec.checks import check_extra
from memdec.errors import ConfigError, DataError
from memdec.models.loading import load_causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "attn.c_attn")
"""Ends of the names of the query, key and value projections: Llama's, Qwen's and Gemma's; Phi-3's
in one; GPT-2's in one."""
FEED_FORWARD = (
    *("gate_proj", "up_proj", "down_proj", "gate_up_proj"),
    *("mlp.c_fc", "mlp.c_proj"),
)
"""Those of the feed-forward layer."""
PROJECTIONS = ATTENTION + FEED_FORWARD
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def parameters_per_rank(lm: nn.Module) -> int:
    """Return what one rank costs: input plus output width, summed over all projections."""
    return sum(sum(module.weight.shape) for module in _projections(lm).values())


def solve_rank(per_rank: int, budget: int) -> int:
    """Return the largest rank whose adapters have at most `budget` parameters.

    Raises:
        ConfigError: Not even rank 1 fits.
    """
    if budget < per_rank:
        raise ConfigError(
            f"lora.budget_parameters is {budget:,} but rank 1 on this model trains {per_rank:,}; "
            f"give at least {per_rank}."
        )
    return budget // per_rank


def add_lora(lm: "PreTrainedModel", rank: int, scale: float, seed: int) -> None:
    """Put adapters that change nothing yet into the model, and freeze all other weights."""
    check_extra("lora", "lora")
    from peft import LoraConfig

    names = _projections(lm)
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # type: ignore[arg-type]  # any number will do
        target_modules=[e for e in PROJECTIONS if any(name.endswith(f".{e}") for name in names)],
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in names.values()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm.add_adapter(config)
    config.base_model_name_or_path = None  # a path of this machine
    # peft makes it a set, whose order in the export changes from process to process
    config.target_modules = sorted(config.target_modules or ())


def load_lora(path: Path, base: Path, dtype: str, device: torch.device) -> "PreTrainedModel":
    """Load the base with the adapter exported to `path`, in evaluation mode.

    In float32 the adapter is added into the weights, which costs nothing at use; in a narrower type
    rounding would swallow part of it.

    Raises:
        DataError: `path` holds no adapter.
    """
    check_extra("lora", "lora")
    missing = [name for name in ADAPTER_FILES if not (path / name).is_file()]
    if missing:
        raise DataError(
            f"{path} is no exported LoRA adapter (no {missing[0]}); give the export folder that "
            "`memdec run` left."
        )
    lm = load_causal_lm(base, dtype, torch.device("cpu"))
    lm.load_adapter(str(path))
    if dtype == "float32":
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in lm.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
    nn.Module.to(lm, device)
    return lm.eval()


def _projections(lm: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, endings in {"attention": ATTENTION, "feed-forward": FEED_FORWARD}.items():
        named = tuple(f".{ending}" for ending in endings)
        modules = {name: module for name, module in lm.named_modules() if name.endswith(named)}
        if not modules:
            raise ConfigError(
                f"{type(lm).__name__} has no {part} projections that memdec knows for LoRA "
                f"({', '.join(endings)}); leave lora out of methods."
            )
        found |= modules
    return found
