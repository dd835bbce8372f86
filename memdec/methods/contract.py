"""What a method is, and what every evaluation sees: an AdaptedLM.

Shape legend: N scored tokens of a split.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memdec.artifacts.artifact import Artifact
from memdec.checks import check_extra
from memdec.corpus.config import HELD_OUT

Scores = Mapping[str, NDArray[np.float32]]
"""Per split, the natural log-prob of each scored token [N]."""


@dataclass(frozen=True)
class Candidate:
    """A distribution that may be mixed into the base, with the settings that made it."""

    scores: Scores
    """May hold -inf."""
    settings: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    """Tells apart what is mixed in together."""


@dataclass(frozen=True)
class AdaptedLM:
    """A language model after adaptation, as every evaluation sees it.

    The evaluation picks one candidate and its alpha on validation, for all methods in the same way.
    """

    lm: Scores
    """The model without any mixture."""
    candidates: tuple[Candidate, ...] = ()
    """What can be mixed in; none for a method that changes the model itself."""
    mixes_all: bool = False
    """Whether all candidates are mixed in, each with its own share, instead of the best one."""
    gate_features: Mapping[str, NDArray[np.float32]] | None = None
    """Per split, what an alpha for each token may depend on [N, F]; None for one alpha."""
    gate_feature_names: tuple[str, ...] = ()
    alpha: float | str = "validation"
    """The candidates' share: a number, or validation for the exact optimum there."""
    top_tokens: Artifact | None = None
    """Scores artifact with the top tokens of the mixed-in distribution, where there is one."""
    memory_path: Path | None = None
    """Exported memory that can generate, where there is one."""
    training: Artifact | None = None
    """The training that made it, where there was one."""


@dataclass(frozen=True)
class MethodInputs:
    """What a method may use: the artifacts of the stages that it names, and its settings."""

    artifacts: Mapping[str, Artifact]
    config: Any
    """The method's own section of the experiment."""
    k: int
    """Neighbors per position."""


class Method(ABC):
    """One way to adapt a language model. A new one is a file, an import line and a section."""

    name: ClassVar[str]
    label: ClassVar[str]
    """What people call it in a table."""
    stages: ClassVar[tuple[str, ...]]
    """Stages whose artifacts `adapt` reads."""
    section: ClassVar[str] = ""
    """Section of the experiment that it reads; empty for the one of its own name, if any."""
    extra: ClassVar[str] = ""
    """Optional extra of memdec that has to be installed."""

    def check(self) -> None:
        """Raise MissingExtraError, before any work, when the method's extra is not installed."""
        if self.extra:
            check_extra(f"method {self.name}", self.extra)

    @abstractmethod
    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Score validation and test; choose nothing."""


def split_scores(scores: Artifact) -> Scores:
    """Read the gold log-probs of each evaluated split from a scores artifact."""
    return {split: np.asarray(scores.array(f"{split}_gold_log_probs")) for split in HELD_OUT}
