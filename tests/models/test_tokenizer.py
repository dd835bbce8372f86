"""Token rules are those of the tokenizer itself; text never turns into special tokens."""

import dataclasses
import json
import logging
import shlex
from itertools import accumulate

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from memdec.errors import ConfigError, DataError
from memdec.models.tokenizer import (
    character_counter,
    check_same_tokenizer,
    encoder,
    read_token_rules,
    reads_alike,
    tokenizer_hash,
)


def test_a_bos_that_is_named_but_never_added_is_not_put_on_windows(plain_tokenizer):
    rules = read_token_rules(plain_tokenizer)
    assert plain_tokenizer.bos_token_id == rules.bos_id == 1
    assert not rules.bos_on_each_window


def test_a_bos_that_the_tokenizer_adds_is_put_on_windows(bos_tokenizer):
    rules = read_token_rules(bos_tokenizer)
    assert rules.bos_on_each_window
    assert rules.bos_id == 2


def test_bos_can_be_overridden(plain_tokenizer, bos_tokenizer):
    assert read_token_rules(plain_tokenizer, bos="always").bos_on_each_window
    assert not read_token_rules(bos_tokenizer, bos="never").bos_on_each_window


def test_an_unknown_letter_that_doubles_as_bos_is_not_taken_for_bos():
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({"<s>": 0, "b": 1}, unk_token="<s>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<s>", unk_token="<s>"
    )
    assert tokenizer("a").input_ids == [0]
    assert not read_token_rules(tokenizer).bos_on_each_window


def test_the_separator_is_endoftext_where_that_is_a_token_else_eos(plain_tokenizer, bos_tokenizer):
    assert read_token_rules(plain_tokenizer).separator_id == 0
    assert plain_tokenizer.eos_token_id == 2
    assert read_token_rules(bos_tokenizer).separator_id == bos_tokenizer.eos_token_id == 1


def test_the_separator_can_be_overridden(plain_tokenizer):
    assert read_token_rules(plain_tokenizer, separator="<|im_end|>").separator_id == 2


def test_a_tokenizer_without_bos_says_minus_one(tokenizer_builder):
    rules = read_token_rules(tokenizer_builder(bos=None, eos="<|im_end|>"))
    assert rules.bos_id == -1
    assert not rules.bos_on_each_window


def test_vocab_size_bounds_the_token_ids(plain_tokenizer):
    assert read_token_rules(plain_tokenizer).vocab_size == len(plain_tokenizer) == 300


