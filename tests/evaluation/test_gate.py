"""The gate against cases worked by hand, and against one alpha on other text."""

import numpy as np
import pytest
import torch

from memdec.evaluation.alpha import best_alpha
from memdec.evaluation.gate import fit_gate
from memdec.evaluation.settle import mix, settle
from memdec.methods.contract import AdaptedLM, Candidate


def draw(num_tokens, seed):
    """Return log-probs where one feature tells which side is right, and one tells nothing."""
    random = np.random.default_rng(seed)
    hint_N = random.normal(size=num_tokens)
    memory_is_right_N = random.random(num_tokens) < 1 / (1 + np.exp(-2 * hint_N))
    lm_N = np.where(memory_is_right_N, 0.05, 0.5)
    memory_N = np.where(memory_is_right_N, 0.6, 0.0)
    features_NF = np.stack([hint_N, random.normal(size=num_tokens)], 1)
    with np.errstate(divide="ignore"):
        return [np.float32(x) for x in (np.log(lm_N), np.log(memory_N), features_NF)]


def mixed(lm_N, memory_N, alpha):
    alpha = {"test": alpha} if isinstance(alpha, torch.Tensor) else alpha
    return mix({"test": lm_N}, {"test": memory_N}, alpha)["test"]


def perplexity(log_probs_N):
    return float(np.exp(-np.mean(log_probs_N, dtype=np.float64)))


def test_features_that_say_nothing_give_the_best_single_alpha():
    lm_N, memory_N, features_NF = draw(400, seed=1)
    alpha, _ = best_alpha(lm_N, memory_N)
    gate = fit_gate(lm_N, memory_N, np.zeros_like(features_NF), 0.5)
    alphas_N = gate.alphas(np.zeros_like(features_NF))
    np.testing.assert_allclose(alphas_N, alpha, atol=1e-4)


def test_a_telling_feature_beats_one_alpha_on_other_text():
    lm_N, memory_N, features_NF = draw(2000, seed=2)
    alpha, _ = best_alpha(lm_N, memory_N)
    gate = fit_gate(lm_N, memory_N, features_NF, alpha)
    assert gate.weights_F[0] > 10 * abs(gate.weights_F[1]) > 0
    lm_N, memory_N, features_NF = draw(2000, seed=3)
    alphas_N = gate.alphas(features_NF)
    gated_N = mixed(lm_N, memory_N, alphas_N)
    shares_N = alphas_N.numpy()
    wanted = np.log((1 - shares_N) * np.exp(lm_N) + shares_N * np.exp(memory_N))
    np.testing.assert_allclose(gated_N, wanted, rtol=1e-5, atol=1e-6)
    one_N = mixed(lm_N, memory_N, alpha)
    best_N = np.maximum(lm_N, memory_N)
    assert perplexity(best_N) < perplexity(gated_N) < 0.95 * perplexity(one_N)


def test_the_optimum_is_one():
    """No small step of any weight lowers the penalised NLL."""
    lm_N, memory_N, features_NF = draw(500, seed=4)
    gate = fit_gate(lm_N, memory_N, features_NF, 0.3)

    def objective(weights_F, bias):
        standard = (features_NF.astype(np.float64) - gate.mean_F.numpy()) / gate.scale_F.numpy()
        share = 1 / (1 + np.exp(-(standard @ weights_F + bias)))
        mixed = share * np.exp(memory_N.astype(float)) + (1 - share) * np.exp(lm_N.astype(float))
        return -np.log(mixed).mean() + 1e-3 * (weights_F**2).sum()

    weights_F = gate.weights_F.numpy()
    best = objective(weights_F, gate.bias)
    for step in (0.01, -0.01):
        assert objective(weights_F, gate.bias + step) > best
        for f in range(2):
            assert objective(weights_F + step * np.eye(2)[f], gate.bias) > best


def test_tokens_that_the_memory_lacks_stay_finite():
    lm_N, memory_N, features_NF = draw(300, seed=5)
    assert np.isinf(memory_N).any()
    gate = fit_gate(lm_N, memory_N, features_NF * 50, 0.999999)
    assert gate.weights_F.abs().min() > 0
    assert np.isfinite(mixed(lm_N, memory_N, gate.alphas(features_NF * 1e6))).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_single_alpha_at_an_end_leaves_the_gate_free(alpha):
    lm_N, memory_N, features_NF = draw(500, seed=7)
    found = fit_gate(lm_N, memory_N, features_NF, alpha)
    wanted = fit_gate(lm_N, memory_N, features_NF, 0.5)
    torch.testing.assert_close(found.weights_F, wanted.weights_F, atol=1e-4, rtol=0)


def test_plain_weights_are_the_gate():
    lm_N, memory_N, features_NF = draw(300, seed=8)
    gate = fit_gate(lm_N, memory_N, features_NF, 0.5)
    *weights, bias = gate.plain_weights().tolist()
    logits_N = features_NF.astype(np.float64) @ weights + bias
    np.testing.assert_allclose(gate.alphas(features_NF), 1 / (1 + np.exp(-logits_N)), rtol=1e-9)


def test_settling_gates_with_validation_alone():
    lm_N, memory_N, features_NF = draw(600, seed=6)
    parts = {"validation": slice(0, 400), "test": slice(400, 600)}
    adapted = AdaptedLM(
        lm={split: lm_N[part] for split, part in parts.items()},
        candidates=(Candidate({split: memory_N[part] for split, part in parts.items()}),),
        gate_features={split: features_NF[part] for split, part in parts.items()},
        gate_feature_names=("hint", "noise"),
    )
    settled = settle(adapted)
    alpha, _ = best_alpha(lm_N[:400], memory_N[:400])
    gate = fit_gate(lm_N[:400], memory_N[:400], features_NF[:400], alpha)
    wanted_N = mixed(lm_N[400:], memory_N[400:], gate.alphas(features_NF[400:]))
    assert np.array_equal(settled.gold_log_probs["test"], wanted_N)
    assert settled.alpha is None
    weights = [settled.tuned[f"gate: {name}"] for name in ("hint", "noise", "bias")]
    assert weights == gate.plain_weights().tolist()
    assert settled.tuned["mean alpha, test"] == pytest.approx(
        gate.alphas(features_NF[400:]).mean().item()
    )
