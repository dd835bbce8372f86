"""Benchmarks at sizes that take no time; all sizes differ, so that a swapped axis shows."""

import importlib

import pytest

from memdec.bench.config import BenchConfig


@pytest.fixture
def config() -> BenchConfig:
    return BenchConfig(
        rows=480,
        repeats=1,
        k=13,
        key_width=36,
        vocab_size=700,
        large_vocab_size=900,
        target_rows=40,
        target_entries=9,
        step_tokens=32,
        block_size=16,
        num_blocks=2,
        encode_windows=3,
        alpha_tokens=3000,
        alpha_points=11,
    )


@pytest.fixture
def in_process(monkeypatch):
    """Call what a benchmark sends to a process of its own right here: torch takes seconds to load.

    Sound but for peaks of memory, and for FAISS, which must not meet torch.
    """

    def call(function, *arguments):
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(*arguments)

    for module in ("targets", "loss"):
        monkeypatch.setattr(f"memdec.bench.{module}.in_child", call)
