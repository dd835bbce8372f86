"""A job: one experiment, its artifacts, and the models that its stages share."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from memdec.artifacts.artifact import Artifact, ArtifactWriter
from memdec.artifacts.files import expand_home
from memdec.artifacts.fingerprint import FileHashes, fingerprint
from memdec.artifacts.store import Earlier, Made, Store
from memdec.corpus.config import SPLITS
from memdec.corpus.sources import describe_source
from memdec.errors import ConfigError, DataError
from memdec.models.config import ModelConfig
from memdec.models.exports import read_memory_facts
from memdec.pipeline.experiment import Experiment
from memdec.pipeline.model_source import IDENTITY_SUFFIXES, ModelSource, find_directory, find_model
from memdec.pipeline.shards import Shard
from memdec.pipeline.stages import FINE_TUNED, STAGES, Stage, required_stages


@dataclass(frozen=True)
class StageRun:
    """What one stage took."""

    name: str
    seconds: float
    num_bytes: int
    reused: bool
    fingerprint: str
    commit: str
    dirty: bool
    """Made by sources that were edited since that commit."""


class Job:
    """Builds the artifacts of an experiment on demand, each at most once."""

    def __init__(self, experiment: Experiment, root: Path, rank: int = 0) -> None:
        """Open a job.

        Args:
            experiment: What to run.
            root: The folder of artifacts.
            rank: Which process of a distributed training this is; 0 leads.
        """
        self.rank = rank
        self.experiment = experiment
        self.root = root
        self.store = Store(root)
        self.hashes = FileHashes(root / "file-hashes.json")
        self.runs: dict[str, StageRun] = {}
        self._artifacts: dict[str, Artifact] = {}
        self._fingerprints: dict[str, str] = {}
        self._shared: dict[str, Any] = {}

    @property
    def downloads(self) -> Path:
        """Folder of fetched packages."""
        return self.root / "downloads"

    @cached_property
    def model(self) -> ModelSource:
        """Where the base model is and what identifies it."""
        return find_model(self.experiment.model.source, self.hashes)

    @cached_property
    def model_path(self) -> Path:
        """The base model's Hugging Face directory, converted first where it has to be."""
        return self.model.path or self.artifact("model").path

    def fingerprint(self, stage: str) -> str:
        """Return the name of a stage's artifact, without building anything."""
        if stage not in self._fingerprints:
            self._fingerprints[stage] = fingerprint(self._facts(stage))
        return self._fingerprints[stage]

    def artifact(self, name: str) -> Artifact:
        """Return a stage's artifact, made now unless it is there."""
        if name not in self._artifacts:
            stage = STAGES[name]
            for upstream in stage.needs(self.experiment):
                if not self.is_given(upstream):
                    self.artifact(upstream)
            made = self._make(stage)
            self._artifacts[name] = made.artifact
            source = made.artifact.manifest["provenance"]
            self.runs[name] = StageRun(
                name=stage.kind,
                seconds=made.seconds,
                num_bytes=made.artifact.num_bytes,
                reused=made.reused,
                fingerprint=made.artifact.fingerprint,
                commit=source["commit"],
                dirty=source["dirty"],
            )
        return self._artifacts[name]

    def _make(self, stage: Stage) -> Made:
        def build(out: ArtifactWriter) -> None:
            stage.build(self, out)

        name = self.fingerprint(stage.name)
        if stage.collective and self.rank > 0:
            return self.store.join(stage.kind, name, build)
        return self.store.make(stage.kind, name, build, stage.resumable)

    def made(self, name: str) -> Artifact | None:
        """Return a stage's artifact if it is there."""
        return self.store.open(STAGES[name].kind, self.fingerprint(name))

    def shard(self, name: str, shard: Shard) -> list[Shard]:
        """Make one shard of a stage; merge when all are there; return the shards still missing."""
        stage, whole = STAGES[name], self.fingerprint(name)
        if self.made(name):
            return []
        for upstream in stage.needs(self.experiment):
            if not self.is_given(upstream):
                self.artifact(upstream)
        parts = [Shard(index, shard.count) for index in range(shard.count)]
        folder = f"{stage.kind}-shards"
        names = [f"{whole}-{part.index + 1}-of-{part.count}" for part in parts]
        self.store.make(folder, names[shard.index], lambda out: stage.build(self, out, shard))
        found = [self.store.open(folder, part_name) for part_name in names]
        missing = [part for part, made in zip(parts, found, strict=True) if made is None]
        if not missing:
            whole_parts = [made for made in found if made is not None]
            assert stage.merge is not None, f"{name} is not a stage with shards"
            sources = [made.manifest["provenance"] for made in whole_parts]
            earlier = Earlier(
                sum(source["seconds"] for source in sources),
                any(source["dirty"] for source in sources),
            )
            self.store.make(
                stage.kind,
                whole,
                lambda out: stage.merge(out, whole_parts),  # type: ignore[misc]
                earlier=earlier,
            )
        return missing

    def is_given(self, stage: str) -> bool:
        """Tell whether the stage has nothing to make: the user's own model directory."""
        return stage == "model" and self.model.path is not None

    def required(self, names: tuple[str, ...]) -> list[str]:
        """Return the stages that have to be there for `names`, in order."""
        found = required_stages(self.experiment, names)
        return [name for name in found if not self.is_given(name)]

    def shared(self, name: str, load: Callable[[], Any]) -> Any:
        """Return a model or tokenizer that several stages use, loaded once."""
        if name not in self._shared:
            self._shared[name] = load()
        return self._shared[name]

    def release_models(self) -> None:
        """Let go of the base's weights before a stage that needs the memory."""
        self._shared.pop("base", None)

    def reads(self, name: str) -> dict[str, Any]:
        """Return the settings that a stage reads, by their dotted keys."""
        settings = self.experiment.facts()
        if name in FINE_TUNED:  # what their own section replaces must not count
            settings["trainer"] = asdict(self.experiment.options_of(name))
        return {key: _setting(settings, key) for key in STAGES[name].reads}

    def _facts(self, name: str) -> dict[str, Any]:
        stage = STAGES[name]
        facts: dict[str, Any] = {
            "stage": stage.kind,
            "schema": stage.schema,
            "reads": self.reads(name),
            "needs": {STAGES[up].kind: self.fingerprint(up) for up in stage.needs(self.experiment)},
        }
        if name == "model":
            facts["identity"] = self.model.identity
        if name == "tokens":
            corpus = self.experiment.corpus
            facts["identity"] = describe_source(corpus, self.hashes.file)
            if corpus.source == "hf":
                facts["splits"] = [corpus.locator(split) for split in SPLITS]
        if name in ("datastore", "train_scores"):
            store = self.experiment.datastore
            facts["identity"] = store.model if store.has_own_model else self.key_model.identity
        plugged = name in ("memory_scores", "fidelity") or self.sizes_lora([name])
        if plugged and self.plugged_memory is not None:
            facts["identity"] = self.hash_of_memory(self.plugged_memory)
        if name == "mixture_scores":
            facts["identity"] = [self.hash_of_memory(path) for path in self.mixed_memories]
        if self.starts_a_memory([name]):
            facts["identity"] = self.init_model.identity if self.init_model else self._init
        if name == "lora" and self.starts_a_memory([name]):
            facts["blocks"] = self.experiment.memory_decoder.blocks
        return facts

    def starts_a_memory(self, stages: Sequence[str]) -> bool:
        """Tell whether a stage takes the start of the memory: to train it, or LoRA for its size."""
        trains_one = not self.experiment.memory_decoder.trained
        return trains_one and ("memory" in stages or self.sizes_lora(stages))

    def sizes_lora(self, stages: Sequence[str]) -> bool:
        """Tell whether LoRA is to get as many parameters as the memory."""
        return "lora" in stages and not self.experiment.lora.budget_parameters

    @cached_property
    def init_model(self) -> ModelSource | None:
        """The model that the memory starts from, when it is neither the base nor from scratch."""
        if self._init in ("base", "scratch"):
            return None
        return find_directory("memory_decoder.init", self._init, self.hashes)

    @cached_property
    def key_model(self) -> ModelSource:
        """The model of the keys, where `datastore.model` names a directory or a hub model."""
        return find_directory("datastore.model", self.experiment.datastore.model, self.hashes)

    @cached_property
    def plugged_memory(self) -> Path | None:
        """The export of a trained memory that is plugged in; None where one is trained here."""
        given = self.experiment.memory_decoder.trained
        return find_export("memory_decoder.trained", given) if given else None

    @cached_property
    def mixed_memories(self) -> list[Path]:
        """The exports of the memories that are mixed with each other."""
        given = self.experiment.memory_mixture.memories
        memories = [find_export("memory_mixture.memories", path) for path in given]
        found: dict[str, Path] = {}
        for memory in memories:
            twin = found.setdefault(self.hash_of_memory(memory), memory)
            if twin is not memory:
                raise ConfigError(
                    f"memory_mixture.memories has one memory twice ({twin}, {memory}); give each "
                    "once."
                )
        return memories

    def given_memories(self, stages: Sequence[str]) -> list[Path]:
        """Return the exports of the trained memories that the stages read."""
        plugged = self.plugged_memory if "memory_scores" in stages else None
        mixed = self.mixed_memories if "mixture_scores" in stages else []
        return [plugged, *mixed] if plugged else mixed

    def hash_of_memory(self, path: Path) -> str:
        """Return the content hash of an export."""
        return self.hashes.folder(path, (*IDENTITY_SUFFIXES, ".npy"))

    @property
    def _init(self) -> str:
        return self.experiment.memory_decoder.init


def _setting(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = settings[name]
    return settings


def find_export(key: str, given: str) -> Path:
    """Return the folder of an exported memory.

    Raises:
        DataError: It holds none.
    """
    path = expand_home(given)
    try:
        read_memory_facts(path)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None
    return path


def artifacts_root() -> Path:
    """Return the folder of artifacts: MEMDEC_ARTIFACTS, or ./artifacts."""
    return Path(os.environ.get("MEMDEC_ARTIFACTS") or "artifacts")


def model_directory(source: str, root: Path) -> Path:
    """Return the Hugging Face directory of any model source, converted first where it has to be."""
    return Job(Experiment(name="generate", model=ModelConfig(source=source)), root).model_path
