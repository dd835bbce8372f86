"""One experiment is one YAML file: defaults < file < command line, checked before any work."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from memdec.checks import check_choice
from memdec.corpus.config import CorpusConfig
from memdec.datastore.config import DatastoreConfig, KnnConfig
from memdec.datastore.search_config import SearchConfig
from memdec.errors import ConfigError
from memdec.evaluation.config import EvaluationConfig
from memdec.methods.config import (
    DaptConfig,
    DaptMemoryConfig,
    InContextRagConfig,
    KnnLmConfig,
    LoraConfig,
    MemoryMixtureConfig,
)
from memdec.methods.registry import METHODS
from memdec.models.config import ModelConfig
from memdec.results.record import NAME, SCALES
from memdec.training.config import MemoryDecoderConfig, TrainerConfig

LOGGERS = ("csv", "wandb", "none")
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run needs to know."""

    name: str
    """Short name; starts the record's id."""
    title: str = ""
    """One line for people."""
    table: str = ""
    """Table of the report that the records belong to; empty for the experiment's name."""
    scale: str = "small"
    """smoke, small or paper; never mixed in one table."""
    seed: int = 0
    """Orders the training windows and starts weights that have none."""
    methods: list[str] = field(default_factory=lambda: ["base", "knn_lm", "memory_decoder"])
    """Methods to compare; each leaves one record."""
    logger: str = "csv"
    """Where training curves go besides the record: csv, wandb or none."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    datastore: DatastoreConfig = field(default_factory=DatastoreConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    memory_decoder: MemoryDecoderConfig = field(default_factory=MemoryDecoderConfig)
    memory_mixture: MemoryMixtureConfig = field(default_factory=MemoryMixtureConfig)
    knn_lm: KnnLmConfig = field(default_factory=KnnLmConfig)
    dapt: DaptConfig = field(default_factory=DaptConfig)
    dapt_memory: DaptMemoryConfig = field(default_factory=DaptMemoryConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    in_context_rag: InContextRagConfig = field(default_factory=InContextRagConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        for key, value in {"name": self.name, "table": self.table or self.name}.items():
            if not NAME.fullmatch(value):
                raise ConfigError(
                    f"{key} is {value!r}; it names files: use letters, digits, dots, dashes, _."
                )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ConfigError(f"seed must lie in 0..{LARGEST_SEED}, got {self.seed}.")
        check_choice("scale", self.scale, SCALES)
        check_choice("logger", self.logger, LOGGERS)
        if not self.methods:
            raise ConfigError(f"methods is empty; choose from {', '.join(METHODS)}.")
        for method in self.methods:
            check_choice("methods", method, tuple(METHODS))
            if self.methods.count(method) > 1:
                raise ConfigError(f"methods names {method} more than once; name each once.")
        if "memory_mixture" in self.methods and not self.memory_mixture.memories:
            raise ConfigError(
                "memory_mixture.memories is empty; give the export folders of trained memories, "
                "such as [artifacts/memory/ID/export]."
            )
        if self.knn.lm_share > 0 and self.memory_decoder.vocabulary == "corpus":
            raise ConfigError(
                "knn.lm_share puts tokens into the targets that memory_decoder.vocabulary=corpus "
                "cannot give; set it to full."
            )
        if "adaptive_alpha" in self.methods and not isinstance(self.memory_decoder.alpha, str):
            raise ConfigError(
                f"memory_decoder.alpha is {self.memory_decoder.alpha}, but adaptive_alpha finds an "
                "alpha for each token; take it out of methods, or leave alpha at validation."
            )
        if "in_context_rag" in self.methods:
            self.in_context_rag.check_window(self.corpus.block_size)

    def options_of(self, stage: str) -> TrainerConfig:
        """Return the options of a stage that trains, those of its own section in their place."""
        if stage == "memory":
            return self.trainer
        options: TrainerConfig = getattr(self, stage).options(self.trainer)
        return options

    def facts(self) -> dict[str, Any]:
        """Return the whole configuration as plain data."""
        return asdict(self)


def _pick(key: str, values: dict[str, Any], default: Any) -> Any:
    """In files, `${pick:${name},{law:2.0e-4},1.0e-4}` is 2.0e-4 where name is law, else 1.0e-4."""
    return {str(name): value for name, value in values.items()}.get(key, default)


OmegaConf.register_resolver("pick", _pick, replace=True, annotation_validation="error")


def load_experiment(path: Path | str, overrides: list[str] | None = None) -> Experiment:
    """Build an experiment from a YAML file and `key=value` (or `--key=value`) overrides.

    Raises:
        ConfigError: File missing or not YAML, unknown key, wrong type, or value out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give the path of an experiment's YAML file.")
    schema = OmegaConf.structured(Experiment)
    _unlock(schema)
    try:
        content = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} must hold `key: value` lines, not {type(content).__name__}.")
    merged = _merge(schema, content, str(path))
    for override in overrides or []:
        merged = _merge(merged, _parse_override(override), "command line")
    if OmegaConf.is_missing(merged, "name"):
        merged.name = path.stem
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_key_and_reason(error)}.") from None


