"""Retrieval in context against one forward pass a token. Shape legend: V vocabulary."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.windows import Window, make_windows
from memdec.evaluation.passage_scores import (
    Retriever,
    make_groups,
    make_room,
    score_split_with_passages,
    share_passes,
)
from memdec.models.loading import load_causal_lm, load_tokenizer
from memdec.models.tokenizer import read_token_rules

NUM_TOKENS, BLOCK, STRIDE, EVERY, QUERY = 90, 37, 23, 4, 5
PASSAGES = [np.arange(10, 10 + length, dtype=np.uint32) for length in (3, 11, 7)]


def test_each_scored_token_is_in_one_group():
    windows = make_windows(NUM_TOKENS, BLOCK, STRIDE)
    groups = make_groups(windows, EVERY)
    scored = [p for group in groups for p in range(group.first_scored, group.end)]
    assert scored == list(range(1, NUM_TOKENS))
    assert max(group.end - group.first_scored for group in groups) == EVERY
    for group in groups:
        (owner,) = [w for w in windows if w.first_scored <= group.first_scored < w.end]
        assert group.start == owner.start


def test_room_is_made_at_the_old_end_of_the_context():
    assert make_room(Window(3, 18, 22), 40) == Window(3, 18, 22)
    assert make_room(Window(3, 18, 22), 6) == Window(15, 18, 22)


def test_groups_of_one_start_and_passage_share_a_pass():
    groups = [Window(0, 1, 5), Window(0, 5, 9), Window(0, 9, 13), Window(4, 13, 17)]
    passes, places = share_passes(groups, np.array([2, -1, 2, 2], np.int32))
    assert passes == [(Window(0, 1, 13), 2), (Window(0, 5, 9), -1), (Window(4, 13, 17), 2)]
    assert places.tolist() == [0, 1, 0, 2]


class Fixed:
    """Finds a passage from what the query says; every fourth query finds none."""

    def best(self, queries):
        self.seen = [*getattr(self, "seen", []), *queries]
        return np.array([sum(query) % 4 - 1 for query in queries], np.int32)


def by_hand(lm, tokens, rules, max_inputs):
    """Score position by position: its group's query, its passage, what fits of the context."""
    bos = [rules.bos_id] if rules.bos_on_each_window else []
    log_probs, numbers = [], []
    for window in make_windows(NUM_TOKENS, BLOCK, STRIDE):
        for position in range(window.first_scored, window.end):
            first = position - (position - window.first_scored) % EVERY
            number = int(tokens[max(0, first - QUERY) : first].sum()) % 4 - 1
            passage = PASSAGES[number].tolist() if number >= 0 else []
            last = min(first + EVERY, window.end) - 1
            room = max_inputs - len(passage)
            context = tokens[max(window.start, last - room) : position].tolist()
            with torch.no_grad():
                logits_V = lm(torch.tensor([bos + passage + context])).logits[
                    0, -1, : rules.vocab_size
                ]
            log_probs.append(float(logits_V.log_softmax(0)[int(tokens[position])]))
            numbers += [number] if position == first else []
    return log_probs, numbers


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("max_inputs", [BLOCK, BLOCK + 5, BLOCK + 11])
def test_scores_are_those_of_one_pass_a_token(tiny_model, tmp_path, kind, batch_size, max_inputs):
    path = tiny_model(kind)
    lm = load_causal_lm(path, "float32", torch.device("cpu"))
    rules = read_token_rules(load_tokenizer(path))
    tokens = np.random.default_rng(3).integers(5, 60, NUM_TOKENS).astype(np.uint32)
    index = Fixed()
    retriever = Retriever(
        passages=PASSAGES, index=index, decode=lambda q: [x.tolist() for x in q], query_tokens=QUERY
    )
    out = ArtifactWriter(tmp_path)
    score_split_with_passages(
        out,
        "test",
        tokens,
        make_windows(NUM_TOKENS, BLOCK, STRIDE),
        rules,
        lm,
        retriever,
        every_tokens=EVERY,
        max_inputs=max_inputs,
        batch_size=batch_size,
    )
    assert rules.bos_on_each_window == (kind == "gemma3")
    log_probs, numbers = by_hand(lm, tokens, rules, max_inputs)
    assert set(numbers) == {-1, 0, 1, 2}
    assert np.load(tmp_path / "test_passages.npy").tolist() == numbers
    found = np.load(tmp_path / "test_gold_log_probs.npy")
    np.testing.assert_allclose(found, log_probs, rtol=1e-4, atol=1e-4)  # float32 sums, other shapes
    assert max(len(query) for query in index.seen) == QUERY


def test_no_input_is_longer_than_the_window(tiny_model, tmp_path, monkeypatch):
    widths = []
    path = tiny_model("gemma3")
    lm = load_causal_lm(path, "float32", torch.device("cpu"))
    lm.base_model.register_forward_pre_hook(
        lambda _, __, named: widths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    tokens = np.arange(5, 5 + NUM_TOKENS, dtype=np.uint32)
    longest = SimpleNamespace(best=lambda queries: np.ones(len(queries), np.int32))
    score_split_with_passages(
        ArtifactWriter(tmp_path),
        "test",
        tokens,
        make_windows(NUM_TOKENS, BLOCK, STRIDE),
        read_token_rules(load_tokenizer(path)),
        lm,
        Retriever(passages=PASSAGES, index=longest, decode=list, query_tokens=QUERY),
        every_tokens=EVERY,
        max_inputs=BLOCK,
        batch_size=3,
    )
    assert max(widths) == BLOCK + 1  # and the BOS
