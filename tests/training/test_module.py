"""The Lightning training against a plain PyTorch loop with dense targets, in float64.

Shape legend: T input positions, O output tokens, V vocabulary.
"""

import math

import lightning
import numpy as np
import pytest
import torch

from memdec.corpus.windows import make_windows
from memdec.models.loading import head_weight
from memdec.training.config import MemoryDecoderConfig, TrainerConfig
from memdec.training.memory_module import MemoryModule, reliability
from memdec.training.order import WindowOrder

EPOCHS, RATE, WARMUP, CLIP = 2, 1e-2, 3, 0.5


class GradientNorms(lightning.Callback):
    """Norm of all gradients at each step, before clipping."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.found.append(total_norm(module.memory))


def total_norm(memory):
    grads = [p.grad for p in memory.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(grads))


def train_with_lightning(problem, options, beta):
    memory = problem.memory().double()
    module = MemoryModule(
        memory,
        MemoryDecoderConfig(beta=beta),
        options,
        validate=lambda gold_N: {"validation/perplexity": float(gold_N.mean().neg().exp())},
        num_validation_tokens=len(problem.validation) - 1,
        vocab_size=len(head_weight(memory.lm)),
    )
    norms = GradientNorms()
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[norms],
        max_epochs=EPOCHS,
        accumulate_grad_batches=options.accumulation,
        gradient_clip_val=options.gradient_clip_norm,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=problem.data(options, with_targets=beta > 0))
    return memory, module, norms.found


def dense_target(problem, row, beta):
    """Return beta * kNN + (1 - beta) * gold over the whole vocabulary, and the kNN part alone."""
    knn_V = torch.zeros(304, dtype=torch.float64)
    part = slice(int(problem.targets.starts[row]), int(problem.targets.starts[row + 1]))
    probs = problem.targets.probs[part].astype(np.float64)
    for token, prob in zip(problem.targets.token_ids[part], probs / probs.sum(), strict=True):
        knn_V[int(token)] += prob
    gold_V = torch.zeros(304, dtype=torch.float64)
    gold_V[int(problem.tokens[row + 1])] = 1
    return beta * knn_V + (1 - beta) * gold_V, knn_V


def window_loss(memory, problem, window, beta):
    """Sum of the loss over a window's scored tokens, one sequence without padding."""
    inputs_T = torch.from_numpy(problem.tokens[window.start : window.end - 1].astype(np.int64))
    logits_TV = memory.lm(inputs_T[None]).logits[0]
    masked_TV = torch.full_like(logits_TV, -torch.inf)
    masked_TV[:, problem.output_ids] = logits_TV[:, problem.output_ids]
    log_probs_TV = masked_TV.log_softmax(1)
    total = torch.zeros((), dtype=torch.float64)
    for position in range(window.first_scored, window.end):
        mixed_V, knn_V = dense_target(problem, position - 1, beta)
        log_probs_V = log_probs_TV[position - 1 - window.start]
        used_V = mixed_V > 0
        cross = -(mixed_V[used_V] * log_probs_V[used_V]).sum()
        entropy = -torch.xlogy(knn_V, knn_V).sum()
        total = total + cross - beta * entropy
    return total


def train_by_hand(problem, batch_size, beta):
    memory = problem.memory().double()
    optimizer = torch.optim.AdamW(memory.parameters(), lr=RATE, weight_decay=0.1)
    windows = make_windows(len(problem.tokens), 9, 5)
    num_steps = EPOCHS * math.ceil(len(windows) / batch_size)
    losses, norms, step = [], [], 0
    for epoch in range(EPOCHS):
        order = WindowOrder(len(windows), batch_size, batch_size, seed=13)
        order.set_epoch(epoch)
        for micro in order:
            chosen = [windows[w] for w in micro.windows]
            num_tokens = sum(w.end - w.first_scored for w in chosen)
            loss = sum(window_loss(memory, problem, w, beta) for w in chosen) / num_tokens
            optimizer.zero_grad()
            loss.backward()
            norms.append(total_norm(memory))
            torch.nn.utils.clip_grad_norm_(memory.parameters(), CLIP)
            warm = (step + 1) / (WARMUP + 1)
            cool = (num_steps - step) / (num_steps - WARMUP)
            optimizer.param_groups[0]["lr"] = RATE * (warm if step < WARMUP else cool)
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
    return memory, losses, norms


