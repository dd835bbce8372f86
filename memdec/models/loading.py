"""Load a causal language model from a Hugging Face directory, and name its parts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from memdec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")


def pick_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: A GPU is asked for and none is there, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]{0,2}))?", name):
        raise ConfigError(f"model.device is {name!r}; allowed: auto, cpu, cuda, cuda:N.")
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ConfigError(f"model.device is {name!r} but torch sees no GPU here; use cpu or auto.")
    count = torch.cuda.device_count()
    if int(name.partition(":")[2] or 0) >= count:  # torch wraps large numbers around
        raise ConfigError(f"model.device is {name!r} but torch sees {count}, counted from 0.")
    return torch.device(name)


def load_causal_lm(path: Path, dtype: str, device: torch.device) -> "PreTrainedModel":
    """Load a causal LM in evaluation mode from a directory; nothing is downloaded.

    Raises:
        DataError: The directory is missing or is no causal language model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    _check_folder(path)
    disable_progress_bar()  # loading takes a second; the stages show their own bars
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises what its parts do
        raise DataError(f"{path} is not a loadable causal LM: {_first_line(error)}") from None
    lm, report = read
    if report["missing_keys"]:  # transformers would fill them with random numbers
        raise DataError(f"{path} lacks weights: {', '.join(sorted(report['missing_keys']))}.")
    check_plain_head(lm, path)
    nn.Module.to(lm, device)
    return lm.eval()


def load_skeleton(path: Path) -> "PreTrainedModel":
    """Return the modules of a causal LM with shapes and no weights.

    Raises:
        DataError: The directory is missing or is no causal language model.
    """
    with torch.device("meta"):
        return new_causal_lm(path)


def new_causal_lm(path: Path) -> "PreTrainedModel":
    """Return a causal LM as a directory's config.json describes it, with new random weights.

    Raises:
        DataError: The directory is missing or is no causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    _check_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    except Exception as error:  # transformers raises what its parts do
        raise DataError(f"{path} is not a loadable causal LM: {_first_line(error)}") from None
    check_plain_head(lm, path)
    return lm


def load_tokenizer(path: Path) -> Any:
    """Load the tokenizer that stands in a model directory.

    Raises:
        DataError: The directory is missing or holds no tokenizer.
    """
    from transformers import AutoTokenizer

    _check_folder(path)
    if not any(file for pattern in _TOKENIZER_FILES for file in path.glob(pattern)):
        # transformers would make up an empty one
        raise DataError(f"{path} holds no tokenizer (no tokenizer.json); add the model's own.")
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers raises what its parts do
        raise DataError(f"{path} holds no loadable tokenizer: {_first_line(error)}") from None


def blocks(lm: nn.Module) -> Sequence[nn.Module]:
    """Return the transformer blocks of a Llama, Qwen2, Gemma3, GPT-2 style model, first to last.

    Raises:
        ConfigError: The architecture keeps its blocks elsewhere.
    """
    body = lm.base_model
    for name in ("layers", "h"):
        found = getattr(body, name, None)
        if isinstance(found, nn.ModuleList) and hasattr(found[-1], "mlp"):
            return list(found)
    raise ConfigError(
        f"{type(lm).__name__} has no list of blocks with a feed-forward `mlp` that memdec knows; "
        "supported: Llama, Qwen, Gemma, GPT-2 and other models of that build."
    )


def body_output(lm: nn.Module, inputs_BT: Tensor) -> Tensor:
    """Return the last hidden state [B, T, D] (after the final norm), without the LM head."""
    body: Any = lm.base_model
    hidden: Tensor = body(input_ids=inputs_BT, use_cache=False).last_hidden_state
    return hidden


def head_weight(lm: "PreTrainedModel") -> Tensor:
    """Return the output head [V, D]."""
    weight: Tensor = lm.get_output_embeddings().weight
    return weight


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise DataError(
            f"{path} is not a Hugging Face model directory (no config.json); give a directory, "
            "a .gguf file, a hub name or smollm2-135m."
        )


def check_plain_head(lm: "PreTrainedModel", path: Path) -> None:
    """Refuse a model that changes its logits after the output head.

    The sparse loss and the restricted vocabulary apply the head themselves.

    Raises:
        DataError: It has a bias, a cap or a scale there.
    """
    head = lm.get_output_embeddings()
    config = lm.config.get_text_config()
    scales = [getattr(config, name, None) for name in ("logit_scale", "logits_scaling")]
    softcap = getattr(config, "final_logit_softcapping", None)
    if (
        not isinstance(head, nn.Linear)
        or head.bias is not None
        or softcap
        or any(scale not in (None, 1, 1.0) for scale in scales)
    ):
        raise DataError(
            f"{path}: {type(lm).__name__} changes its logits after the output head (bias, cap or "
            "scale), which memdec does not support."
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
