"""How adapted models are measured."""

from dataclasses import dataclass

from memdec.checks import check_at_least


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Intervals, curves and the page of example text."""

    bootstrap_samples: int = 1000
    """Resamples of documents for the 95% intervals; 0 for none."""
    curve_points: int = 41
    """Points of the alpha curve."""
    example_tokens: int = 700
    """Test tokens shown in the report with their gain."""
    fidelity: bool = False
    """Compare the memory with the kNN distributions of the test text: one more forward pass."""
    prompt: str = ""
    """Text that the base and each generating method continue in the report; empty for none."""
    new_tokens: int = 48
    """Tokens of that continuation."""

    def __post_init__(self) -> None:
        check_at_least("evaluation.bootstrap_samples", self.bootstrap_samples, 0)
        check_at_least("evaluation.curve_points", self.curve_points, 2)
        check_at_least("evaluation.example_tokens", self.example_tokens, 0)
        check_at_least("evaluation.new_tokens", self.new_tokens, 1)
