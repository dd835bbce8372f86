"""The memory decoder's training loss with the output head inside; the logits are never whole.

beta * KL(target || memory) + (1 - beta) * NLL(gold) is, up to a constant, the cross-entropy against
the sparse soft target t = beta * target + (1 - beta) * onehot(gold): logsumexp(z) - sum_j t_j z_j,
with gradient softmax(z) - t. Tokens are taken in chunks, and a chunk's gradient is made in the
forward pass, while its logits are at hand (as in Liger and cut-cross-entropy, for sparse targets).

Shape legend: N tokens, C tokens of one chunk, D width, V head outputs, M stored target entries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memdec.errors import ConfigError, DataError

__all__ = ["memory_decoder_loss"]

_CHUNK_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Logits of one chunk by device type: large enough for full-speed products, small beside a step."""


def memory_decoder_loss(
    hidden_ND: Tensor,
    head_VD: Tensor,
    gold_N: Tensor,
    target_ids_NM: Tensor,
    target_probs_NM: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hybrid loss, KL(target || memory) and the gold NLL, as float32 means over tokens.

    Only the loss can be differentiated, by `hidden_ND` and `head_VD`. Padded target entries have
    probability 0 and any valid id; a token without targets has KL 0, and M may be 0. The softmax
    is taken in float32; products run in the dtype of `hidden_ND`, or of autocast where it is on.

    Raises:
        ConfigError: beta is outside [0, 1].
        DataError: The shapes disagree or there is no token.
    """
    if not 0 <= beta <= 1:
        raise ConfigError(f"memory_decoder.beta must be in [0, 1], got {beta}.")
    _check_shapes(hidden_ND, head_VD, gold_N, target_ids_NM, target_probs_NM)
    device = hidden_ND.device.type
    autocast = torch.is_autocast_enabled(device)
    is_training = torch.is_grad_enabled()
    loss, kl, nll = _FusedHeadLoss.apply(
        hidden_ND,
        head_VD,
        _ForwardKl(gold_N, target_ids_NM, target_probs_NM, beta),
        torch.get_autocast_dtype(device) if autocast else hidden_ND.dtype,
        (is_training and hidden_ND.requires_grad, is_training and head_VD.requires_grad),
    )
    return loss, kl, nll


@dataclass(frozen=True)
class _ForwardKl:
    """beta * KL(target || memory) + (1 - beta) * NLL of one chunk of tokens, and its gradient."""

    gold: Tensor
    ids: Tensor
    probs: Tensor
    beta: float
    """The tensors are gold ids [N], target ids and probabilities [N, M]."""

    def chunk(self, chunk: slice) -> tuple[Tensor, Tensor]:
        """Return ids i64 [C, M+1] and probabilities [C, M+1]; the last column is the gold token."""
        gold_C1 = self.gold[chunk].long()[:, None]
        ids_CM, probs_CM = self.ids[chunk].long(), self.probs[chunk]
        ones_C1 = torch.ones_like(gold_C1, dtype=probs_CM.dtype)
        return torch.cat([ids_CM, gold_C1], 1), torch.cat([probs_CM, ones_C1], 1)

    def terms(self, log_probs_CV: Tensor, ids_CM: Tensor, probs_CM: Tensor) -> Tensor:
        """Return the chunk's sums of KL and NLL, [2]."""
        found_CM = log_probs_CV.gather(1, ids_CM)
        probs_CM = probs_CM.to(found_CM.dtype)
        # A padded entry may meet a log-prob of -inf, and 0 * inf is not a number.
        cross_CM = torch.where(probs_CM > 0, probs_CM * found_CM, 0.0)
        kl = (torch.xlogy(probs_CM, probs_CM) - cross_CM)[:, :-1].sum()
        return torch.stack([kl, -found_CM[:, -1].sum()])

    def gradient(
        self, log_probs_CV: Tensor, ids_CM: Tensor, probs_CM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Overwrite the log-probs; return factors [C, 1] and softmax - t / factor, [C, V].

        The gradient of the chunk's summed loss is their product. The factor sum(t) is 1 unless a
        token has no target; kept apart, it costs no pass over the logits.
        """
        weights_CM = probs_CM.to(log_probs_CV.dtype) * self.beta
        weights_CM[:, -1] = 1 - self.beta
        factor_C1 = weights_CM.sum(1, keepdim=True)
        weights_CM /= factor_C1.clamp_min(torch.finfo(weights_CM.dtype).tiny)
        return factor_C1, log_probs_CV.exp_().scatter_add_(1, ids_CM, -weights_CM)


class _FusedHeadLoss(torch.autograd.Function):
    """Chunked loss whose gradients are made in the forward pass and only scaled in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        objective: _ForwardKl,
        dtype: torch.dtype,
        needs_grad: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            terms, ctx.grads = _run(hidden_ND, head_VD, objective, dtype, needs_grad)
        kl, nll = terms / len(hidden_ND)
        ctx.mark_non_differentiable(kl, nll)
        return objective.beta * kl + (1 - objective.beta) * nll, kl, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("memory_decoder_loss can be differentiated once per call.")
        # Scaled in place and let go: the head's gradient can be the largest tensor of a step.
        grads, ctx.grads = ctx.grads, None
        scaled = [None if grad is None else grad.mul_(grad_outputs[0]) for grad in grads]
        return scaled[0], scaled[1], None, None, None


def _run(
    hidden_ND: Tensor,
    head_VD: Tensor,
    objective: _ForwardKl,
    dtype: torch.dtype,
    needs_grad: tuple[bool, bool],
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Return the sums of KL and NLL [2] and the gradients of the mean loss."""
    exact = torch.promote_types(dtype, torch.float32)
    head_cast_VD = head_VD.to(dtype)
    grad_hidden_ND = torch.empty_like(hidden_ND) if needs_grad[0] else None
    grad_head_VD = torch.zeros_like(head_VD, dtype=exact) if needs_grad[1] else None
    terms = hidden_ND.new_zeros(2, dtype=exact)
    for chunk, logits_CV, log_probs_CV in _chunks(len(hidden_ND), head_cast_VD, exact):
        hidden_CD = hidden_ND[chunk].to(dtype)
        torch.mm(hidden_CD, head_cast_VD.T, out=logits_CV)
        torch.log_softmax(logits_CV, 1, dtype=exact, out=log_probs_CV)
        ids_CM, probs_CM = objective.chunk(chunk)
        terms += objective.terms(log_probs_CV, ids_CM, probs_CM)
        if not any(needs_grad):
            continue
        factor_C1, grad_CV = objective.gradient(log_probs_CV, ids_CM, probs_CM)
        factor_C1 /= len(hidden_ND)
        grad_CV = grad_CV if dtype == exact else logits_CV.copy_(grad_CV)
        if grad_hidden_ND is not None:
            grad_hidden_ND[chunk] = torch.mm(grad_CV, head_cast_VD) * factor_C1
        if grad_head_VD is not None:
            _add_product(grad_head_VD, grad_CV, (hidden_CD * factor_C1).to(dtype))
    return terms, (grad_hidden_ND, None if grad_head_VD is None else grad_head_VD.to(head_VD.dtype))


def _add_product(total_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor) -> None:
    """Add grad_CV.T @ hidden_CD in the dtype of the total."""
    if grad_CV.dtype == total_VD.dtype:
        total_VD.addmm_(grad_CV.T, hidden_CD)
    else:
        total_VD += torch.mm(grad_CV.T, hidden_CD)


def _chunks(
    num_tokens: int, head_VD: Tensor, exact: torch.dtype
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield equal token chunks with room for their logits; the room is the same for all chunks."""
    limit = _CHUNK_LOGITS.get(head_VD.device.type, _CHUNK_LOGITS["cpu"])
    num_chunks = -(-num_tokens * len(head_VD) // limit)
    size = -(-num_tokens // num_chunks)
    logits_CV = head_VD.new_empty(size, len(head_VD))
    log_probs_CV = torch.empty_like(logits_CV, dtype=exact)
    for first in range(0, num_tokens, size):
        stop = min(first + size, num_tokens)
        yield slice(first, stop), logits_CV[: stop - first], log_probs_CV[: stop - first]


def _check_shapes(
    hidden_ND: Tensor, head_VD: Tensor, gold_N: Tensor, ids_NM: Tensor, probs_NM: Tensor
) -> None:
    num_tokens = len(hidden_ND)
    if num_tokens == 0:
        raise DataError("memory_decoder_loss needs at least one token; the batch scores none.")
    widths_agree = hidden_ND.ndim == head_VD.ndim == 2 and hidden_ND.shape[1] == head_VD.shape[1]
    rows_agree = gold_N.shape == (num_tokens,) and len(ids_NM) == num_tokens
    if not (widths_agree and rows_agree and ids_NM.shape == probs_NM.shape):
        shapes = [list(x.shape) for x in (hidden_ND, head_VD, gold_N, ids_NM, probs_NM)]
        raise DataError(
            "memory_decoder_loss needs hidden [N, D], head [V, D], gold [N], target ids and "
            f"probabilities [N, M]; got {', '.join(map(str, shapes))}."
        )
