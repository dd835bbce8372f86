"""The memory decoder: a causal LM whose output tokens may be fewer than its input tokens.

The kNN target never leaves the tokens of its corpus, so a head over those tokens alone is exact for
training and several times cheaper; every other token gets probability 0 and is left to the base LM
in the mixture.

Shape legend: B windows, T positions, D width, O output tokens, V vocabulary, N scored positions.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from memdec.artifacts.files import write_text
from memdec.errors import DataError
from memdec.models.exports import MEMORY_FILE, OUTPUT_IDS_FILE, read_memory_facts
from memdec.models.loading import body_output, head_weight, load_causal_lm, new_causal_lm
from memdec.models.scoring import output_columns

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MemoryDecoder(nn.Module):
    """A trainable decoder with a head over `output_ids_O` (all tokens when None)."""

    output_ids_O: Tensor | None

    def __init__(self, lm: "PreTrainedModel", output_ids_O: Tensor | None) -> None:
        super().__init__()
        self.lm = lm
        self.register_buffer("output_ids_O", output_ids_O, persistent=False)

    def forward(self, inputs_BT: Tensor) -> Tensor:
        """Return the last hidden states [B, T, D]."""
        return body_output(self.lm, inputs_BT)

    def head(self, vocab_size: int | None = None) -> Tensor:
        """Return the rows of the output head that are in use [O, D]; gradients flow to it.

        Of a head over all tokens, the first `vocab_size` where given: what follows only pads it.
        Training takes all, so that the export gives padding no probability elsewhere either.
        """
        weight_VD = head_weight(self.lm)
        if self.output_ids_O is not None:
            return weight_VD[self.output_ids_O]
        return weight_VD if vocab_size is None else weight_VD[:vocab_size]

    def columns(self, token_ids: Tensor) -> Tensor:
        """Return the head's row of each token; all must be output tokens."""
        return output_columns(token_ids, self.output_ids_O)[0]

    def spread(self, logits: Tensor) -> Tensor:
        """Turn logits over the first V tokens [..., V] into log-probs with -inf outside O."""
        if self.output_ids_O is None:
            return logits.float().log_softmax(-1)
        ids_O = self.output_ids_O[self.output_ids_O < logits.shape[-1]]
        log_probs = torch.full_like(logits, -torch.inf, dtype=torch.float32)
        log_probs[..., ids_O] = logits[..., ids_O].float().log_softmax(-1)
        return log_probs

    def export(self, path: Path, tokenizer: Any, facts: dict[str, Any]) -> None:
        """Write a Hugging Face directory plus the memory's own facts and output tokens."""
        self.lm.save_pretrained(path)
        tokenizer.save_pretrained(path)
        if self.output_ids_O is not None:
            np.save(path / OUTPUT_IDS_FILE, self.output_ids_O.cpu().numpy())
        write_text(path / MEMORY_FILE, json.dumps(facts, indent=1, sort_keys=True))


def initial_lm(path: Path, from_scratch: bool, seed: int) -> "PreTrainedModel":
    """Return the trainable LM that a memory starts from, in float32 and without dropout.

    Args:
        path: A Hugging Face directory.
        from_scratch: Use its architecture with new weights, drawn from `seed`.
        seed: Used for new weights only.

    Raises:
        DataError: The directory is missing or is no causal language model.
    """
    if not from_scratch:
        lm = load_causal_lm(path, "float32", torch.device("cpu"))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lm = new_causal_lm(path)
    _drop_dropout(lm)
    # PyTorch would keep the pad token's row from learning, but padding is never scored or looked
    # at, and that token may separate documents, or be another once the vocabulary is changed
    embedding: Any = lm.get_input_embeddings()
    embedding.padding_idx = None
    return lm.requires_grad_(True).train()


def _drop_dropout(lm: "PreTrainedModel") -> None:
    # The teacher is deterministic; the authors train with whatever the checkpoint's config says.
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010  (a plain float attribute)


def load_memory(path: Path, dtype: str, device: torch.device) -> MemoryDecoder:
    """Load an exported memory.

    Raises:
        DataError: The folder has no manifest of a memory decoder, or no loadable model.
    """
    read_memory_facts(path)
    lm = load_causal_lm(path, dtype, device)
    ids_file = path / OUTPUT_IDS_FILE
    if not ids_file.is_file():
        return MemoryDecoder(lm, None).eval()
    try:
        output_ids_O = np.load(ids_file)
        if output_ids_O.dtype != np.int64 or output_ids_O.ndim != 1:
            raise ValueError
        in_head = output_ids_O[0] >= 0 and output_ids_O[-1] < len(head_weight(lm))
        if not in_head or (np.diff(output_ids_O) < 1).any():
            raise ValueError
    except (ValueError, IndexError, EOFError, TypeError, AttributeError, BadZipFile):
        raise DataError(f"{ids_file} is damaged; export or copy the memory again.") from None
    return MemoryDecoder(lm, torch.from_numpy(output_ids_O).to(device)).eval()
