"""Greedy decoding with a language model alone, or mixed with a memory; each keeps its own KV cache.

Shape legend: B sequences, T new input positions, V vocabulary.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memdec.checks import check_at_least, check_share
from memdec.errors import ConfigError
from memdec.models.mixture import mix_log_probs
from memdec.models.tokenizer import TokenRules, encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NextToken:
    """A Hugging Face causal LM that predicts the next token of a sequence, step by step."""

    def __init__(
        self,
        lm: "PreTrainedModel",
        vocab_size: int,
        log_probs: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Wrap `lm`, which must be in evaluation mode.

        Args:
            lm: The model.
            vocab_size: V, the tokens that all parts of a mixture have; the rest of the head is cut.
            log_probs: From logits [B, V] to log-probs [B, V], -inf where nothing is offered;
                a softmax over all tokens unless given (MemoryDecoder.spread is one).
        """
        self.lm = lm
        self.vocab_size = vocab_size
        self.log_probs = log_probs or _log_softmax
        self.max_positions: int = lm.config.get_text_config().max_position_embeddings

    def step(self, input_ids_BT: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Read T more tokens; return the next token's log-probs [B, V] in f32 and the cache.

        The cache is None at the start of a sequence; what comes back belongs to the model.
        """
        output = self.lm(
            input_ids=input_ids_BT.to(self.lm.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return self.log_probs(output.logits[:, -1, : self.vocab_size]), output.past_key_values


def greedy(
    components: Sequence[NextToken],
    alpha: float,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    eos_ids: Collection[int],
) -> list[int]:
    """Continue a prompt with the most likely token at each step (ties: the lower id).

    Args:
        components: The language model, alone or followed by the memory.
        alpha: The memory's share in [0, 1]; a language model alone has nothing to mix.
        prompt_ids: At least one token, with BOS in front where the model wants one.
        max_new_tokens: Exactly so many are made, unless one of `eos_ids` comes first.
        eos_ids: Tokens that end the text; the one that did is the last of the result.

    Raises:
        ConfigError: A number is out of range, the prompt is empty, or the text would outgrow
            a model's positions.
    """
    assert len(components) in (1, 2), "a language model, and at most one memory"
    check_share("alpha", alpha)
    check_at_least("max_new_tokens", max_new_tokens, 1)
    room = min(component.max_positions for component in components)
    check_positions(len(prompt_ids), max_new_tokens, room)
    caches: list[Any] = [None] * len(components)
    new_ids: list[int] = []
    inputs_BT = torch.tensor([list(prompt_ids)])
    while len(new_ids) < max_new_tokens:
        log_probs_BV, caches = mixed_step(components, caches, alpha, inputs_BT)
        inputs_BT = log_probs_BV.argmax(-1, keepdim=True)
        new_ids.append(int(inputs_BT[0, 0]))
        if new_ids[-1] in eos_ids:
            break
    return new_ids


@torch.no_grad()
def mixed_step(
    components: Sequence[NextToken], caches: Sequence[Any], alpha: float, inputs_BT: Tensor
) -> tuple[Tensor, list[Any]]:
    """Step each component with its own cache and mix what they predict [B, V]."""
    steps = [c.step(inputs_BT, cache) for c, cache in zip(components, caches, strict=True)]
    caches = [cache for _, cache in steps]
    if len(steps) == 1:
        return steps[0][0], caches
    lm_BV, memory_BV = (log_probs_BV for log_probs_BV, _ in steps)
    return mix_log_probs(lm_BV, memory_BV.to(lm_BV.device), alpha), caches


def encode_prompt(tokenizer: Any, rules: TokenRules, text: str) -> list[int]:
    """Return the prompt's token ids, with BOS in front where the rules ask for it."""
    prefix = [rules.bos_id] if rules.bos_on_each_window else []
    return prefix + encoder(tokenizer)([text])[0]


def stop_ids(lm: "PreTrainedModel", rules: TokenRules) -> frozenset[int]:
    """Return the tokens that end a text: the model's own EOS, and the documents' separator."""
    eos = lm.generation_config.eos_token_id if lm.generation_config else None
    own = [] if eos is None else [eos] if isinstance(eos, int) else eos
    return frozenset([*own, rules.separator_id])


def _log_softmax(scores: Tensor) -> Tensor:
    return scores.float().log_softmax(-1)


def check_positions(num_prompt: int, max_new_tokens: int, room: int) -> None:
    """Refuse a prompt that is empty, or that with its continuation takes more positions."""
    if num_prompt == 0:
        raise ConfigError("The prompt is empty; give at least one token of text.")
    needed = num_prompt + max_new_tokens - 1  # the last new token is never read
    if needed > room:
        raise ConfigError(
            f"A prompt of {num_prompt:,} tokens and max_new_tokens {max_new_tokens:,} need "
            f"{needed:,} positions but the model has {room:,}; shorten one of them."
        )
