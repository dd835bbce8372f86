"""Move a decoder to another vocabulary: the body stays, embedding and head start anew.

The paper re-initialises both and trains on (Llama-3 from Qwen, 10% of the budget). Rows can also
be carried over: a token whose text is a token of the old vocabulary gets its row, any other the
mean of the rows of the pieces that the old tokenizer reads in its text, and part of a character
the mean of all rows.

Shape legend: V new vocabulary, W old vocabulary, D width.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What part of a character's bytes decodes to."""


def change_vocabulary(
    lm: "PreTrainedModel", old_tokenizer: Any, new_tokenizer: Any, start: str, seed: int
) -> None:
    """Give `lm` an embedding and head for the new tokenizer, in place.

    Args:
        lm: The decoder; its input embedding and output head may be tied.
        old_tokenizer: What its rows belong to now.
        new_tokenizer: What they are to belong to.
        start: random (as an untrained model of this kind starts) or copied.
        seed: Draws the random rows.
    """
    model: Any = lm
    num_rows = max(new_tokenizer.get_vocab().values()) + 1
    tables = [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]
    tied = tables[0] is tables[1]
    generator = torch.Generator().manual_seed(seed)
    spread = getattr(model.config, "initializer_range", 0.02)
    rows = [
        _copied_rows(table.detach(), old_tokenizer, new_tokenizer, num_rows)
        if start == "copied"
        else spread * torch.randn(num_rows, table.shape[1], generator=generator)
        for table in tables[: 1 if tied else 2]
    ]
    model.resize_token_embeddings(num_rows, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(rows[0])
        model.get_output_embeddings().weight.copy_(rows[-1])
    for owner in (lm.config, lm.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(owner, name, getattr(new_tokenizer, name))


def _copied_rows(old_WD: Tensor, old_tokenizer: Any, new_tokenizer: Any, num_rows: int) -> Tensor:
    num_old = len(old_WD)  # a tokenizer may name tokens that its model has no row for
    texts = _texts(old_tokenizer)
    old_tokens = {text: token for token, text in texts.items() if token < num_old}
    rows_VD = old_WD.mean(0).repeat(num_rows, 1)
    read = {}
    for token, text in _texts(new_tokenizer).items():
        if text in old_tokens:
            rows_VD[token] = old_WD[old_tokens[text]]
        elif NO_CHARACTER not in text:
            read[token] = text
    pieces = old_tokenizer(list(read.values()), add_special_tokens=False)["input_ids"]
    for token, ids in zip(read, pieces, strict=True):
        if ids and max(ids) < num_old:
            rows_VD[token] = old_WD[ids].mean(0)
    return rows_VD


def _texts(tokenizer: Any) -> dict[int, str]:
    """Return what each token adds to a text; of part of a character, its name in the vocabulary.

    Token strings would not do: tokenizers spell a space in different ways.
    """
    names = dict(sorted((token, name) for name, token in tokenizer.get_vocab().items()))
    # Behind another token: some decoders strip the space that a text begins with.
    (*_, anchor) = tokenizer("a", add_special_tokens=False)["input_ids"]
    first, *both = tokenizer.batch_decode(
        [[anchor], *([anchor, token] for token in names)], clean_up_tokenization_spaces=False
    )
    texts = (text.removeprefix(first) for text in both)
    return {
        token: NO_CHARACTER + names[token] if NO_CHARACTER in text else text
        for token, text in zip(names, texts, strict=True)
    }
