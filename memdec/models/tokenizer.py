"""What a tokenizer decides for a corpus: BOS at window starts, the separator, token ids."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from shlex import quote
from typing import Any

from memdec.checks import check_choice
from memdec.errors import ConfigError, DataError
from memdec.models.config import BOS_RULES

_DOCUMENT_SEPARATOR = "<|endoftext|>"
_ENCODING_PARTS = ("normalizer", "pre_tokenizer", "model")


@dataclass(frozen=True)
class TokenRules:
    """How the tokens of one tokenizer are laid out in a stream and in windows."""

    bos_on_each_window: bool
    """Put `bos_id` in front of every window's inputs."""
    bos_id: int
    """-1 when the tokenizer has no BOS token."""
    separator_id: int
    """Ends each document of the stream."""
    vocab_size: int
    """One more than the largest id of a token in use; a model's head may be larger or smaller."""
    hash: str
    """See `tokenizer_hash`."""


def read_token_rules(tokenizer: Any, bos: str = "auto", separator: str = "auto") -> TokenRules:
    """Read the rules from a Hugging Face tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        bos: auto (does the tokenizer itself put BOS in front of a text?), always or never.
            A tokenizer may well name a BOS token and never use it (SmolLM2, GPT-2).
        separator: A token's text, or auto: `<|endoftext|>` where that is a token, else EOS.

    Raises:
        ConfigError: An override is unknown, or names a token that the tokenizer does not have.
    """
    check_choice("model.bos", bos, BOS_RULES)
    bos_id = tokenizer.bos_token_id
    if bos == "always" and bos_id is None:
        raise ConfigError("model.bos is 'always' but the tokenizer has no BOS token; use never.")
    vocabulary = _used_vocabulary(tokenizer)
    return TokenRules(
        bos_on_each_window=bos == "always" or (bos == "auto" and _adds_bos(tokenizer)),
        bos_id=-1 if bos_id is None else bos_id,
        separator_id=_separator_id(tokenizer, vocabulary, separator),
        vocab_size=max(vocabulary.values()) + 1,
        hash=tokenizer_hash(tokenizer),
    )


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the sha256 of all that turns text into token ids: vocabulary, merges, normaliser.

    The post-processor, padding and truncation are left out: they change no token of a corpus.

    Raises:
        DataError: The tokenizer has no `tokenizers` backend.
    """
    parts, added = _encoding(tokenizer)
    whole = parts | {"added_tokens": added}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def reads_alike(base: Any, other: Any) -> bool:
    """Return whether a model with the tokenizer `other` knows each token of the base's streams.

    Both split text in the same way, and each token of the base is one of `other`, which may have
    added more: a memory of Qwen2.5 serves Qwen2, which lacks 19 of its tokens.
    """
    rules = [_encoding(tokenizer)[0] for tokenizer in (base, other)]
    for encoding in rules:
        if encoding["model"]["type"] == "BPE":  # splits by its merges alone
            del encoding["model"]["vocab"]
    used, known = _used_vocabulary(base), _used_vocabulary(other)
    return rules[0] == rules[1] and used.items() <= known.items()


def check_same_tokenizer(base_name: str, base: Any, memory_name: str, memory: Any) -> None:
    """Raise ConfigError unless the memory's tokenizer reads as the base's does."""
    if not reads_alike(base, memory):
        raise ConfigError(
            f"base {base_name} and memory {memory_name} have different tokenizers "
            f"({len(base):,} and {len(memory):,} tokens), so their tokens cannot be mixed; use the "
            "base that the memory was trained for, or train one for this base with: memdec run "
            f"EXPERIMENT {quote(f'model.source={base_name}')} "
            f"{quote(f'memory_decoder.init={memory_name}')} memory_decoder.transfer=copied "
            "memory_decoder.trained= 'methods=[base,memory_decoder]'"
        )


def encoder(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
    """Return a function from texts to token ids: no BOS or EOS, no truncation, no warnings.

    A text that spells a special token (`<|im_end|>`) is encoded letter by letter, as plain text.
    """

    def encode(texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    return encode


def character_counter(tokenizer: Any) -> Callable[[str, int], int]:
    """Return a function (text, n) -> how many leading characters the text's first n tokens cover.

    A character whose bytes fall into two tokens counts from the first of them on.
    """

    def count(text: str, num_tokens: int) -> int:
        encoded = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        # The largest end: some tokenizers give whitespace tokens an empty span at an early place.
        return max((end for _, end in encoded["offset_mapping"][:num_tokens]), default=0)

    return count


def _encoding(tokenizer: Any) -> tuple[dict[str, Any], Any]:
    """Return what splits text (vocabulary, merges, normaliser) and the tokens added to it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; give a model directory "
            "with a tokenizer.json."
        )
    whole = json.loads(backend.to_str())
    return {name: whole[name] for name in _ENCODING_PARTS}, whole["added_tokens"]


def _used_vocabulary(tokenizer: Any) -> dict[str, int]:
    """Return the tokens without those that only pad the end: .gguf names them [PAD151665], ..."""
    vocabulary: dict[str, int] = dict(tokenizer.get_vocab())
    last = max(vocabulary.values())
    while vocabulary.get(f"[PAD{last}]") == last:
        del vocabulary[f"[PAD{last}]"]
        last -= 1
    return vocabulary


def _adds_bos(tokenizer: Any) -> bool:
    with_special = tokenizer("a")["input_ids"]
    without = tokenizer("a", add_special_tokens=False)["input_ids"]
    # The second test: "a" may itself be read as an unknown token that doubles as BOS.
    return with_special[:1] == [tokenizer.bos_token_id] and with_special != without


def _separator_id(tokenizer: Any, vocabulary: dict[str, int], separator: str) -> int:
    if separator != "auto":
        if separator not in vocabulary:
            near = get_close_matches(separator, tokenizer.all_special_tokens, n=3, cutoff=0.4)
            known = near or tokenizer.all_special_tokens
            raise ConfigError(
                f"model.separator {separator!r} is not a token of this tokenizer; "
                f"its special tokens: {', '.join(known) or 'none'}."
            )
        return vocabulary[separator]
    if _DOCUMENT_SEPARATOR in vocabulary:
        return vocabulary[_DOCUMENT_SEPARATOR]
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"The tokenizer has neither {_DOCUMENT_SEPARATOR} nor an EOS token; set "
            "model.separator to one of its tokens."
        )
    eos_id: int = tokenizer.eos_token_id
    return eos_id
