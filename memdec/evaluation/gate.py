"""An alpha for each token: a logistic gate over what both distributions look like.

alpha_n = sigmoid(w . x_n + b), fitted to the mixture's NLL on validation. It sees neither the gold
token nor the test text.

Shape legend: N tokens, F features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memdec.evaluation.alpha import as_float64

__all__ = ["Gate", "fit_gate"]

PENALTY = 1e-3
"""Times the squared weights of the standardised features: a few thousand tokens fit a few."""
_ITERATIONS = 200
_START_WITHIN = 0.02
"""Of 0 and 1: at an end the sigmoid is flat, and nothing would be learned."""
_LARGEST_LOGIT = 13.8
"""Keeps alpha within 1e-6 of 0 and 1: the base keeps a share of every token."""


@dataclass(frozen=True)
class Gate:
    """A fitted gate."""

    mean_F: Tensor
    scale_F: Tensor
    weights_F: Tensor
    bias: float

    def plain_weights(self) -> Tensor:
        """Return the weights of the features as they are, and the bias, f64 [F + 1]."""
        weights_F = self.weights_F / self.scale_F
        bias = self.bias - weights_F @ self.mean_F
        return torch.cat([weights_F, bias[None]])

    def alphas(self, features_NF: NDArray[np.float32]) -> Tensor:
        """Return the memory's share at each token, f64 [N]."""
        standard_NF = (as_float64(features_NF) - self.mean_F) / self.scale_F
        return _share(standard_NF @ self.weights_F + self.bias)


def fit_gate(
    lm_N: NDArray[np.float32],
    memory_N: NDArray[np.float32],
    features_NF: NDArray[np.float32],
    alpha: float,
) -> Gate:
    """Fit the gate to gold log-probs, from the best single alpha on.

    Deterministic: full batches in float64.
    """
    features = as_float64(features_NF)
    mean_F, scale_F = features.mean(0), features.std(0).clamp_min(1e-6)
    standard_NF = (features - mean_F) / scale_F
    lm, memory = as_float64(lm_N), as_float64(memory_N)
    weights_F = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    start = min(max(alpha, _START_WITHIN), 1 - _START_WITHIN)
    bias = torch.logit(torch.tensor(start, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights_F, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        share_N = _share(standard_NF @ weights_F + bias)
        # Not `mix_log_probs`: its value at -inf is right, but its gradient there is not a number.
        mixture_N = (share_N * (memory - lm).exp() + (1 - share_N)).log() + lm
        loss = -mixture_N.mean() + PENALTY * weights_F.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return Gate(mean_F, scale_F, weights_F.detach(), float(bias.detach()))


def _share(logits_N: Tensor) -> Tensor:
    return logits_N.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT).sigmoid()