def test_rules_cannot_be_changed(plain_tokenizer):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_token_rules(plain_tokenizer).bos_id = 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"bos": "alway"}, "did you mean 'always'"),
        ({"bos": "always"}, "no BOS token"),
        ({"separator": "<|im_ends|>"}, r"its special tokens: <\|im_end\|>"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(tokenizer_builder, overrides, message):
    with pytest.raises(ConfigError, match=message):
        read_token_rules(tokenizer_builder(bos=None, eos="<|im_end|>"), **overrides)


def test_no_separator_at_all_is_refused(tokenizer_builder):
    with pytest.raises(ConfigError, match=r"set model\.separator"):
        read_token_rules(tokenizer_builder(bos=None, eos=None, specials=()))


def test_special_token_strings_are_read_as_plain_text(plain_tokenizer):
    text = "sell<|im_end|>the"
    assert 2 in plain_tokenizer(text).input_ids
    (ids,) = encoder(plain_tokenizer)([text])
    assert not {0, 1, 2} & set(ids)
    assert plain_tokenizer.decode(ids) == text


def test_encoding_adds_no_bos(bos_tokenizer):
    ids = encoder(bos_tokenizer)(["The work", ""])
    assert ids == [bos_tokenizer("The work").input_ids[1:], []]
    assert encoder(bos_tokenizer)([]) == []


def test_long_texts_are_neither_cut_nor_warned_about(tokenizer_builder, caplog):
    tokenizer = tokenizer_builder("<|im_start|>", "<|im_end|>")  # each warns only once
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        (ids,) = encoder(tokenizer)(["the work " * 50])
    finally:
        logger.removeHandler(caplog.handler)
    assert tokenizer.decode(ids) == "the work " * 50
    assert len(ids) > tokenizer.model_max_length
    assert not caplog.records


@given(text=st.text(max_size=20))
def test_tokens_cover_the_characters_whose_first_byte_they_reach(plain_tokenizer, text):
    # Byte-level tokens: the bytes of n tokens are known, so the characters are counted by hand.
    (ids,) = encoder(plain_tokenizer)([text])
    tokens = plain_tokenizer.convert_ids_to_tokens(ids)
    starts = [0, *accumulate(len(character.encode()) for character in text)][:-1]
    for n in range(len(ids) + 1):
        num_bytes = sum(len(token) for token in tokens[:n])  # one letter stands for one byte
        expected = sum(start < num_bytes for start in starts)
        assert character_counter(plain_tokenizer)(text, n) == expected


def test_special_token_strings_are_counted_as_plain_text(plain_tokenizer):
    text = "<|im_end|>ab"
    assert [character_counter(plain_tokenizer)(text, n) for n in (0, 1, 2)] == [0, 1, 2]


def test_the_hash_survives_saving_and_forgets_how_the_tokenizer_was_used(tmp_path, plain_tokenizer):
    before = tokenizer_hash(plain_tokenizer)
    plain_tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again(["a", "b b b b"], padding=False, truncation=True, max_length=2)
    encoder(again)(["the work"])
    assert tokenizer_hash(again) == before


def test_the_hash_ignores_bos_but_not_merges_or_tokens(plain_tokenizer, tokenizer_builder):
    base = tokenizer_hash(plain_tokenizer)
    with_bos = tokenizer_builder("<|im_start|>", "<|im_end|>", adds_bos=True)
    assert tokenizer_hash(with_bos) == base
    other_merges = tokenizer_builder(
        "<|im_start|>", "<|im_end|>", merges_from=["completely other words in here"]
    )
    more_tokens = tokenizer_builder("<|im_start|>", "<|im_end|>")
    more_tokens.add_tokens(["licensee"])
    assert len({base, tokenizer_hash(other_merges), tokenizer_hash(more_tokens)}) == 3


def test_a_tokenizer_without_a_backend_is_refused():
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        tokenizer_hash(object())


def test_base_and_memory_with_different_tokenizers_are_refused(plain_tokenizer, tokenizer_builder):
    check_same_tokenizer("base-a", plain_tokenizer, "memory-b", plain_tokenizer)
    other = tokenizer_builder("<|im_start|>", "<|im_end|>", merges_from=["completely other words"])
    with pytest.raises(
        ConfigError,
        match=r"base-a and memory memory-b .* model\.source=base-a .*transfer=copied",
    ):
        check_same_tokenizer("base-a", plain_tokenizer, "memory-b", other)
    with pytest.raises(ConfigError) as refused:
        check_same_tokenizer("my base", plain_tokenizer, "my mem", other)
    words = shlex.split(str(refused.value).partition("memdec run EXPERIMENT ")[2])
    assert words[:2] == ["model.source=my base", "memory_decoder.init=my mem"]
    assert words[-1] == "methods=[base,memory_decoder]"


def test_a_memory_may_have_added_tokens_that_the_base_lacks(plain_tokenizer, tokenizer_builder):
    more = tokenizer_builder("<|im_start|>", "<|im_end|>")
    more.add_tokens(["<tool_call>"])
    check_same_tokenizer("qwen2", plain_tokenizer, "qwen2.5", more)
    with pytest.raises(ConfigError, match="different tokenizers"):
        check_same_tokenizer("qwen2.5", more, "qwen2", plain_tokenizer)
    renamed = tokenizer_builder("<|im_start|>", "<|im_end|>")
    renamed.add_tokens(["<fim>"])
    with pytest.raises(ConfigError, match="different tokenizers"):
        check_same_tokenizer("qwen2.5", more, "another", renamed)


def test_rows_that_pad_the_vocabulary_of_a_memory_are_no_difference(plain_tokenizer):
    whole = json.loads(plain_tokenizer.backend_tokenizer.to_str())
    size = len(plain_tokenizer)
    whole["model"]["vocab"] |= {f"[PAD{i}]": i for i in range(size, size + 5)}
    padded = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(whole))
    )
    assert tokenizer_hash(padded) != tokenizer_hash(plain_tokenizer)
    assert reads_alike(plain_tokenizer, padded)
    assert reads_alike(padded, plain_tokenizer)
    assert (
        read_token_rules(padded).vocab_size == size == read_token_rules(plain_tokenizer).vocab_size
    )
    padded.add_tokens(["<new>"])  # behind the padding, which then has a place to keep
    assert read_token_rules(padded).vocab_size == size + 6
