"""Shape legend: N scored positions, V vocabulary, K top tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.windows import make_windows
from memdec.datastore.encoder import encode
from memdec.evaluation.scores import TOP_TOKENS, score_split
from memdec.models.loading import head_weight, load_causal_lm, load_tokenizer
from memdec.models.memory import MemoryDecoder
from memdec.models.tokenizer import read_token_rules

BLOCK, STRIDE, NUM_TOKENS = 9, 4, 30


@pytest.fixture
def tokens():
    return np.random.default_rng(8).integers(5, 300, NUM_TOKENS).astype(np.uint32)


def context(position, rules, tokens):
    """Return what the window that scores `position` shows before it."""
    end = BLOCK + 1
    while end <= position:
        end += STRIDE
    shown = [int(t) for t in tokens[max(0, min(end, NUM_TOKENS) - 1 - BLOCK) : position]]
    return [rules.bos_id, *shown] if rules.bos_on_each_window else shown


@torch.no_grad()
def slow_log_probs(lm, ids, outputs):
    """Full softmax at the last position in float64; -inf outside `outputs`."""
    logits_V = lm(torch.tensor([ids])).logits[0, -1].double()
    allowed_V = torch.full_like(logits_V, -torch.inf)
    allowed_V[outputs] = 0
    return (logits_V + allowed_V).log_softmax(0).numpy()


def score(folder, tokens, rules, lm, outputs=None, key_layer=None):
    writer = ArtifactWriter(folder / ".part")
    writer.clear()
    score_split(
        writer,
        "test",
        tokens,
        make_windows(NUM_TOKENS, BLOCK, STRIDE),
        rules,
        MemoryDecoder(lm, outputs),
        batch_size=2,
        key_layer=key_layer,
    )
    return writer


@pytest.mark.parametrize("kind", ["gemma3", "gpt2", "llama"])
@pytest.mark.parametrize("restricted", [False, True])
def test_every_token_gets_its_log_prob_in_its_window(
    kind, restricted, tiny_model, tokens, tmp_path
):
    lm = load_causal_lm(tiny_model(kind), "float32", torch.device("cpu"))
    rules = read_token_rules(load_tokenizer(tiny_model(kind)))
    outputs = torch.unique(torch.tensor(tokens[:20].astype(np.int64)))
    layer = "last_ffn_input"
    writer = score(tmp_path, tokens, rules, lm, outputs if restricted else None, layer)
    made = writer.seal(tmp_path / "s" / ("a" * 16), "s", "a" * 16, {})
    gold_N, top_NK = made.array("test_gold_log_probs"), made.array("test_top_ids")
    assert (gold_N.shape, gold_N.dtype) == ((NUM_TOKENS - 1,), np.float32)
    allowed = outputs if restricted else torch.arange(rules.vocab_size)
    for position in range(1, NUM_TOKENS):
        ids = context(position, rules, tokens)
        wanted_V = slow_log_probs(lm, ids, allowed)
        row = position - 1
        np.testing.assert_allclose(gold_N[row], wanted_V[tokens[position]], atol=1e-4)
        probs_V = np.exp(wanted_V[np.isfinite(wanted_V)])
        entropy = -(probs_V * np.log(probs_V)).sum()
        assert made.array("test_entropies")[row] == pytest.approx(entropy, abs=1e-4)
        best = np.argsort(-wanted_V)[:TOP_TOKENS]
        assert top_NK[row].tolist() == best.tolist()
        np.testing.assert_allclose(  # float16
            made.array("test_top_log_probs")[row], wanted_V[best], rtol=1e-3, atol=1e-3
        )
        key = encode(lm, "last_ffn_input", torch.tensor([ids]))[0, -1]
        np.testing.assert_allclose(made.array("test_keys")[row], key, rtol=1e-3, atol=1e-4)
    absent = ~np.isin(tokens[1:], outputs)
    assert absent.any()
    assert (np.isneginf(gold_N) == (absent & restricted)).all()


def test_tokens_that_only_pad_a_head_get_no_probability(tiny_model, tokens, tmp_path):
    lm = load_causal_lm(tiny_model("llama"), "float32", torch.device("cpu"))
    rules = read_token_rules(load_tokenizer(tiny_model("llama")))
    head_VD = head_weight(lm)
    found = []
    for number, width in enumerate((0, 3, 70)):
        padding_PD = 2 * head_VD[:width]  # as likely as any token
        padded = replace(rules, vocab_size=len(head_VD))
        lm.lm_head.weight = torch.nn.Parameter(torch.cat([head_VD, padding_PD]))
        writer = score(tmp_path / str(number), tokens, padded, lm)
        found.append(
            [np.load(writer.path / f"test_{n}.npy") for n in ("gold_log_probs", "top_ids")]
        )
    for gold_N, top_NK in found[1:]:
        np.testing.assert_allclose(gold_N, found[0][0], atol=1e-5)
        assert (top_NK == found[0][1]).all()


def test_without_a_layer_no_keys_are_written(tiny_model, tokens, tmp_path):
    lm = load_causal_lm(tiny_model("llama"), "float32", torch.device("cpu"))
    writer = ArtifactWriter(tmp_path)
    score_split(
        writer,
        "validation",
        tokens,
        make_windows(NUM_TOKENS, BLOCK, STRIDE),
        read_token_rules(load_tokenizer(tiny_model("llama"))),
        MemoryDecoder(lm, torch.tensor([0, 1])),
        batch_size=4,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "validation_entropies.npy",
        "validation_gold_log_probs.npy",
        "validation_top_ids.npy",
        "validation_top_log_probs.npy",
    ]
    assert np.load(tmp_path / "validation_top_ids.npy").shape == (NUM_TOKENS - 1, 2)
