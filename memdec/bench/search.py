"""Exact all-against-all search, against faiss.knn on the same keys; each in its own process.

Shape legend: N rows, D key width, K neighbors, Q sampled rows.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memdec.bench.child import in_child, peak_extra_bytes
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Goal, Outcome, bytes_figure, seconds_figure
from memdec.bench.inputs import make_keys

SAMPLED_ROWS = 1024
WARM_UP_ROWS = 4096
ROUNDING = 1e-6
"""Of a float32 distance, as a share of the keys' squared norms: a few units in the last place."""

Array = NDArray[Any]


def run(config: BenchConfig) -> Outcome:
    """Time both searches in turns; check the neighbors found against float64 on a sample."""
    plain = "faiss.knn" if config.device == "cpu" else "matrix product and topk in torch"
    with TemporaryDirectory(prefix="memdec-bench-") as folder:
        keys_ND = make_keys(config)
        np.save(Path(folder) / "keys.npy", keys_ND)
        sides: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
        for turn in range(config.repeats):
            for side, answers in sides.items():
                function = "memdec.bench.search:one_side"
                answers.append(in_child(function, asdict(config), folder, side, turn == 0))
        rows = {side: np.load(Path(folder) / f"{side}.npy", mmap_mode="r") for side in sides}
        recalls = {side: recall(keys_ND, rows[side], config.k) for side in sides}
    samples = tuple([answer["seconds"] for answer in answers] for answers in sides.values())
    peaks = [median(answer["bytes"] for answer in answers) for answers in sides.values()]
    size = f"N {config.rows:,}, D {keys_ND.shape[1]}, k {config.k:,}"
    return Outcome(
        figures=[
            seconds_figure(
                f"exact search, {size}",
                (samples[0], samples[1]),
                plain,
                goals=(Goal(number=2, limit=0.6),),
                num_flops=float(config.rows**2 * keys_ND.shape[1]),
            ),
            bytes_figure(f"peak memory, {size}, result included", peaks[0], peaks[1], plain),
        ],
        checks=[Check(what="recall", value=recalls["ours"], limit=1.0, at_least=True)],
        notes=[
            "keys: " + ("of a model, from --keys" if config.keys else "made up, clustered"),
            f"recall of {plain}: {recalls['plain']:.6f}",
            "operations counted: half of all pairs, which symmetry leaves",
        ],
    )


def one_side(settings: dict[str, Any], folder: str, side: str, save: bool) -> dict[str, float]:
    """Search in this process, with time and peak memory; save the rows found where asked to."""
    import time

    config = BenchConfig(**settings)
    search = _SIDES[side, config.device == "cpu"](Path(folder) / "keys.npy", config)
    search(min(WARM_UP_ROWS, config.rows))
    found: list[Any] = []
    start = time.perf_counter()
    extra = peak_extra_bytes(lambda: found.append(search(config.rows)), config.device)
    elapsed = time.perf_counter() - start
    if save:
        np.save(Path(folder) / f"{side}.npy", np.asarray(found[0]).astype(np.int32))
    return {"seconds": elapsed, "bytes": extra}


Search = Callable[[int], Any]
"""Number of rows to search among themselves -> the rows found."""


def _ours(keys_file: Path, config: BenchConfig) -> Search:
    from memdec.datastore.search import exact_neighbors

    keys_ND = np.load(keys_file, mmap_mode="r")
    return lambda count: exact_neighbors(
        keys_ND[:count], min(config.k, count - 1), device=config.device
    )[0].cpu()


def _faiss(keys_file: Path, config: BenchConfig) -> Search:
    """Search for k + 1, as everyone does who has to drop the row itself."""
    import os

    import faiss

    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    keys_ND = np.load(keys_file).astype(np.float32)
    return lambda count: faiss.knn(keys_ND[:count], keys_ND[:count], min(config.k + 1, count))[1]


def _torch(keys_file: Path, config: BenchConfig) -> Search:
    """Search on a GPU without FAISS's GPU build: a product and a topk for each block of rows."""
    import torch

    keys_ND = torch.from_numpy(np.load(keys_file)).to(config.device).float()
    half_norms_N = keys_ND.square().sum(1) / 2

    def search(count: int) -> Any:
        keys, half_norms = keys_ND[:count], half_norms_N[:count]
        wanted = min(config.k + 1, count)
        parts = [(part @ keys.T - half_norms).topk(wanted)[1] for part in keys.split(1024)]
        return torch.cat(parts).cpu()

    return search


_SIDES = {
    ("ours", True): _ours,
    ("ours", False): _ours,
    ("plain", True): _faiss,
    ("plain", False): _torch,
}


def recall(keys_ND: Array, rows_NK: Array, k: int) -> float:
    """Return the share of true neighbors found, over rows sampled, with distances in float64.

    A row found counts when it is no farther than the true k-th neighbor, up to the rounding of a
    float32 distance: which of several equally near rows is k-th is open. Rows found twice, the row
    itself and empty slots count for nothing.
    """
    keys = keys_ND.astype(np.float64)
    keys -= keys.mean(0)
    norms_N = (keys**2).sum(1)
    random = np.random.default_rng(4)
    sample_Q = random.choice(len(keys), min(SAMPLED_ROWS, len(keys)), replace=False)
    num_found = 0
    for row in sample_Q:
        sq_distances_N = norms_N + norms_N[row] - 2 * (keys @ keys[row])
        sq_distances_N[row] = np.inf  # so the row itself never counts
        limit = np.partition(sq_distances_N, k - 1)[k - 1] + ROUNDING * 2 * norms_N[row]
        found = np.unique(rows_NK[row])
        found = found[found >= 0]
        num_found += min(k, int((sq_distances_N[found] <= limit).sum()))
    return num_found / (k * len(sample_Q))
