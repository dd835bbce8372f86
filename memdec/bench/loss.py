"""A training step with the hybrid loss, against plain cross-entropy and against dense targets.

Shape legend: B windows, T positions, N tokens, D width, V vocabulary, M stored target entries.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from memdec.bench.child import in_child, peak_extra_bytes
from memdec.bench.clock import in_turns, seconds
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Figure, Goal, Outcome, bytes_figure, seconds_figure
from memdec.bench.inputs import body_parameters, make_decoder, make_targets
from memdec.models.loading import body_output, head_weight
from memdec.training.data import SparseTargets
from memdec.training.losses import memory_decoder_loss

BETA = 0.5
CHECKED_TOKENS = 64
CROSS_ENTROPY = "plain cross-entropy, logits whole"
DENSE = "dense targets [N, V], logits whole"


@dataclass(frozen=True)
class Targets:
    """What the tokens of a step are trained on."""

    gold_N: Tensor
    ids_NM: Tensor
    probs_NM: Tensor


Head = Callable[[Tensor, Tensor, Targets], Tensor]
"""Hidden states [N, D], head [V, D] and targets -> the loss."""


def run(config: BenchConfig) -> Outcome:
    """Measure whole steps, the head alone and the peak memory, for two vocabularies."""
    figures: list[Figure] = []
    checks = []
    for vocab_size in (config.vocab_size, config.large_vocab_size):
        size = f"V {vocab_size:,}, {config.step_tokens:,} tokens"
        figures.append(_step_figure(config, vocab_size, size))
        figures.append(_head_figure(config, vocab_size, size))
        function = "memdec.bench.loss:peak"
        peaks = [in_child(function, asdict(config), vocab_size, way) for way in ("ours", "dense")]
        figures.append(
            bytes_figure(
                f"peak memory of head and loss, {size}",
                peaks[0]["bytes"],
                peaks[1]["bytes"],
                DENSE,
                goals=(Goal(number=3, limit=0.2),),
            )
        )
        checks += check_gradients(config, vocab_size)
    figures.append(_data_figure(config, figures[0]))
    note = "the gradient of the head, V x D floats, counts as peak memory on both sides"
    return Outcome(figures=figures, checks=checks, notes=[note])


def _data_figure(config: BenchConfig, step: Figure) -> Figure:
    """Compare reading the targets of a step, as the data loader does, with the step."""
    ids_NM, probs_NM = make_targets(config.step_tokens, config.target_entries, config.vocab_size)
    starts = np.arange(config.step_tokens + 1, dtype=np.int64) * config.target_entries
    stored = SparseTargets(
        starts,
        ids_NM.flatten().numpy().astype(np.uint32),
        probs_NM.flatten().numpy().astype(np.float16),
    )
    rows_N = np.arange(config.step_tokens)
    stored.rows(rows_N)
    samples = [seconds(lambda: stored.rows(rows_N)) for _ in range(config.repeats)]
    return seconds_figure(
        f"reading the targets of a step, {config.step_tokens:,} tokens",
        (samples, [step.ours] * len(samples)),
        "the training step that waits for them",
    )


def _step_figure(config: BenchConfig, vocab_size: int, size: str) -> Figure:
    lm = make_decoder(config, vocab_size).train()
    inputs_BT, targets = make_inputs(config, vocab_size)

    def step(head: Head) -> None:
        lm.zero_grad(set_to_none=True)
        hidden_ND = body_output(lm, inputs_BT).flatten(0, 1)
        head(hidden_ND, head_weight(lm), targets).backward()

    samples = in_turns(
        lambda: step(ours), lambda: step(cross_entropy), config.repeats, config.device
    )
    per_token = 6.0 * (body_parameters(lm) + config.key_width * vocab_size)
    return seconds_figure(
        f"training step, {size}",
        samples,
        CROSS_ENTROPY,
        goals=(Goal(number=3, limit=1.05),),
        num_flops=per_token * config.step_tokens,
    )


def make_inputs(config: BenchConfig, vocab_size: int) -> tuple[Tensor, Targets]:
    """Return made-up inputs [B, T] of a step, and what its tokens are trained on."""
    inputs_BT = torch.randint(
        vocab_size, (config.step_tokens // config.block_size, config.block_size)
    )
    return inputs_BT.to(config.device), _targets(config, vocab_size)


def _head_figure(config: BenchConfig, vocab_size: int, size: str) -> Figure:
    hidden_ND, head_VD = _head_inputs(config, vocab_size)
    targets = _targets(config, vocab_size)

    def step(head: Head) -> None:
        hidden_ND.grad = head_VD.grad = None
        head(hidden_ND, head_VD, targets).backward()

    samples = in_turns(
        lambda: step(ours), lambda: step(cross_entropy), config.repeats, config.device
    )
    return seconds_figure(
        f"head and loss alone, {size}",
        samples,
        CROSS_ENTROPY,
        num_flops=6.0 * config.step_tokens * config.key_width * vocab_size,
    )


def ours(hidden_ND: Tensor, head_VD: Tensor, targets: Targets) -> Tensor:
    """Return memdec's loss."""
    return memory_decoder_loss(
        hidden_ND, head_VD, targets.gold_N, targets.ids_NM, targets.probs_NM, BETA
    )[0]


