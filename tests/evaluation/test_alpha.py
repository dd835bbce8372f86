"""Shape legend: N scored tokens."""

import math

import numpy as np
import pytest

from memdec.errors import DataError
from memdec.evaluation import alpha as module
from memdec.evaluation.alpha import alpha_curve, best_alpha, best_weights, mixture_nll

NEVER = -math.inf


def slow_nll(lm_N, memory_N, alpha):
    """Mean NLL of the mixture, from the definition, in float64."""
    probs = (1 - alpha) * np.exp(np.float64(lm_N)) + alpha * np.exp(np.float64(memory_N))
    with np.errstate(divide="ignore"):
        return float(-np.log(probs).mean())


def draw(seed, count=500, absent=0.3):
    """Return log-probs of a base and of a retriever that lacks some tokens."""
    generator = np.random.default_rng(seed)
    lm_N = np.log(generator.beta(0.5, 2.0, count) * 0.98 + 0.01)
    memory_N = np.log(generator.beta(0.5, 1.0, count) * 0.98 + 0.01)
    memory_N[generator.random(count) < absent] = NEVER
    return lm_N.astype(np.float32), memory_N.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("absent", [0.0, 0.3, 0.9])
def test_the_best_alpha_beats_a_dense_grid(seed, absent):
    lm_N, memory_N = draw(seed, absent=absent)
    alpha, nll = best_alpha(lm_N, memory_N)
    grid = np.linspace(0, 1, 2001)
    values = [slow_nll(lm_N, memory_N, a) for a in grid]
    best = int(np.argmin(values))
    assert abs(alpha - grid[best]) <= 0.5 / 2000 + 1e-6  # the grid's own spacing
    assert nll <= values[best] + 1e-12
    assert nll == pytest.approx(slow_nll(lm_N, memory_N, alpha), abs=1e-12)


def test_a_hand_worked_optimum():
    # nll = -(log(1 - a) + 2 log a) / 3 is least at a = 2 / 3
    lm_N = np.array([0.0, -800.0, -800.0])
    memory_N = np.array([NEVER, 0.0, 0.0])
    alpha, nll = best_alpha(lm_N, memory_N)
    assert alpha == pytest.approx(2 / 3, abs=1e-6)
    assert nll == pytest.approx(-(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3, abs=1e-9)


@pytest.mark.parametrize(
    ("lm", "memory", "alpha"),
    [
        ([0.5, 0.5], [0.4, 0.4], 0.0),
        ([0.5, 0.5], [0.5, 0.5], 0.0),  # all alike: any alpha is best, keep the base
        ([0.5, 0.5], [0.0, 0.0], 0.0),
        ([0.4, 0.4], [0.5, 0.5], 1.0),
        ([0.5], [0.0], 0.0),
        ([0.5], [0.6], 1.0),
    ],
)
def test_the_ends_are_exact(lm, memory, alpha):
    with np.errstate(divide="ignore"):
        found, nll = best_alpha(np.log(lm), np.log(memory))
    assert found == alpha
    assert nll == pytest.approx(-np.log(memory if alpha else lm).mean())


def test_a_memory_that_lacks_one_token_never_gets_everything():
    alpha, nll = best_alpha(np.log([0.01] * 200), np.array([0.0] * 199 + [NEVER]))
    assert 0.9 < alpha < 1
    assert math.isfinite(nll)


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("tokens_at_once", [7, 1 << 17])
def test_the_curve_equals_the_definition(group, tokens_at_once, monkeypatch):
    monkeypatch.setattr(module, "GROUP", group)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", tokens_at_once)
    lm_N, memory_N = draw(9, count=101)
    lm_N[:3] = [-300.0, -100.0, -85.0]  # gains beyond exp's comfort
    memory_N[:3] = [-0.1, -5.0, -0.5]
    alphas, perplexities = alpha_curve(lm_N, memory_N, 11)
    assert alphas == pytest.approx(np.linspace(0, 1, 11))
    wanted = [math.exp(slow_nll(lm_N, memory_N, a)) for a in alphas[:-1]]
    assert perplexities[:-1] == pytest.approx(wanted, rel=1e-9)
    assert perplexities[-1] == math.inf


def test_at_both_ends_the_curve_is_the_models_own():
    lm_N, memory_N = draw(3, absent=0.0)
    nll = mixture_nll(lm_N, memory_N, [0.0, 1.0])
    assert nll[0] == pytest.approx(-lm_N.astype(np.float64).mean(), abs=1e-12)
    assert nll[1] == pytest.approx(-memory_N.astype(np.float64).mean(), abs=1e-12)
    hopeless_N = np.full(16, -120.0)  # a group's product would be too small for float64
    assert mixture_nll(np.full(16, -1.0), hopeless_N, [1.0]).tolist() == pytest.approx([120.0])


@pytest.mark.parametrize(
    ("lm", "memory"),
    [
        ([], []),
        ([-1.0, -1.0], [-1.0]),
        ([[-1.0]], [[-1.0]]),
        ([NEVER], [-1.0]),
        ([math.nan], [-1.0]),
        ([-1.0], [math.nan]),
        ([0.5], [-1.0]),
        ([-1.0], [0.5]),
    ],
)
def test_what_is_no_log_prob_is_refused(lm, memory):
    with pytest.raises(DataError, match="log-probs"):
        best_alpha(np.array(lm), np.array(memory))


def test_weights_of_one_memory_are_its_alpha():
    draw = np.random.default_rng(11)
    lm_N, memory_N = np.log(draw.random((2, 300)))
    memory_N[:9] = -np.inf
    (weight,) = best_weights(lm_N, memory_N[None])
    assert weight == pytest.approx(best_alpha(lm_N, memory_N)[0], abs=1e-4)


def test_weights_of_two_memories_are_the_best_of_a_grid():
    draw = np.random.default_rng(12)
    lm_N, first_N, second_N = draw.dirichlet([1, 2, 1.5], 200).T
    weights = best_weights(np.log(lm_N), np.log([first_N, second_N]))

    def nll(a, b):
        return -np.log((1 - a - b) * lm_N + a * first_N + b * second_N).mean()

    grid = np.linspace(0, 1, 101)
    best = min((nll(a, b), a, b) for a in grid for b in grid if a + b <= 1)
    assert nll(*weights) <= best[0]
    np.testing.assert_allclose(weights, best[1:], atol=0.011)


def test_a_useless_memory_gets_no_weight():
    lm_N = np.log(np.full(50, 0.5))
    weights = best_weights(lm_N, np.log([np.full(50, 0.1), np.full(50, 0.4)]))
    assert weights.sum() < 1e-3
