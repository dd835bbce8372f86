"""How neighbors are searched."""

from dataclasses import dataclass

from memdec.checks import check_at_least, check_choice, check_share

METHODS = ("auto", "exact", "ivf_flat", "ivf_pq")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Exact search, or FAISS inverted lists for a datastore too large for it.

    Queries of held-out text are always searched exactly: their number does not grow with N.
    """

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
