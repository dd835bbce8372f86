"""How neighbors are searched."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Exact search for now."""

    method: str = "exact"
    """exact."""
