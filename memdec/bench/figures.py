"""What a benchmark hands back: figures with goals, checks of correctness, tables and notes."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A limit on a figure, as the project's goals (issue 4) state it."""

    number: int
    """Of the goal in the issue."""
    limit: float
    """Largest value allowed; smallest where `at_least`."""
    of: str = "ratio"
    """ratio, or ours."""
    at_least: bool = False
    """Larger is better."""

    def missed_by(self, value: float) -> float:
        """Return the share of the limit that is lacking; 0 when the goal is reached."""
        gap = self.limit - value if self.at_least else value - self.limit
        return max(0.0, gap / self.limit)

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.of} {sign} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Ours against a plain alternative: medians of samples taken in turns."""

    name: str
    """What is measured, in a few words."""
    unit: str
    """s, bytes or tokens/s."""
    ours: float
    plain: float
    plain_is: str
    """The plain alternative, in a few words."""
    goals: tuple[Goal, ...] = ()
    samples: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    """Single measurements of ours and of plain."""
    num_flops: float = 0.0
    """Floating point operations of ours, to compare its rate with the ceiling; 0 for none."""

    @property
    def ratio(self) -> float:
        """Ours over plain."""
        return self.ours / self.plain

    def value(self, goal: Goal) -> float:
        """Return what the goal speaks of."""
        return self.ratio if goal.of == "ratio" else self.ours

    def to_json(self, gemm_gflops: float) -> dict[str, Any]:
        """Return the figure as plain data; `gemm_gflops` is the machine's ceiling."""
        goals = [
            {
                "issue": 4,
                "goal": goal.number,
                "limit": str(goal),
                "measured": self.value(goal),
                "reached": goal.missed_by(self.value(goal)) == 0,
                "missed_by": goal.missed_by(self.value(goal)),
            }
            for goal in self.goals
        ]
        facts: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "plain": self.plain,
            "plain_is": self.plain_is,
            "ratio": self.ratio,
            "goals": goals,
            "samples": {"ours": list(self.samples[0]), "plain": list(self.samples[1])},
        }
        if self.num_flops:
            rate = self.num_flops / self.ours / 1e9
            facts |= {"gflops": rate, "share_of_gemm_ceiling": rate / gemm_gflops}
        return facts


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measured difference from the slow way, and how large it may be."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the fast way is right; a value that is not a number never is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the check as plain data."""
        return {**vars(self), "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A small table of its own."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that one benchmark found."""

    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def seconds_figure(
    name: str, samples: tuple[list[float], list[float]], plain_is: str, **facts: Any
) -> Figure:
    """Make a figure of timings in seconds, ours and plain."""
    return Figure(
        name=name,
        unit="s",
        ours=median(samples[0]),
        plain=median(samples[1]),
        plain_is=plain_is,
        samples=(tuple(samples[0]), tuple(samples[1])),
        **facts,
    )


def bytes_figure(name: str, ours: float, plain: float, plain_is: str, **facts: Any) -> Figure:
    """Make a figure of peak memory."""
    return Figure(name=name, unit="bytes", ours=ours, plain=plain, plain_is=plain_is, **facts)
