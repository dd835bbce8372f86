"""A training step under torch.compile, against the same step without it."""

import shutil

import torch

from memdec.bench.clock import in_turns
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Outcome, seconds_figure
from memdec.bench.inputs import body_parameters, make_decoder
from memdec.bench.loss import make_inputs, ours
from memdec.models.loading import body_output, head_weight

COMPILERS = ("c++", "g++", "clang++")


def run(config: BenchConfig) -> Outcome:
    """Compile the decoder's body; head and loss make their own gradients and stay as they are."""
    if config.device == "cpu" and not any(map(shutil.which, COMPILERS)):
        return Outcome(notes=[f"not measured: no C++ compiler ({', '.join(COMPILERS)}) is here"])
    lm = make_decoder(config, config.vocab_size).train()
    inputs_BT, targets = make_inputs(config, config.vocab_size)
    compiled = torch.compile(lambda: body_output(lm, inputs_BT))
    losses: dict[bool, float] = {}

    def step(is_compiled: bool) -> None:
        lm.zero_grad(set_to_none=True)
        hidden_BTD = compiled() if is_compiled else body_output(lm, inputs_BT)
        loss = ours(hidden_BTD.flatten(0, 1), head_weight(lm), targets)
        loss.backward()
        losses[is_compiled] = loss.item()

    samples = in_turns(lambda: step(True), lambda: step(False), config.repeats, config.device)
    per_token = 6.0 * (body_parameters(lm) + config.key_width * config.vocab_size)
    figure = seconds_figure(
        f"training step under torch.compile, {config.step_tokens:,} tokens",
        samples,
        "the same step without it, as memdec trains",
        num_flops=per_token * config.step_tokens,
    )
    difference = abs(losses[True] - losses[False]) / losses[False]
    check = Check(what="relative difference of the loss", value=difference, limit=1e-4)
    return Outcome(figures=[figure], checks=[check], notes=["the time to compile does not count"])