def cross_entropy(hidden_ND: Tensor, head_VD: Tensor, targets: Targets) -> Tensor:
    """Return the loss of ordinary training; the sparse targets are not looked at."""
    return functional.cross_entropy(hidden_ND @ head_VD.T, targets.gold_N)


def dense(hidden_ND: Tensor, head_VD: Tensor, targets: Targets) -> Tensor:
    """Return the hybrid loss as the authors do: targets spread over the vocabulary, then KL."""
    logits_NV = hidden_ND @ head_VD.T
    target_NV = torch.zeros_like(logits_NV).scatter_add_(1, targets.ids_NM, targets.probs_NM)
    kl = functional.kl_div(logits_NV.log_softmax(-1), target_NV, reduction="batchmean")
    return BETA * kl + (1 - BETA) * functional.cross_entropy(logits_NV, targets.gold_N)


def peak(settings: dict[str, Any], vocab_size: int, way: str) -> dict[str, int]:
    """Measure, in a process of its own, the memory of head and loss, forward and backward."""
    config = BenchConfig(**settings)
    head: Head = {"ours": ours, "dense": dense}[way]
    few = BenchConfig(**settings | {"step_tokens": 2, "block_size": 2})
    head(
        *_head_inputs(few, 4 * config.target_entries), _targets(few, 4 * config.target_entries)
    ).backward()
    hidden_ND, head_VD = _head_inputs(config, vocab_size)
    targets = _targets(config, vocab_size)
    return {
        "bytes": peak_extra_bytes(
            lambda: head(hidden_ND, head_VD, targets).backward(), config.device
        )
    }


def check_gradients(config: BenchConfig, vocab_size: int) -> list[Check]:
    """Compare loss and gradients with the dense way on a few tokens."""
    few = BenchConfig(
        **asdict(config) | {"step_tokens": CHECKED_TOKENS, "block_size": CHECKED_TOKENS}
    )
    hidden_ND, head_VD = _head_inputs(few, vocab_size)
    targets = _targets(few, vocab_size)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for head in (ours, dense):
        hidden_ND.grad = head_VD.grad = None
        loss = head(hidden_ND, head_VD, targets)
        loss.backward()
        assert hidden_ND.grad is not None
        assert head_VD.grad is not None
        found.append((loss.detach(), hidden_ND.grad, head_VD.grad))
    names = ("loss", "gradient by hidden states", "gradient by head")
    return [
        Check(
            what=f"relative difference of {name}, V {vocab_size:,}",
            value=((a - b).norm() / b.norm()).item(),
            limit=1e-4,
        )
        for name, a, b in zip(names, *found, strict=True)
    ]


def _head_inputs(config: BenchConfig, vocab_size: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    hidden_ND = torch.randn(config.step_tokens, config.key_width, generator=random)
    head_VD = torch.randn(vocab_size, config.key_width, generator=random).mul_(0.05)
    device = config.device
    return hidden_ND.to(device).requires_grad_(), head_VD.to(device).requires_grad_()


def _targets(config: BenchConfig, vocab_size: int) -> Targets:
    ids_NM, probs_NM = make_targets(config.step_tokens, config.target_entries, vocab_size)
    device = config.device
    return Targets(ids_NM[:, 1].to(device), ids_NM.to(device), probs_NM.to(device))
