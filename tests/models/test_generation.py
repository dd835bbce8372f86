"""Greedy decoding against Hugging Face's own, and against recomputation without any cache."""

import numpy as np
import pytest
import torch

from memdec.errors import ConfigError
from memdec.models.generation import NextToken, encode_prompt, greedy, mixed_step, stop_ids
from memdec.models.tokenizer import read_token_rules

PROMPT = [3, 11, 7, 5]
VOCAB = 53
NEW = 20  # longer than the tiny Gemma's sliding window of 6


def recompute_greedy(lms, alpha, prompt, num_new, offered=None):
    """Mix probabilities in float64, reading the whole text again at each step."""
    ids = list(prompt)
    for _ in range(num_new):
        shares = [1 - alpha, alpha] if len(lms) == 2 else [1.0]
        mixed = 0
        for lm, share in zip(lms, shares, strict=True):
            with torch.no_grad():
                logits = lm(torch.tensor([ids]), use_cache=False).logits[0, -1].double().numpy()
            weights = np.exp(logits - logits.max())
            if offered is not None and lm is lms[-1]:
                weights[~np.isin(np.arange(len(weights)), offered)] = 0
            mixed = mixed + share * weights / weights.sum()
        ids.append(int(mixed.argmax()))
    return ids[len(prompt) :]


def test_base_alone_continues_as_hugging_face_does(build_lm):
    lm = build_lm(seed=1)
    theirs = lm.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=NEW)[0].tolist()
    ours = greedy([NextToken(lm, VOCAB)], 0.0, PROMPT, NEW, eos_ids=())
    assert len(ours) == NEW
    assert len(set(ours)) > 3  # a constant continuation would prove little
    assert PROMPT + ours == theirs


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_mixture_agrees_with_recomputation_without_cache(build_lm, alpha):
    lms = [build_lm(seed=1), build_lm(seed=2)]
    ours = greedy([NextToken(lm, VOCAB) for lm in lms], alpha, PROMPT, NEW, eos_ids=())
    assert ours == recompute_greedy(lms, alpha, PROMPT, NEW)


def test_base_memory_and_mixture_differ(build_lm):
    lms = [build_lm(seed=1), build_lm(seed=2)]
    components = [NextToken(lm, VOCAB) for lm in lms]
    results = {tuple(greedy(components, a, PROMPT, NEW, eos_ids=())) for a in (0.0, 0.4, 1.0)}
    assert len(results) == 3


def test_a_memory_may_offer_some_tokens_only(llama):
    lms = [llama(seed=1), llama(seed=2)]
    offered = [4, 9, 17, 30]

    def spread(logits_BV):
        log_probs_BV = torch.full_like(logits_BV, -torch.inf)
        log_probs_BV[:, offered] = logits_BV[:, offered].log_softmax(-1)
        return log_probs_BV

    components = [NextToken(lms[0], VOCAB), NextToken(lms[1], VOCAB, spread)]
    for alpha in (0.0, 0.4, 1.0):
        ours = greedy(components, alpha, PROMPT, NEW, eos_ids=())
        assert ours == recompute_greedy(lms, alpha, PROMPT, NEW, offered=offered)
    assert set(ours) <= set(offered)


def test_base_and_memory_may_be_of_different_architectures(llama, build_lm):
    lms = [llama(seed=1), build_lm(seed=2)]
    ours = greedy([NextToken(lm, VOCAB) for lm in lms], 0.5, PROMPT, NEW, eos_ids=())
    assert ours == recompute_greedy(lms, 0.5, PROMPT, NEW)


def test_each_step_reads_the_new_token_alone_with_a_cache_of_its_own(llama):
    class Spy(NextToken):
        def step(self, input_ids_BT, cache):
            seen.append((self, tuple(input_ids_BT.shape), cache and cache.get_seq_length()))
            return super().step(input_ids_BT, cache)

    seen = []
    components = [Spy(llama(seed=1), VOCAB), Spy(llama(seed=2), VOCAB)]
    greedy(components, 0.5, PROMPT, 3, eos_ids=())
    expected = [((1, 4), None), ((1, 1), 4), ((1, 1), 5)]
    for component in components:
        assert [entry[1:] for entry in seen if entry[0] is component] == expected


def test_the_output_head_runs_at_the_last_position_only(build_lm):
    lm, widths = build_lm(seed=1), []
    head = lm.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    greedy([NextToken(lm, VOCAB)], 0.0, PROMPT, 3, eos_ids=())
    assert widths == [1, 1, 1]