def _parse_override(override: str) -> DictConfig:
    key, equals, value = override.removeprefix("--").partition("=")
    if not equals or not key:
        raise ConfigError(
            f"{override!r} is not of the form key=value, such as trainer.max_epochs=2."
        )
    try:
        if value:
            return OmegaConf.from_dotlist([override.removeprefix("--")])
        update = OmegaConf.create({})
        OmegaConf.update(update, key, "")  # an empty text, where YAML would read null
        return update
    except (YAMLError, OmegaConfBaseException, IndexError) as error:
        raise ConfigError(f"{override!r} cannot be read: {_first_line(error)}") from None


def _merge(config: DictConfig, update: DictConfig, where: str) -> DictConfig:
    try:
        return OmegaConf.merge(config, update)  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise ConfigError(f"{where}: {_unknown_key(str(error.full_key))}") from None
    except OmegaConfBaseException as error:
        if str(error).startswith("Merge error"):
            names = ", ".join(str(name) for name in update)
            raise ConfigError(f"{where}: {names} is a section; set its keys (knn.k=64).") from None
        if "is not a ListConfig" in str(error):
            raise _no_list(where, str(error.full_key)) from None
        raise ConfigError(f"{where}: {_key_and_reason(error)}.") from None
    except TypeError:  # OmegaConf's own, for keys given where a list stands
        raise _no_list(where, _given_in_part(config, update)) from None


def _no_list(where: str, key: str) -> ConfigError:
    return ConfigError(f"{where}: {key} is a list; give all of it, {key}=[A,B].")


def _given_in_part(config: DictConfig, update: DictConfig) -> str:
    """Return the dotted key of the list of which `update` gives items by number."""
    for key in map(str, update):
        own, new = config._get_node(key), update._get_node(key)
        if isinstance(new, DictConfig) and isinstance(own, ListConfig):
            return key
        if isinstance(new, DictConfig) and isinstance(own, DictConfig):
            rest = _given_in_part(own, new)
            if rest:
                return f"{key}.{rest}"
    return ""


def _unknown_key(key: str) -> str:
    *parents, last = key.split(".")
    owner: Any = Experiment
    for name in parents:
        found = {f.name: f.type for f in fields(owner)}.get(name)
        if not is_dataclass(found):
            break
        owner = found
    allowed = [f.name for f in fields(owner)]
    near = get_close_matches(last, allowed, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    section = ".".join(parents) or "the top level"
    return f"unknown key {key!r}; {hint}{section} knows: {', '.join(allowed)}."


def _unlock(node: DictConfig) -> None:
    # OmegaConf makes frozen dataclasses read-only; only the built objects need to be.
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _unlock(child)


def _key_and_reason(error: OmegaConfBaseException) -> str:
    return f"{error.full_key}: {_first_line(error)}" if error.full_key else _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
