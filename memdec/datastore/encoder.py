"""Which hidden state is the key, and how to read it without patching the model.

Shape legend: B windows, T positions, D key width.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from memdec.datastore.config import LAST_FFN_INPUT
from memdec.errors import ConfigError
from memdec.models.loading import blocks, body_output


class Captured:
    """Holds the hidden state that the hooked layer saw last."""

    hidden_BTD: Tensor


class _EnoughError(Exception):
    """Ends a forward pass once the key is known."""


@contextmanager
def capture(lm: nn.Module, layer: str, stop: bool) -> Iterator[Captured]:
    """Keep the hidden state at `layer` of every forward pass inside the block.

    Args:
        lm: A causal LM.
        layer: A name as in `DatastoreConfig.layer`.
        stop: End the pass there; `encode` catches it. The rest of the model is not computed.
    """
    captured = Captured()

    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        keep(arguments[0])

    def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        keep(output if isinstance(output, Tensor) else output[0])

    def keep(hidden_BTD: Tensor) -> None:
        captured.hidden_BTD = hidden_BTD
        if stop:
            raise _EnoughError

    module, point = _locate(lm, layer)
    if point == "ffn_input":
        handle = module.register_forward_pre_hook(before)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield captured
    finally:
        handle.remove()


@torch.no_grad()
def encode(lm: nn.Module, layer: str, inputs_BT: Tensor) -> Tensor:
    """Return the keys [B, T, D] of all positions; no LM head and nothing above the layer is run."""
    if layer == "final_hidden":
        return body_output(lm, inputs_BT)
    with capture(lm, layer, stop=True) as captured, suppress(_EnoughError):
        body_output(lm, inputs_BT)
    return captured.hidden_BTD


def _locate(lm: nn.Module, layer: str) -> tuple[nn.Module, str]:
    if layer == "final_hidden":
        return _final_norm(lm), "output"
    stack = blocks(lm)
    number, _, point = layer.partition(".")
    if layer == LAST_FFN_INPUT:
        number, point = str(len(stack) - 1), "ffn_input"
    if int(number) >= len(stack):
        raise ConfigError(
            f"datastore.layer is {layer!r} but the model has blocks 0 to {len(stack) - 1}."
        )
    block = stack[int(number)]
    return (block.mlp if point == "ffn_input" else block), point  # type: ignore[return-value]


def _final_norm(lm: nn.Module) -> nn.Module:
    for name in ("norm", "ln_f"):
        if isinstance(found := getattr(lm.base_model, name, None), nn.Module):
            return found
    raise ConfigError(f"{type(lm).__name__} has no final norm that memdec knows; name a block.")
