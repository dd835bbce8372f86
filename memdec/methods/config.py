"""Settings of the methods that are compared with the Memory Decoder."""

from dataclasses import dataclass, field

from memdec.checks import check_alpha, check_positive
from memdec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KnnLmConfig:
    """kNN-LM (Khandelwal et al. 2020): search at inference; alpha is its lambda."""

    temperatures: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    """Temperatures tried on validation, each with its own exact alpha; all above 0."""
    alpha: float | str = "validation"
    """The retriever's share in the mixture: a number in [0, 1], or validation."""

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise ConfigError("knn_lm.temperatures is empty; give at least one, such as [1.0].")
        for temperature in self.temperatures:
            check_positive("knn_lm.temperatures", temperature)
        check_alpha("knn_lm.alpha", self.alpha)
