"""Divergences between a sparse kNN target p and the memory q, with their gradients by the logits.

Each works on one chunk of tokens. A padded target entry has probability 0 and any valid id; a token
without targets has divergence 0. `gradient` is that of beta * divergence + (1 - beta) * NLL(gold),
summed over the chunk, and may overwrite the log-probs it is given.

Shape legend: C tokens of one chunk, V head outputs, M stored target entries.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DIVERGENCES", "Chunk", "Divergence"]

SMOOTHING = 1e-3
"""Share of a uniform distribution in the target of the reverse KL, infinite without it."""


class Chunk:
    """What some tokens are trained on: gold ids and beta [C, 1], target ids and probs [C, M]."""

    def __init__(self, gold_C: Tensor, ids_CM: Tensor, probs_CM: Tensor, beta_C: Tensor) -> None:
        self.gold = gold_C.long()[:, None]
        self.ids = ids_CM.long()
        self.probs = probs_CM.to(beta_C.dtype)
        self.beta = beta_C[:, None]
        self.has_target = self.probs.sum(1, keepdim=True) > 0


class Divergence(Protocol):
    """One way to compare the memory with its target."""

    def values(self, log_q_CV: Tensor, chunk: Chunk) -> Tensor:
        """Return the divergence of each token in nats [C, 1]."""

    def gradient(self, log_q_CV: Tensor, chunk: Chunk, values_C1: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors [C, 1] and [C, V], whose product is the gradient."""


class ForwardKl:
    """KL(p || q), the paper's: the memory must cover all that the neighbors say."""

    def values(self, log_q_CV: Tensor, chunk: Chunk) -> Tensor:
        """Return sum p log(p / q)."""
        found_CM = log_q_CV.gather(1, chunk.ids)
        # A padded entry may meet a log-prob of -inf, and 0 * inf is not a number.
        cross_CM = torch.where(chunk.probs > 0, chunk.probs * found_CM, 0.0)
        return (torch.xlogy(chunk.probs, chunk.probs) - cross_CM).sum(1, keepdim=True)

    def gradient(self, log_q_CV: Tensor, chunk: Chunk, values_C1: Tensor) -> tuple[Tensor, Tensor]:
        """Return sum(t) and softmax - t / sum(t), for t = beta p + (1 - beta) onehot(gold).

        The sum is 1 unless a token has no target; kept apart, it costs no pass over the logits.
        """
        weights_CM = torch.cat([chunk.probs * chunk.beta, 1 - chunk.beta], 1)
        factor_C1 = weights_CM.sum(1, keepdim=True)
        weights_CM /= factor_C1.clamp_min(torch.finfo(weights_CM.dtype).tiny)
        ids_CM = torch.cat([chunk.ids, chunk.gold], 1)
        return factor_C1, log_q_CV.exp_().scatter_add_(1, ids_CM, -weights_CM)


class ReverseKl:
    """KL(q || p'), p' = (1 - s) p + s / V: the memory may leave out some of what neighbors say."""

    def values(self, log_q_CV: Tensor, chunk: Chunk) -> Tensor:
        """Return sum q log(q / p')."""
        log_uniform, lift_CM = self._log_target(chunk, log_q_CV.shape[1])
        q_CM = log_q_CV.gather(1, chunk.ids).exp()
        # A log-prob of -inf has no probability, and 0 * inf is not a number.
        finite_CV = log_q_CV.clamp_min(torch.finfo(log_q_CV.dtype).min)
        negative_entropy_C1 = finite_CV.mul_(log_q_CV.exp()).sum(1, keepdim=True)
        values_C1 = negative_entropy_C1 - log_uniform - (q_CM * lift_CM).sum(1, keepdim=True)
        return torch.where(chunk.has_target, values_C1, 0.0)

    def gradient(self, log_q_CV: Tensor, chunk: Chunk, values_C1: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and beta q (log(q / p') - KL) + (1 - beta) (q - onehot(gold))."""
        log_uniform, lift_CM = self._log_target(chunk, log_q_CV.shape[1])
        beta_C1 = chunk.beta * chunk.has_target
        pull_CM = beta_C1 * log_q_CV.gather(1, chunk.ids).exp() * lift_CM
        # A log-prob of -inf has no probability to move.
        gain_CV = log_q_CV.clamp_min(torch.finfo(log_q_CV.dtype).min) - (log_uniform + values_C1)
        gain_CV = gain_CV.mul_(beta_C1).add_(1 - chunk.beta)
        grad_CV = log_q_CV.exp_().mul_(gain_CV).scatter_add_(1, chunk.ids, -pull_CM)
        grad_CV.scatter_add_(1, chunk.gold, chunk.beta - 1)
        return torch.ones_like(beta_C1), grad_CV

    def _log_target(self, chunk: Chunk, num_outputs: int) -> tuple[float, Tensor]:
        """Return log p' where p is 0, and by how much it is higher at the target's entries."""
        uniform = SMOOTHING / num_outputs
        return math.log(uniform), (chunk.probs * ((1 - SMOOTHING) / uniform)).log1p()


class JensenShannon:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2: bounded by log 2, needs no smoothing."""

    def values(self, log_q_CV: Tensor, chunk: Chunk) -> Tensor:
        """Return the divergence; outside the target's entries q log(q / m) is q log 2."""
        q_CM = log_q_CV.gather(1, chunk.ids).exp()
        p_CM = chunk.probs
        m_CM = (p_CM + q_CM) / 2
        inside_CM = torch.xlogy(p_CM, p_CM / m_CM) + torch.xlogy(q_CM, q_CM / m_CM)
        inside_CM = torch.where(p_CM > 0, inside_CM - q_CM * math.log(2), 0.0)
        values_C1 = (inside_CM.sum(1, keepdim=True) + math.log(2)) / 2
        return torch.where(chunk.has_target, values_C1, 0.0)

    def gradient(self, log_q_CV: Tensor, chunk: Chunk, values_C1: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and beta q (g - sum q g) + (1 - beta) (q - onehot(gold)), g = log(q / m) / 2."""
        q_CM = log_q_CV.gather(1, chunk.ids).exp()
        beta_C1 = chunk.beta * chunk.has_target
        # g less its value outside the entries, log(2) / 2, which the difference cancels
        pull_CM = torch.xlogy(q_CM, q_CM / (chunk.probs + q_CM)) / 2
        pull_CM = torch.where(chunk.probs > 0, pull_CM, 0.0)
        share_C1 = 1 - chunk.beta - beta_C1 * pull_CM.sum(1, keepdim=True)
        grad_CV = log_q_CV.exp_().mul_(share_C1)
        grad_CV.scatter_add_(1, chunk.ids, beta_C1 * pull_CM)
        grad_CV.scatter_add_(1, chunk.gold, chunk.beta - 1)
        return torch.ones_like(beta_C1), grad_CV


DIVERGENCES: dict[str, Divergence] = {
    "kl": ForwardKl(),
    "reverse_kl": ReverseKl(),
    "jsd": JensenShannon(),
}
