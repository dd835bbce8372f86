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
from memdec.training.divergences import DIVERGENCES, Chunk, Divergence

__all__ = ["memory_decoder_loss"]

_CHUNK_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Logits of one chunk by device type: large enough for full-speed products, small beside a step."""


def memory_decoder_loss(
    hidden_ND: Tensor,
    head_VD: Tensor,
    gold_N: Tensor,
    target_ids_NM: Tensor,
    target_probs_NM: Tensor,
    beta: float | Tensor,
    divergence: str = "kl",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hybrid loss, KL(target || memory) and the gold NLL, as float32 means over tokens.

    The loss is beta * divergence + (1 - beta) * NLL, with one beta or one for each token [N]; with
    another `divergence` (see `DIVERGENCES`) that takes the KL's place. Only the loss can be
    differentiated, by `hidden_ND` and `head_VD`. Padded target entries have probability 0 and any
    valid id; a token without targets has divergence 0, and M may be 0. The softmax is taken in
    float32; products run in the dtype of `hidden_ND`, or of autocast where it is on.

    Raises:
        ConfigError: beta is outside [0, 1].
        DataError: The shapes disagree or there is no token.
    """
    _check_shapes(hidden_ND, head_VD, gold_N, target_ids_NM, target_probs_NM)
    exact = torch.promote_types(hidden_ND.dtype, torch.float32)
    # A tensor's entries are not looked at: on a GPU that would wait for all work before.
    if not isinstance(beta, Tensor) and not 0 <= beta <= 1:
        raise ConfigError(f"memory_decoder.beta must be in [0, 1], got {beta}.")
    beta_N = torch.as_tensor(beta, dtype=exact, device=hidden_ND.device).expand(len(hidden_ND))
    device = hidden_ND.device.type
    autocast = torch.is_autocast_enabled(device)
    is_training = torch.is_grad_enabled()
    loss, kl, nll = _FusedHeadLoss.apply(
        hidden_ND,
        head_VD,
        _Targets(gold_N, target_ids_NM, target_probs_NM, beta_N, DIVERGENCES[divergence]),
        torch.get_autocast_dtype(device) if autocast else hidden_ND.dtype,
        (is_training and hidden_ND.requires_grad, is_training and head_VD.requires_grad),
    )
    return loss, kl, nll


@dataclass(frozen=True)
class _Targets:
    """What all tokens are trained on: gold ids and beta [N], target ids and probs [N, M]."""

    gold: Tensor
    ids: Tensor
    probs: Tensor
    beta: Tensor
    divergence: Divergence

    def chunk(self, part: slice) -> Chunk:
        return Chunk(self.gold[part], self.ids[part], self.probs[part], self.beta[part])


class _FusedHeadLoss(torch.autograd.Function):
    """Chunked loss whose gradients are made in the forward pass and only scaled in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets: _Targets,
        dtype: torch.dtype,
        needs_grad: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            terms, ctx.grads = _run(hidden_ND, head_VD, targets, dtype, needs_grad)
        loss, kl, nll = terms / len(hidden_ND)
        ctx.mark_non_differentiable(kl, nll)
        return loss, kl, nll

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
    targets: _Targets,
    dtype: torch.dtype,
    needs_grad: tuple[bool, bool],
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Return the sums of loss, divergence and NLL [3] and the gradients of the mean loss."""
    exact = torch.promote_types(dtype, torch.float32)
    head_cast_VD = head_VD.to(dtype)
    grad_hidden_ND = torch.empty_like(hidden_ND) if needs_grad[0] else None
    grad_head_VD = torch.zeros_like(head_VD, dtype=exact) if needs_grad[1] else None
    terms = hidden_ND.new_zeros(3, dtype=exact)
    for part, logits_CV, log_probs_CV in _chunks(len(hidden_ND), head_cast_VD, exact):
        hidden_CD = hidden_ND[part].to(dtype)
        torch.mm(hidden_CD, head_cast_VD.T, out=logits_CV)
        torch.log_softmax(logits_CV, 1, dtype=exact, out=log_probs_CV)
        chunk = targets.chunk(part)
        values_C1 = targets.divergence.values(log_probs_CV, chunk)
        nll_C1 = -log_probs_CV.gather(1, chunk.gold)
        loss_C1 = chunk.beta * values_C1 + (1 - chunk.beta) * nll_C1
        terms += torch.cat([loss_C1, values_C1, nll_C1], 1).sum(0)
        if not any(needs_grad):
            continue
        factor_C1, grad_CV = targets.divergence.gradient(log_probs_CV, chunk, values_C1)
        factor_C1 /= len(hidden_ND)
        grad_CV = grad_CV if dtype == exact else logits_CV.copy_(grad_CV)
        if grad_hidden_ND is not None:
            grad_hidden_ND[part] = torch.mm(grad_CV, head_cast_VD) * factor_C1
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
