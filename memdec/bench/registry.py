"""The benchmarks by name; nothing heavy is imported until one is run."""

import importlib
from collections.abc import Sequence

from memdec.bench.config import BenchConfig
from memdec.bench.figures import Outcome
from memdec.checks import check_choice

BENCHMARKS = {
    "targets": "neighbors to sparse targets, against the dense way",
    "search": "exact search, against faiss.knn",
    "loss": "the hybrid training step, against plain cross-entropy",
    "compiled": "the training step under torch.compile, against the step as it is",
    "encode": "encoding keys, against the bare forward pass",
    "alpha": "an alpha curve from cached scores, against logaddexp",
    "growth": "seconds and bytes of each stage as the corpus grows",
    "startup": "how long the command line takes to answer",
}
"""Names, each a module of this package with `run(config)`, and what they measure."""


def check_names(names: Sequence[str]) -> list[str]:
    """Return the benchmarks to run, all when none is named, each once.

    Raises:
        ConfigError: A name is unknown.
    """
    for name in names:
        check_choice("benchmark", name, tuple(BENCHMARKS))
    return list(dict.fromkeys(names or BENCHMARKS))


def run_benchmark(name: str, config: BenchConfig) -> Outcome:
    """Run one benchmark."""
    module = importlib.import_module(f"memdec.bench.{name}")
    outcome: Outcome = module.run(config)
    return outcome
