"""The corpus section of an experiment: where text comes from, how much of it, which windows."""

from dataclasses import dataclass

from memdec.checks import check_at_least, check_choice, check_share
from memdec.errors import ConfigError

DOCUMENT_SPLITS = ("file", "blank_line")
PACKAGES = ("licensedcode",)
SOURCES = ("text", "jsonl", "hf", "package")
HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Text, its splits, and the windows that a model sees of it."""

    source: str = "package"
    """text (plain files), jsonl (JSON lines), hf (Hugging Face dataset), package (embedded demo);
    text and jsonl files may be gzipped."""
    train: str = ""
    """text, jsonl: a file or a pattern such as notes/*.txt; hf: a split name; package: empty."""
    validation: str = ""
    """As train. When validation and test are both empty, memdec splits train by document."""
    test: str = ""
    """As train; held out for the reported numbers."""

    document_split: str = "file"
    """text only: a document is a whole file, or what stands between blank lines (blank_line)."""
    text_field: str = "text"
    """jsonl, hf: the field that holds a document's text."""
    dataset: str = ""
    """hf only: a hub name, or a folder written by save_to_disk."""
    dataset_config: str = ""
    """hf only: the configuration of a named dataset; empty for its only one."""
    dataset_revision: str = ""
    """hf only: a commit, tag or branch of a named dataset; empty for its newest."""
    package: str = "licensedcode"
    """package only: licensedcode (English licence texts, CC BY 4.0)."""

    validation_share: float = 0.1
    """Share of the documents, when memdec makes the splits."""
    test_share: float = 0.1
    """Share of the documents, when memdec makes the splits."""
    split_seed: int = 0
    """Fixes which document goes where, and their order, when memdec makes the splits."""
    max_overlap: float = 0.2
    """Largest share of test documents that may have a near duplicate in train, or in validation;
    more is refused."""

    max_train_tokens: int = 0
    """Whole documents in order until the limit, the last one cut; 0 for all."""
    max_validation_tokens: int = 0
    """As max_train_tokens."""
    max_test_tokens: int = 0
    """As max_train_tokens."""

    block_size: int = 1024
    """Most input tokens of a window, without the BOS that some models need in front."""
    stride: int = 512
    """Newly scored tokens per window of validation and test; at most block_size."""
    train_stride: int = 512
    """As stride, for the windows of train: datastore keys and training."""

    def __post_init__(self) -> None:
        """Check every field and how they fit together."""
        check_choice("corpus.source", self.source, SOURCES)
        check_choice("corpus.document_split", self.document_split, DOCUMENT_SPLITS)
        check_choice("corpus.package", self.package, PACKAGES)
        self._check_splits()
        check_share("corpus.max_overlap", self.max_overlap)
        check_at_least("corpus.block_size", self.block_size, 1)
        for key in ("stride", "train_stride"):
            stride = getattr(self, key)
            if not 1 <= stride <= self.block_size:
                raise ConfigError(
                    f"corpus.{key} must lie between 1 and corpus.block_size ({self.block_size}), "
                    f"got {stride}; a larger one would leave tokens unscored."
                )
        for split in SPLITS:
            limit = self.max_tokens(split)
            if limit != 0 and limit <= self.block_size:
                raise ConfigError(
                    f"corpus.max_{split}_tokens must be 0 (all) or above corpus.block_size "
                    f"({self.block_size}), got {limit}; make the limit larger or the block smaller."
                )

    def _check_splits(self) -> None:
        for key in ("validation_share", "test_share"):
            check_share(f"corpus.{key}", getattr(self, key))
        if self.makes_splits and not (
            self.validation_share > 0
            and self.test_share > 0
            and self.validation_share + self.test_share < 1
        ):
            raise ConfigError(
                "corpus.validation_share and corpus.test_share must be above 0 and leave something "
                f"for train, got {self.validation_share} and {self.test_share}."
            )
        if self.source == "package":
            given = [split for split in SPLITS if self.locator(split)]
            if given:
                raise ConfigError(
                    f"corpus.{given[0]} is {self.locator(given[0])!r} but corpus.source is package "
                    f"and makes its own splits; set corpus.source to {', '.join(SOURCES[:3])}."
                )
            return
        if not self.train:
            what = "a split name" if self.source == "hf" else "a file or a pattern"
            raise ConfigError(f"corpus.train is empty; source {self.source} needs {what} there.")
        if bool(self.validation) != bool(self.test):
            raise ConfigError(
                "corpus.validation and corpus.test go together: give both, or neither and memdec "
                f"splits train; got {self.validation!r} and {self.test!r}."
            )
        if self.source == "hf" and not self.dataset:
            raise ConfigError("corpus.dataset is empty; source hf needs a hub name or a folder.")

    def passes(self, split: str) -> float:
        """Return the inputs of a pass over a split for each of its tokens: windows overlap."""
        return self.block_size / (self.train_stride if split == "train" else self.stride)

    @property
    def makes_splits(self) -> bool:
        """Tell whether memdec splits one set of documents itself, after dropping duplicates."""
        return self.source == "package" or not (self.validation or self.test)

    def locator(self, split: str) -> str:
        """Return where a split's text is: path, pattern or split name."""
        return str(getattr(self, split))

    def max_tokens(self, split: str) -> int:
        """Return the token limit of a split; 0 for all."""
        return int(getattr(self, f"max_{split}_tokens"))
