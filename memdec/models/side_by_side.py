"""Continue one prompt with the base alone and with base + memory."""

from pathlib import Path

from memdec.models.generation import NextToken, encode_prompt, greedy, stop_ids
from memdec.models.loading import head_weight, load_causal_lm, load_tokenizer, pick_device
from memdec.models.memory import load_memory
from memdec.models.tokenizer import check_same_tokenizer, read_token_rules


def continue_both(
    base_path: Path,
    memory_path: Path,
    alpha: float,
    prompt: str,
    max_new_tokens: int,
    device: str,
    dtype: str,
    bos: str = "auto",
    separator: str = "auto",
) -> tuple[str, str]:
    """Return the greedy continuations of base and of base + memory, without the prompt.

    Args:
        base_path: Hugging Face directory of the base.
        memory_path: Export folder of a memory of the same tokenizer.
        alpha: The memory's share, 0 to 1.
        prompt: Text to continue.
        max_new_tokens: Tokens to make, unless the text ends before.
        device: auto, cpu, cuda or cuda:N.
        dtype: Of both models' weights, such as float32.
        bos: The experiment's model.bos, by which both were scored.
        separator: Its model.separator; that token ends a text.

    Raises:
        ConfigError: The tokenizers differ, or a setting is out of range.
        DataError: A folder holds no loadable model or no memory.
    """
    tokenizer = load_tokenizer(base_path)
    check_same_tokenizer(str(base_path), tokenizer, str(memory_path), load_tokenizer(memory_path))
    rules = read_token_rules(tokenizer, bos, separator)
    where = pick_device(device)
    lm = load_causal_lm(base_path, dtype, where)
    memory = load_memory(memory_path, dtype, where)
    vocab_size = min(rules.vocab_size, len(head_weight(lm)), len(head_weight(memory.lm)))
    base_step = NextToken(lm, vocab_size)
    memory_step = NextToken(memory.lm, vocab_size, memory.spread)
    ids, stops = encode_prompt(tokenizer, rules, prompt), stop_ids(lm, rules)
    base_ids = greedy([base_step], 0.0, ids, max_new_tokens, stops)
    mixed_ids = greedy([base_step, memory_step], alpha, ids, max_new_tokens, stops)
    texts = tokenizer.batch_decode([base_ids, mixed_ids], skip_special_tokens=True)
    return texts[0], texts[1]