def test_it_stops_at_eos_and_keeps_it(llama):
    lm = llama(seed=1)
    free = greedy([NextToken(lm, VOCAB)], 0.0, PROMPT, NEW, eos_ids=())
    eos = free[5]
    stopped = greedy([NextToken(lm, VOCAB)], 0.0, PROMPT, NEW, eos_ids={eos})
    assert stopped == free[: free.index(eos) + 1]
    theirs = lm.generate(
        torch.tensor([PROMPT]),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=[eos],
        pad_token_id=eos,
    )
    assert theirs[0].tolist() == PROMPT + stopped


@pytest.mark.parametrize("num_new", [1, 2, 7])
def test_it_makes_exactly_as_many_tokens_as_asked(llama, num_new):
    ours = greedy([NextToken(llama(seed=1), VOCAB)], 0.0, PROMPT, num_new, eos_ids=())
    assert len(ours) == num_new


@pytest.mark.parametrize("widths", [(53, 59), (59, 53)])
def test_padded_vocabularies_keep_the_common_prefix_renormalised(llama, widths):
    lms = [llama(seed, width) for seed, width in zip((1, 2), widths, strict=True)]
    components = [NextToken(lm, 53) for lm in lms]
    mixed_BV, _ = mixed_step(components, [None, None], 0.4, torch.tensor([PROMPT]))
    with torch.no_grad():
        logits = [lm(torch.tensor([PROMPT])).logits[:, -1, :53].double() for lm in lms]
    expected = 0.6 * logits[0].softmax(-1) + 0.4 * logits[1].softmax(-1)
    torch.testing.assert_close(mixed_BV.double().exp(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(mixed_BV.exp().sum(), torch.tensor(1.0))


def test_a_token_that_only_pads_the_head_is_never_chosen(llama):
    plain, padded = llama(seed=1), llama(seed=1, vocab_size=59)
    with torch.no_grad():
        padded.lm_head.weight[53:] = 4 * plain.lm_head.weight[[*PROMPT, 8, 9]]
    wide = greedy([NextToken(padded, 59)], 0.0, PROMPT, NEW, eos_ids=())
    assert max(wide) >= 53
    for lms in ([padded], [padded, padded]):
        components = [NextToken(lm, 53) for lm in lms]
        assert max(greedy(components, 0.5, PROMPT, NEW, eos_ids=())) < 53


def test_predictions_are_float32_whatever_the_model(llama):
    log_probs_BV, _ = NextToken(llama(seed=1).bfloat16(), VOCAB).step(torch.tensor([PROMPT]), None)
    assert log_probs_BV.dtype == torch.float32
    assert log_probs_BV.shape == (1, 53)


def test_a_text_may_fill_the_positions_but_not_outgrow_them(build_lm):
    lm = build_lm(seed=1)
    room = lm.config.max_position_embeddings
    component = NextToken(lm, VOCAB)
    assert len(greedy([component], 0.0, PROMPT, room - 3, eos_ids=())) == room - 3
    with pytest.raises(ConfigError, match=f"need {room + 1} positions but the model has {room}"):
        greedy([component], 0.0, PROMPT, room - 2, eos_ids=())


@pytest.mark.parametrize(
    ("alpha", "prompt", "num_new", "message"),
    [
        (1.1, PROMPT, 3, r"alpha must lie in \[0, 1\], got 1.1"),
        (-0.1, PROMPT, 3, r"alpha must lie in \[0, 1\]"),
        (0.5, [], 3, "prompt is empty"),
        (0.5, PROMPT, 0, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_bad_requests_are_refused(llama, alpha, prompt, num_new, message):
    with pytest.raises(ConfigError, match=message):
        greedy([NextToken(llama(seed=1), VOCAB)], alpha, prompt, num_new, eos_ids=())


def test_the_prompt_starts_with_bos_only_where_the_rules_ask_for_it(plain_tokenizer, bos_tokenizer):
    for tokenizer, bos in ((plain_tokenizer, []), (bos_tokenizer, [2])):
        ids = encode_prompt(tokenizer, read_token_rules(tokenizer), "the work")
        assert ids == bos + tokenizer("the work", add_special_tokens=False).input_ids


def test_a_text_ends_at_the_models_eos_and_at_the_separator(llama, plain_tokenizer):
    rules, lm = read_token_rules(plain_tokenizer), llama(seed=1)
    assert stop_ids(lm, rules) == {0}
    lm.generation_config.eos_token_id = 2
    assert stop_ids(lm, rules) == {0, 2}
    lm.generation_config.eos_token_id = [2, 5]
    assert stop_ids(lm, rules) == {0, 2, 5}
