"""Neighbors to sparse targets, against the dense way of the authors' code.

Shape legend: Q rows, K neighbors, V vocabulary, B rows of a dense batch.
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from memdec.bench.child import in_child, peak_extra_bytes
from memdec.bench.clock import in_turns
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Figure, Goal, Outcome, bytes_figure, seconds_figure
from memdec.bench.inputs import make_neighbors
from memdec.datastore.targets import knn_distribution

TEMPERATURE = 2.0
FASTEST_BATCH = 16
"""Rows of a dense batch that stay in the cache; measured."""
CHECKED_BATCH = 256
"""Rows spread out at once to compare results."""
PLAIN = "dense [batch, V], threshold, per-row sort"

Csr = tuple[Tensor, Tensor, Tensor]


def run(config: BenchConfig) -> Outcome:
    """Time ours and the dense way on the same rows, compare numbers, and measure both peaks."""
    figures, checks = [], []
    for batch, words, goals in (
        (config.target_rows, "all rows in one batch", (Goal(number=1, limit=1 / 50),)),
        (FASTEST_BATCH, f"{FASTEST_BATCH} rows a batch, its fastest", ()),
    ):
        figure, check = _compare_times(config, batch, f"{PLAIN}, {words}", goals)
        figures.append(figure)
        checks.append(check)
    peaks = [in_child("memdec.bench.targets:peak", asdict(config), way) for way in _WAYS]
    memory = bytes_figure(
        f"peak memory, {config.target_rows:,} rows",
        peaks[0]["bytes"],
        peaks[1]["bytes"],
        f"{PLAIN}, all rows in one batch",
        goals=(Goal(number=1, of="ours", limit=200e6),),
    )
    note = (
        "the authors' batch is 16,000 rows; the dense way gains from batches that fit the cache; "
        "half of our time is NumPy's two sorts (neighbors by token, tokens by probability), which "
        "leave its fast network for rows beyond 512 numbers"
    )
    return Outcome(figures=[*figures, memory], checks=checks, notes=[note])


def _compare_times(
    config: BenchConfig, batch: int, plain_is: str, goals: tuple[Goal, ...]
) -> tuple[Figure, Check]:
    sq_distances_QK, ids_QK = _inputs(config)
    results: dict[str, Csr] = {}

    def ours() -> None:
        results["ours"] = knn_distribution(sq_distances_QK, ids_QK, TEMPERATURE)

    def plain() -> None:
        results["plain"] = dense_distribution(
            sq_distances_QK, ids_QK, TEMPERATURE, config.vocab_size, batch
        )

    samples = in_turns(ours, plain, config.repeats, config.device)
    name = f"targets of {config.target_rows:,} rows, k {config.k:,}, V {config.vocab_size:,}"
    figure = seconds_figure(name, samples, plain_is, goals=goals)
    return figure, compare(**results, vocab_size=config.vocab_size)


def dense_distribution(
    sq_distances_QK: Tensor, ids_QK: Tensor, temperature: float, vocab_size: int, batch: int
) -> Csr:
    """Do as the authors: scatter into [B, V], scale, mask and sort row by row; CSR as ours."""
    counts, ids, probs = [0], [], []
    for first in range(0, len(ids_QK), batch):
        part = slice(first, first + batch)
        weights_BK = (-sq_distances_QK[part] / temperature).softmax(-1)
        probs_BV = weights_BK.new_zeros(len(weights_BK), vocab_size)
        probs_BV.scatter_add_(1, ids_QK[part], weights_BK)
        probs_BV = torch.nn.functional.normalize(probs_BV, p=1, dim=1)
        for row_V in probs_BV:
            found = (row_V > 0).nonzero()[:, 0]
            order = row_V[found].argsort(descending=True)
            ids.append(found[order])
            probs.append(row_V[ids[-1]])
            counts.append(len(order))
    return torch.tensor(counts).cumsum(0), torch.cat(ids), torch.cat(probs)


def compare(ours: Csr, plain: Csr, vocab_size: int) -> Check:
    """Compare two results entry by entry, whatever the order of nearly equal probabilities."""
    difference = 0.0
    for first in range(0, len(plain[0]) - 1, CHECKED_BATCH):
        gap = _densify(ours, first, vocab_size) - _densify(plain, first, vocab_size)
        difference = max(difference, gap.abs().max().item())
    return Check(what="largest difference of a probability", value=difference, limit=1e-6)


def _densify(csr: Csr, first: int, vocab_size: int) -> Tensor:
    starts = csr[0].cpu()[first : first + CHECKED_BATCH + 1]
    counts = starts.diff()
    entries = slice(int(starts[0]), int(starts[-1]))
    row = torch.repeat_interleave(torch.arange(len(counts)), counts)
    dense = torch.zeros(len(counts), vocab_size, dtype=torch.float64)
    return dense.index_put_((row, csr[1][entries].cpu()), csr[2][entries].cpu().double(), True)


def _inputs(config: BenchConfig) -> tuple[Tensor, Tensor]:
    arrays = make_neighbors(config.target_rows, config.k, config.vocab_size)
    sq_distances_QK, ids_QK = (torch.from_numpy(array).to(config.device) for array in arrays)
    return sq_distances_QK, ids_QK


_WAYS = ("sparse", "dense")


def peak(settings: dict[str, Any], way: str) -> dict[str, int]:
    """Measure, in a process of its own, the memory that one way takes beside its inputs."""
    config = BenchConfig(**settings)
    sq_distances_QK, ids_QK = _inputs(config)
    vocab_size = config.vocab_size
    some = slice(0, 8)  # loads libraries and starts threads before the measurement
    work = {
        "sparse": lambda rows: knn_distribution(sq_distances_QK[rows], ids_QK[rows], TEMPERATURE),
        "dense": lambda rows: dense_distribution(
            sq_distances_QK[rows], ids_QK[rows], TEMPERATURE, vocab_size, config.target_rows
        ),
    }[way]
    work(some)
    return {"bytes": peak_extra_bytes(lambda: work(slice(None)), config.device)}
