"""The memory's best share in a mixture, exactly, from cached gold log-probs.

The mixture's mean NLL is convex in alpha, so its optimum is found by the sign of one derivative.
With r = p_memory / p_lm - 1 for each gold token:
    nll(alpha)  = nll_lm - mean log(1 + alpha r)
    nll'(alpha) = -mean r / (1 + alpha r)

Shape legend: N tokens, A alphas, G groups of tokens that share one logarithm, J powers of alpha.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from memdec.errors import DataError

GROUP = 8
LARGEST_GAIN = 80.0  # nats, up or down; exp(80) to the 8th power still fits float64
ALPHA_TOLERANCE = 1e-6
WEIGHT_TOLERANCE = 1e-8
MOST_ITERATIONS = 10_000
TOKENS_AT_ONCE = 1 << 15


def best_alpha(
    lm_gold_log_probs: ArrayLike | Tensor, memory_gold_log_probs: ArrayLike | Tensor
) -> tuple[float, float]:
    """Return the alpha in [0, 1] with the lowest mean NLL, to 1e-6, and that NLL (nats per token).

    Args:
        lm_gold_log_probs: Finite natural log-probs of the gold tokens under the base [N].
        memory_gold_log_probs: The same under the memory or retriever [N]; may be -inf.

    Raises:
        DataError: Lengths differ, there is no token, or an entry cannot be a log-prob.
    """
    lm_N, gain_N = _gains(lm_gold_log_probs, memory_gold_log_probs)
    ratio_N = gain_N.clamp(max=700.0).expm1()

    def slope(alpha: float) -> float:
        return -float((ratio_N / (1 + alpha * ratio_N)).mean())

    low, high = 0.0, 1.0
    if slope(0.0) >= 0:
        high = 0.0
    elif not bool((ratio_N == -1).any()) and slope(1.0) <= 0:
        low = 1.0
    while high - low > ALPHA_TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) >= 0 else (middle, high)
    alpha = (low + high) / 2
    return alpha, float(mixture_nll(lm_N, lm_N + gain_N, [alpha])[0])


def best_weights(
    lm_gold_log_probs: ArrayLike, memory_gold_log_probs_MN: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the weights of M memories with the lowest mean NLL, f64 [M]; the base has the rest.

    The problem is convex. Expectation maximisation: a weight becomes the mean share that its memory
    has in the mixture's probability of the gold tokens.
    """
    ratios_MN = np.stack(
        [
            _gains(lm_gold_log_probs, memory)[1].clamp(max=700).exp().numpy()
            for memory in memory_gold_log_probs_MN
        ]
    )
    ratios_MN = np.vstack([np.ones_like(ratios_MN[:1]), ratios_MN])
    weights = np.full(len(ratios_MN), 1 / len(ratios_MN))
    for _ in range(MOST_ITERATIONS):
        before = weights
        weights = weights * (ratios_MN / (weights @ ratios_MN)).mean(axis=1)
        if np.abs(weights - before).max() < WEIGHT_TOLERANCE:
            break
    return weights[1:]


def mixture_nll(
    lm_gold_log_probs: ArrayLike | Tensor,
    memory_gold_log_probs: ArrayLike | Tensor,
    alphas: Sequence[float],
) -> Tensor:
    """Return the mixture's mean NLL (nats per token, f64 [A]) at each of `alphas`.

    Logarithms are taken of products of GROUP factors, which makes the curve several times cheaper.

    Raises:
        DataError: As in `best_alpha`.
    """
    lm_N, gain_N = _gains(lm_gold_log_probs, memory_gold_log_probs)
    alphas_A = torch.as_tensor(alphas, dtype=torch.float64)
    usual_N = (gain_N.abs() <= LARGEST_GAIN) | gain_N.isneginf()
    gained_A = torch.zeros_like(alphas_A)
    for start in range(0, len(gain_N), TOKENS_AT_ONCE):
        part = slice(start, start + TOKENS_AT_ONCE)
        gained_A += _usual_gain(gain_N[part][usual_N[part]], alphas_A)
    other_N = gain_N[~usual_N]
    added = alphas_A.log()[:, None] + other_N
    gained_A += torch.logaddexp(added, torch.log1p(-alphas_A)[:, None]).sum(1)
    return -lm_N.mean() - gained_A / len(lm_N)


def alpha_curve(
    lm_gold_log_probs: ArrayLike | Tensor,
    memory_gold_log_probs: ArrayLike | Tensor,
    num_points: int,
) -> tuple[list[float], list[float]]:
    """Return `num_points` evenly spaced alphas from 0 to 1 and the perplexity at each."""
    alphas = np.linspace(0.0, 1.0, num_points).tolist()
    nll_A = mixture_nll(lm_gold_log_probs, memory_gold_log_probs, alphas)
    return alphas, nll_A.exp().tolist()


def _usual_gain(gain_N: Tensor, alphas_A: Tensor) -> Tensor:
    """Return the sum of log(1 - alpha + alpha g) over tokens for each alpha, g = p_memory / p_lm.

    A product of GROUP factors is a polynomial in Bernstein form, sum_j e_j (1-alpha)^(GROUP-j)
    alpha^j with e_j the elementary symmetric polynomials of g: all terms are at least 0, so nothing
    cancels, and one matrix product evaluates all groups at all alphas.
    """
    padded = torch.nn.functional.pad(gain_N, (0, -len(gain_N) % GROUP))
    symmetric_JG = gain_N.new_zeros(GROUP + 1, len(padded) // GROUP)
    symmetric_JG[0] = 1
    for i, gain_G in enumerate(padded.exp().view(GROUP, -1)):
        symmetric_JG[1 : i + 2] += symmetric_JG[: i + 1] * gain_G
    powers_J = torch.arange(GROUP + 1)
    weights_AJ = (1 - alphas_A[:, None]) ** (GROUP - powers_J) * alphas_A[:, None] ** powers_J
    return (weights_AJ @ symmetric_JG).log_().sum(1)


def _gains(lm: ArrayLike | Tensor, memory: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
    lm_N = as_float64(lm)
    memory_N = as_float64(memory)
    if lm_N.shape != memory_N.shape or lm_N.dim() != 1 or len(lm_N) == 0:
        raise DataError(
            f"gold log-probs of base and memory need one equal length above 0, got "
            f"{list(lm_N.shape)} and {list(memory_N.shape)}; were they scored on the same tokens?"
        )
    # Rounding can leave a sure token a hair above log 1.
    usable = lm_N.isfinite().all() and not memory_N.isnan().any()
    if not usable or lm_N.max() > 1e-4 or memory_N.max() > 1e-4:
        raise DataError(
            "gold log-probs must be natural logs at most 0: finite for the base, "
            "finite or -inf for the memory."
        )
    return lm_N, memory_N - lm_N


def as_float64(values: ArrayLike | Tensor) -> Tensor:
    """Return a copy on the CPU as f64."""
    if isinstance(values, Tensor):
        return values.detach().cpu().double()
    return torch.from_numpy(np.array(values, np.float64))
