"""How neighbors are searched."""

from dataclasses import dataclass

from memdec.checks import check_choice


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Exact search; an approximate one will be another method here."""

    method: str = "exact"
    """exact: every pair of rows is compared."""

    def __post_init__(self) -> None:
        check_choice("search.method", self.method, ("exact",))
