"""Time two ways in turns, and the ceiling of the machine."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

Work = Callable[[], Any]

_GEMM_SIZE = 2048
_COPY_FLOATS = 1 << 26


def seconds(work: Work, device: str = "cpu") -> float:
    """Return how long `work` takes, to its end on the device."""
    _settle(device)
    start = time.perf_counter()
    work()
    _settle(device)
    return time.perf_counter() - start


def in_turns(
    ours: Work, plain: Work, repeats: int, device: str = "cpu"
) -> tuple[list[float], list[float]]:
    """Time ours, plain, ours, plain, ... after one run of each: noise then meets both alike."""
    ours()
    plain()
    samples = [(seconds(ours, device), seconds(plain, device)) for _ in range(repeats)]
    return [sample[0] for sample in samples], [sample[1] for sample in samples]


def ceiling(device: str) -> dict[str, float]:
    """Measure float32 GEMM (GFLOP/s) and copying (GB read and written a second)."""
    a, b = torch.rand(2, _GEMM_SIZE, _GEMM_SIZE, device=device)
    product = torch.empty_like(a)
    source = torch.ones(_COPY_FLOATS, device=device)
    target = torch.zeros_like(source)
    gemm = _best_half(lambda: torch.mm(a, b, out=product), device)
    copy = _best_half(lambda: target.copy_(source), device)
    return {
        "gemm_gflops": 2 * _GEMM_SIZE**3 / gemm / 1e9,
        "copy_gb_per_s": 2 * 4 * _COPY_FLOATS / copy / 1e9,
    }


def _best_half(work: Work, device: str) -> float:
    """Return the median of the faster half of ten timings: a ceiling is what is possible."""
    work()
    return median(sorted(seconds(work, device) for _ in range(10))[:5])


def _settle(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
