"""How neighbors are searched."""

import math
from dataclasses import dataclass

from memdec.checks import check_at_least, check_choice, check_share
from memdec.errors import ConfigError

METHODS = ("auto", "exact", "ivf_flat", "ivf_pq")

PQ_CENTROIDS = 256
"""Of each byte of a code."""
KMEANS_ITERATIONS = 10
KMEANS_ROWS_PER_LIST = 256
"""FAISS's defaults when an inverted index learns its lists."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Exact search, or FAISS inverted lists for a datastore too large for it."""

    method: str = "auto"
    """exact; ivf_flat; ivf_pq (compressed, candidates re-ranked exactly); auto: exact if it can."""
    exact_max_rows: int = 500_000
    """auto takes exact up to here and ivf_pq beyond; exact costs the square of the rows."""
    num_lists: int = 0
    """Inverted lists; 0 for four times the square root of the rows."""
    num_probes: int = 32
    """Lists visited per query: recall against time."""
    code_bytes: int = 64
    """Bytes of a compressed key (ivf_pq)."""
    rerank: int = 4
    """Candidates taken per neighbor wanted, then re-ranked by exact distances (ivf_pq)."""
    train_rows: int = 1_000_000
    """Random rows that the lists and codes are learned from."""
    sample_rows: int = 256
    """Random rows searched exactly as well, to report recall and the targets' divergence."""
    min_recall: float = 0.95
    """Below this recall on the sample a warning names the knob."""

    def __post_init__(self) -> None:
        check_choice("search.method", self.method, METHODS)
        check_at_least("search.num_lists", self.num_lists, 0)
        for key in ("exact_max_rows", "num_probes", "code_bytes", "rerank"):
            check_at_least(f"search.{key}", getattr(self, key), 1)
        for key in ("train_rows", "sample_rows"):
            check_at_least(f"search.{key}", getattr(self, key), 1)
        check_share("search.min_recall", self.min_recall)

    def method_for(self, num_rows: int) -> str:
        """Return exact, ivf_flat or ivf_pq for a datastore of this size."""
        if self.method != "auto":
            return self.method
        return "exact" if num_rows <= self.exact_max_rows else "ivf_pq"

    def lists_for(self, num_rows: int) -> int:
        """Return the number of inverted lists for a datastore of this size."""
        wanted = self.num_lists or max(1, round(4 * math.sqrt(num_rows)))
        return min(wanted, num_rows)

    def check(self, num_rows: int, key_width: int) -> None:
        """Raise ConfigError when the index cannot be made for so many rows of this width."""
        method = self.method_for(num_rows)
        if method == "exact":
            return
        if method == "ivf_pq" and self.code_bytes > key_width:
            raise ConfigError(
                f"search.code_bytes must be at most {key_width}, the width of a key, got "
                f"{self.code_bytes}."
            )
        num_drawn = min(self.train_rows, num_rows)
        least = max(self.lists_for(num_rows), PQ_CENTROIDS if method == "ivf_pq" else 1)
        if num_drawn < least:
            raise ConfigError(
                f"search.train_rows gives {num_drawn:,} rows, but {method} needs at least "
                f"{least:,}; raise it, lower search.num_lists, or use search.method=exact."
            )

    def flops(self, num_rows: int, key_width: int, k: int, num_queries: int | None = None) -> float:
        """Estimate the operations of searching queries, or every row (None), among all rows.

        Exact: all pairs; of rows half, as distances are symmetric. An index: k-means for its lists,
        each row and each query against all lists, then the share of rows in the lists visited, a
        table lookup counting as one operation; for ivf_pq also the tables and the exact
        distances of the candidates. Memory traffic is not counted, and an index has much of it.
        """
        method = self.method_for(num_rows)
        if method == "exact":
            pairs = num_rows**2 / 2 if num_queries is None else num_rows * num_queries
            return 2.0 * pairs * key_width
        searched = num_rows if num_queries is None else num_queries
        num_lists = self.lists_for(num_rows)
        num_probes = min(self.num_probes, num_lists)
        learned = min(self.train_rows, KMEANS_ROWS_PER_LIST * num_lists, num_rows)
        assigned = KMEANS_ITERATIONS * learned + num_rows + searched
        lists = 2.0 * key_width * num_lists * assigned
        visited = searched * num_probes * num_rows / num_lists
        if method == "ivf_flat":
            return lists + 2.0 * key_width * visited
        tables = key_width * num_rows + (key_width + num_probes * self.code_bytes) * searched
        exact = 3.0 * key_width * searched * (k + 1) * self.rerank
        return lists + 1.0 * PQ_CENTROIDS * tables + self.code_bytes * visited + exact
