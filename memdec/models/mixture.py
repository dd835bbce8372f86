"""The interpolation of a language model with a memory, in one place.

Formula: p = (1 - alpha) * p_lm + alpha * p_memory, in the log domain.
"""

import torch
from torch import Tensor

from memdec.errors import ConfigError


def mix_log_probs(lm_log_probs: Tensor, memory_log_probs: Tensor, alpha: float | Tensor) -> Tensor:
    """Return log((1 - alpha) * exp(lm) + alpha * exp(memory)), elementwise.

    Args:
        lm_log_probs: Natural logs, any shape.
        memory_log_probs: The same, broadcastable; -inf outside the memory's support.
        alpha: The memory's share in [0, 1]; a tensor must broadcast against the log-probs.

    Returns:
        Natural logs in float32, or float64 where an input is. With alpha 0 exactly the LM's
        values, with alpha 1 exactly the memory's; -inf where both sides are, never NaN.

    Raises:
        ConfigError: alpha is outside [0, 1].
    """
    dtype = torch.promote_types(lm_log_probs.dtype, memory_log_probs.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    lm, memory = lm_log_probs.to(dtype), memory_log_probs.to(dtype)
    # log1p(-alpha) in float64: 1 - alpha loses digits in f32 when alpha is near 1.
    share = torch.as_tensor(alpha, dtype=torch.float64, device=lm.device)
    if not bool(((share >= 0) & (share <= 1)).all()):
        given = f"{alpha}" if share.numel() == 1 else f"values from {share.min()} to {share.max()}"
        raise ConfigError(f"alpha must lie in [0, 1], got {given}.")
    log_lm_share, log_memory_share = (-share).log1p().to(dtype), share.log().to(dtype)
    return torch.logaddexp(lm + log_lm_share, memory + log_memory_share)
