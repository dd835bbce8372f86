"""Seconds and bytes of each stage as the datastore grows, and what large corpora would take.

Shape legend: N rows, K neighbors.
"""

import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.bench.clock import seconds
from memdec.bench.config import BenchConfig
from memdec.bench.encode import Encoding
from memdec.bench.figures import Figure, Outcome
from memdec.bench.growth_law import Cost, Law, Sizes, extrapolated_grid, fit_law, measured_grid
from memdec.bench.inputs import make_keys
from memdec.datastore.neighbors import build_neighbors
from memdec.datastore.search_config import SearchConfig
from memdec.datastore.search_faiss import FaissSearch
from memdec.datastore.search_found import Found
from memdec.datastore.targets import write_targets

TEMPERATURE = 2.0
MOST_REPEATS = 3
INDEX_QUERIES = 512


def run(config: BenchConfig) -> Outcome:
    """Run search and targets at an eighth, a quarter, half and all of the rows, encoding once."""
    sizes = tuple(config.rows // part for part in (8, 4, 2, 1))
    with TemporaryDirectory(prefix="memdec-bench-") as folder:
        stages = _Stages(config, Path(folder))
        costs = stages.measure(sizes)
        index_flops = stages.index_flops_per_second()
        encoding = stages.encode()
    key_width = stages.key_width
    num_encoded = config.encode_windows * config.block_size
    laws = {"encode": Law(encoding[0] / num_encoded, 0.0, encoding[1] / num_encoded)}
    laws["search"] = fit_law(sizes, costs["search"])
    elapsed, num_bytes = costs["targets"][-1]
    laws["targets"] = Law(elapsed / sizes[-1], 0.0, num_bytes / sizes[-1])
    return Outcome(
        figures=[_per_row(stage, sizes, costs[stage]) for stage in costs],
        grids=[
            measured_grid({"encode": [(num_encoded, *encoding)], **_with_sizes(sizes, costs)}),
            extrapolated_grid(laws, key_width, config.k, index_flops),
        ],
        notes=[
            "seconds = a N + b N^2; search: both at least 0, fitted to relative errors; encoding "
            "(windows of one length, measured once) and targets (at most k pairs a row, from the "
            "largest size) are linear by construction",
            "bytes grow linearly from the largest size measured",
            "exact search is the only stage with a quadratic part by design",
            f"ivf_pq: the operations that SearchConfig.flops counts, as `memdec plan` does, at the "
            f"{index_flops / 1e9:,.1f} G/s measured at N {sizes[-1]:,} (index and "
            f"{INDEX_QUERIES:,} queries): far from the ceiling, as candidates are gathered row by "
            "row to be re-ranked",
        ],
    )


class _Stages:
    """Runs the stages' own builders in a temporary folder."""

    def __init__(self, config: BenchConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._keys_ND = make_keys(config)
        self.key_width = self._keys_ND.shape[1]
        self._values_N = (
            np.random.default_rng(8).zipf(1.3, config.rows) % config.vocab_size
        ).astype(np.uint32)

    def measure(self, sizes: Sizes) -> dict[str, list[Cost]]:
        """Return the costs of search and targets at each size; rounds go through all sizes."""
        samples: dict[tuple[str, int], list[float]] = {}
        num_bytes: dict[tuple[str, int], int] = {}
        rounds = min(self._config.repeats, MOST_REPEATS)
        for _ in range(rounds):
            for size in sizes:
                for stage in ("search", "targets"):
                    work = partial(getattr(self, f"_{stage}"), size)
                    elapsed = seconds(work, self._config.device)
                    samples.setdefault((stage, size), []).append(elapsed)
                    num_bytes[stage, size] = folder_bytes(self._folder / stage)
        return {
            stage: [(median(samples[stage, n]), num_bytes[stage, n]) for n in sizes]
            for stage in ("search", "targets")
        }

    def index_flops_per_second(self) -> float:
        """Return the speed of an ivf_pq search of all rows, told from some of its queries."""
        num_rows, k, width = self._config.rows, self._config.k, self.key_width
        search = SearchConfig(method="ivf_pq", code_bytes=min(SearchConfig.code_bytes, width))
        start = time.perf_counter()
        index = FaissSearch(self._keys_ND, k, search.method, search)
        made = time.perf_counter() - start
        queries = torch.arange(min(INDEX_QUERIES, num_rows))
        shape = (len(queries), k)
        found = Found(np.empty(shape, np.int64), np.empty(shape, np.float32))
        searched = seconds(lambda: index.one_sided(found, self._keys_ND, queries, queries))
        return search.flops(num_rows, width, k) / (made + searched * num_rows / len(queries))

    def encode(self) -> Cost:
        """Return the cost of encoding the windows of `encode`."""
        encoding = Encoding(self._config, self._folder)
        encoding.ours()
        repeats = min(self._config.repeats, MOST_REPEATS)
        elapsed = median(seconds(encoding.ours, self._config.device) for _ in range(repeats))
        return elapsed, folder_bytes(encoding.out.path)

    def _search(self, size: int) -> None:
        out = self._writer("search")
        keys_ND = self._keys_ND[:size]
        build_neighbors(
            out,
            keys_ND,
            self._values_N[:size],
            self._config.k,
            SearchConfig(method="exact"),
            range(size),
            self._config.device,
        )

    def _targets(self, size: int) -> None:
        found = {
            name: np.load(self._folder / "search" / f"{name}.npy", mmap_mode="r")
            for name in ("rows", "sq_distances")
        }
        write_targets(
            self._writer("targets"),
            found["rows"],
            found["sq_distances"],
            self._values_N[:size],
            TEMPERATURE,
        )

    def _writer(self, stage: str) -> ArtifactWriter:
        out = ArtifactWriter(self._folder / stage)
        out.clear()
        return out


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _per_row(stage: str, sizes: Sizes, costs: list[Cost]) -> Figure:
    return Figure(
        name=f"{stage}: seconds a million rows at N {sizes[-1]:,}",
        unit="s",
        ours=1e6 * costs[-1][0] / sizes[-1],
        plain=1e6 * costs[0][0] / sizes[0],
        plain_is=f"the same at N {sizes[0]:,} (linear: ratio 1; quadratic: 8)",
    )


def _with_sizes(
    sizes: Sizes, costs: dict[str, list[Cost]]
) -> dict[str, list[tuple[int, float, int]]]:
    return {
        stage: [(size, *cost) for size, cost in zip(sizes, found, strict=True)]
        for stage, found in costs.items()
    }