def step_losses(module, problem, options):
    """Token-weighted mean of the logged micro-batch losses of each step."""
    order = problem.data(options).train_dataloader().sampler
    windows = make_windows(len(problem.tokens), 9, 5)
    entries = [e for e in module.history if "train/loss" in e]
    sums, index = {}, 0
    for epoch in range(EPOCHS):
        order.set_epoch(epoch)
        for micro in (m for m in order if m.counts):
            entry, weight = (
                entries[index],
                sum(windows[w].end - windows[w].first_scored for w in micro.windows),
            )
            total, count = sums.get(entry["step"], (0.0, 0))
            sums[entry["step"]] = (total + weight * float(entry["train/loss"]), count + weight)
            index += 1
    assert index == len(entries)
    return [total / count for total, count in sums.values()]


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "beta"),
    [(6, 6, 0.5), (6, 2, 0.5), (6, 3, 1.0), (4, 4, 0.0)],
)
def test_training_is_a_plain_loop_with_dense_targets(problem, batch_size, micro_batch_size, beta):
    options = TrainerConfig(
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        learning_rate=RATE,
        warmup_steps=WARMUP,
        weight_decay=0.1,
        gradient_clip_norm=CLIP,
        max_epochs=EPOCHS,
    )
    memory, module, norms = train_with_lightning(problem, options, beta)
    by_hand, losses, norms_by_hand = train_by_hand(problem, batch_size, beta)
    # float64 throughout, but for the targets and weights of a batch, which are float32
    assert step_losses(module, problem, options) == pytest.approx(losses, rel=1e-5)
    assert norms == pytest.approx(norms_by_hand, rel=1e-4)
    assert losses[-1] < losses[0]
    before = problem.memory().double().state_dict()
    for name, weight in memory.state_dict().items():
        wanted = by_hand.state_dict()[name]
        torch.testing.assert_close(weight, wanted, rtol=1e-3, atol=1e-5, msg=name)
        assert (wanted - before[name]).abs().max() > 1e-2  # far more than the tolerance


def test_there_is_one_validation_an_epoch(problem):
    options = TrainerConfig(batch_size=6, micro_batch_size=2, max_epochs=EPOCHS)
    _, module, _ = train_with_lightning(problem, options, 0.5)
    validations = [e for e in module.history if "validation/perplexity" in e]
    assert len(validations) == EPOCHS


@pytest.mark.parametrize("vocab_size", [60, 304])
@pytest.mark.parametrize("is_whole", [True, False])
def test_validation_scores_every_token_in_its_place(problem, is_whole, vocab_size):
    seen = []
    options = TrainerConfig(batch_size=6, micro_batch_size=3)
    memory = problem.memory()
    if is_whole:
        memory.output_ids_O = None
    module = MemoryModule(
        memory,
        MemoryDecoderConfig(),
        options,
        validate=lambda gold_N: seen.append(gold_N.clone()) or {"validation/perplexity": 1.0},
        num_validation_tokens=len(problem.validation) - 1,
        vocab_size=vocab_size,
    )
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.validate(module, datamodule=problem.data(options), verbose=False)
    (gold_N,) = seen
    outputs = torch.arange(vocab_size) if is_whole else problem.output_ids
    for window in make_windows(len(problem.validation), 9, 5):
        ids = problem.validation[window.start : window.end - 1].astype(np.int64)
        with torch.no_grad():
            logits_TV = memory.lm(torch.from_numpy(ids)[None]).logits[0]
        for position in range(window.first_scored, window.end):
            logits_V = logits_TV[position - 1 - window.start]
            token = int(problem.validation[position])
            wanted = logits_V[token] - logits_V[outputs].logsumexp(0)
            if token not in outputs.tolist():
                wanted = torch.tensor(-torch.inf)
            torch.testing.assert_close(gold_N[position - 1], wanted, rtol=1e-4, atol=1e-4)


def test_reliability_of_a_target():
    gold_N = torch.tensor([5, 5, 0])
    ids_NM = torch.tensor([[5, 2, 0], [1, 5, 0], [3, 1, 0]])
    probs_NM = torch.tensor([[0.7, 0.3, 0.0], [0.6, 0.4, 0.0], [0.5, 0.5, 0.0]])
    targets = gold_N, ids_NM, probs_NM
    assert reliability(*targets, "none") == 1
    torch.testing.assert_close(reliability(*targets, "gold"), torch.tensor([0.7, 0.4, 0.0]))
    torch.testing.assert_close(reliability(*targets, "largest"), torch.tensor([0.7, 0.6, 0.5]))
