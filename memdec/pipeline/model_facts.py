"""Sizes of a model, read from its folder without loading it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from memdec.errors import DataError


@dataclass(frozen=True)
class ModelFacts:
    """What plans and budgets need to know."""

    parameters: int
    """A tied embedding counts once."""
    hidden_size: int
    vocab_size: int
    num_blocks: int

    max_positions: int = 0
    """Longest input; 0 where the configuration does not say."""
    embeddings: int = 1
    """2 where embedding and head are stored apart."""

    @property
    def head_parameters(self) -> int:
        """Parameters of the output head."""
        return self.hidden_size * self.vocab_size

    @property
    def body_parameters(self) -> int:
        """Parameters that every token passes: all but the embedding and the output head."""
        return self.parameters - self.head_parameters * self.embeddings


EMBEDDED_FACTS = ModelFacts(134_515_008, 576, 49_152, 30, max_positions=8192)
"""SmolLM2-135M, for plans made before it is fetched."""

BYTES_PER_PARAMETER = 0.6
"""Of a GGUF file quantized to four or five bits."""


def guess_model_facts(num_bytes: int) -> ModelFacts:
    """Guess sizes from those of a GGUF file: the form of the embedded model, its width another."""
    vocab, blocks = EMBEDDED_FACTS.vocab_size, EMBEDDED_FACTS.num_blocks
    parameters = round(num_bytes / BYTES_PER_PARAMETER)
    # parameters = 12 * blocks * hidden^2 + vocab * hidden
    hidden = (math.sqrt(vocab**2 + 48 * blocks * parameters) - vocab) / (24 * blocks)
    return ModelFacts(parameters, math.floor(hidden), vocab, blocks)


def read_model_facts(path: Path) -> ModelFacts:
    """Read sizes from config.json and the headers of the safetensors files.

    Raises:
        DataError: config.json or a safetensors file is not readable.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        hidden = int(config.get("hidden_size", config.get("n_embd")))
        vocab = int(config["vocab_size"])
        positions = int(config.get("max_position_embeddings", config.get("n_positions", 0)) or 0)
        blocks = int(config.get("num_hidden_layers", config.get("n_layer")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path / 'config.json'} is no readable model configuration.") from None
    # Mistral's own format, in the same folder, holds the same weights again.
    files = (f for f in path.glob("*.safetensors") if not f.name.startswith("consolidated"))
    shapes = [shape for file in sorted(files) for shape in _shapes(file)]
    parameters = sum(math.prod(shape) for shape in shapes)
    embeddings = sum(1 for shape in shapes if shape == [vocab, hidden])
    if not shapes:  # .bin weights: the usual size of a block
        parameters, embeddings = 12 * blocks * hidden**2 + vocab * hidden, 1
    return ModelFacts(parameters, hidden, vocab, blocks, positions, embeddings)


def _shapes(file: Path) -> list[list[int]]:
    try:
        with safe_open(file, framework="numpy") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
            return [shape for name, shape in shapes.items() if not _is_mask(name, shape)]
    except SafetensorError:
        raise DataError(
            f"{file} is no whole safetensors file (a Git LFS pointer, or cut short?); fetch it "
            "again."
        ) from None


def _is_mask(name: str, shape: list[int]) -> bool:
    """Tell whether this is the causal mask that old GPT-2 files hold in each block."""
    return name.endswith(".attn.masked_bias") or (name.endswith(".attn.bias") and len(shape) == 4)
