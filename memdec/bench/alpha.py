"""The perplexity of a mixture at many alphas from cached scores, against the definition.

Shape legend: N tokens.
"""

import math

import numpy as np
import torch
from torch import Tensor

from memdec.bench.clock import in_turns
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Goal, Outcome, seconds_figure
from memdec.evaluation.alpha import alpha_curve

MOST_REPEATS = 3
"""The plain way takes half a minute."""


def run(config: BenchConfig) -> Outcome:
    """Time the whole curve both ways."""
    lm_N, memory_N = _scores(config.alpha_tokens)
    points = config.alpha_points
    results: dict[str, list[float]] = {}

    def ours() -> None:
        results["ours"] = alpha_curve(lm_N, memory_N, points)[1]

    def plain() -> None:
        results["plain"] = plain_curve(lm_N, memory_N, points)

    samples = in_turns(ours, plain, min(config.repeats, MOST_REPEATS))
    figure = seconds_figure(
        f"{points:,} alphas, {config.alpha_tokens:,} tokens",
        samples,
        "logaddexp at each alpha",
        goals=(Goal(number=5, of="ours", limit=1.0),),
    )
    notes = ["scores are cached in host memory, so this runs on the CPU whatever the device"]
    return Outcome(figures=[figure], checks=[compare(**results)], notes=notes)


def plain_curve(lm_N: Tensor, memory_N: Tensor, num_points: int) -> list[float]:
    """Return the perplexity at evenly spaced alphas, by the definition in log space."""
    curve = []
    for alpha in np.linspace(0, 1, num_points).tolist():
        keep, share = (math.log(x) if x > 0 else -math.inf for x in (1 - alpha, alpha))
        curve.append(math.exp(-torch.logaddexp(lm_N + keep, memory_N + share).mean().item()))
    return curve


def compare(ours: list[float], plain: list[float]) -> Check:
    """Compare two curves; both may be infinite at the same alphas."""
    pairs = zip(ours, plain, strict=True)
    gaps = [0.0 if a == b else abs(a - b) / b for a, b in pairs]
    what = "relative difference of a perplexity"
    return Check(what=what, value=float(np.max(gaps)), limit=1e-9)


def _scores(num_tokens: int) -> tuple[Tensor, Tensor]:
    """Return gold log-probs f64 [N] of a base and of a memory that lacks a few tokens."""
    random = np.random.default_rng(7)
    lm_N = np.log(random.beta(0.5, 2.0, num_tokens) * 0.98 + 0.01)
    memory_N = np.log(random.beta(0.5, 1.0, num_tokens) * 0.98 + 0.01)
    memory_N[random.random(num_tokens) < 0.01] = -np.inf
    return torch.from_numpy(lm_N), torch.from_numpy(memory_N)
