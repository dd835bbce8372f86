"""Documents of a Hugging Face dataset, by name or from a folder that save_to_disk wrote."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from memdec.artifacts.files import expand_home
from memdec.artifacts.fingerprint import fingerprint
from memdec.checks import check_extra
from memdec.corpus.config import CorpusConfig
from memdec.corpus.files import check_text, describe_fields
from memdec.errors import DataError

_SAVED = ("dataset_dict.json", "state.json")


def read_dataset(config: CorpusConfig, split: str) -> Iterator[str]:
    """Yield the text field of each row of a split; corpus.train and the like name the splits."""
    rows = _load(config, config.locator(split))
    if config.text_field not in rows.column_names:
        hint = describe_fields(config.text_field, rows.column_names)
        raise DataError(f"{config.dataset} has no field {config.text_field!r}; {hint}.")
    for number, row in enumerate(rows.select_columns([config.text_field])):
        place = f"{config.dataset}, {config.locator(split)}, row {number}"
        yield check_text(row[config.text_field], config.text_field, place)


def describe_dataset(config: CorpusConfig, hash_file: Callable[[Path], str]) -> dict[str, str]:
    """Return what identifies the rows: a folder by its content, a named dataset by its commit."""
    folder = expand_home(config.dataset)
    if not folder.is_dir():
        named = {"config": config.dataset_config, "revision": _revision(config)}
        return {"dataset": config.dataset, **named}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = [[path.relative_to(folder).as_posix(), hash_file(path)] for path in files]
    return {"content": fingerprint(content)}


def _revision(config: CorpusConfig) -> str:
    given = config.dataset_revision
    return given if re.fullmatch("[0-9a-f]{40}", given) else _commit(config.dataset, given)


@cache  # one answer a process, so that the rows that are read are those that were named
def _commit(name: str, revision: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, revision=revision or None).sha)
    except Exception as error:  # the hub client has no common base for its failures
        raise DataError(
            f"The hub did not tell the commit of dataset {name!r}, {revision or 'newest'} "
            f"({type(error).__name__}); set corpus.dataset_revision to a commit of the dataset (40 "
            "digits), or check corpus.dataset and the network."
        ) from None


def _load(config: CorpusConfig, split: str) -> Any:
    check_extra("corpus.source hf", "hub")
    import datasets

    folder = expand_home(config.dataset)
    try:
        if not any((folder / name).is_file() for name in _SAVED):
            return datasets.load_dataset(
                config.dataset,
                config.dataset_config or None,
                split=split,
                revision=_revision(config),
            )
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets raises many kinds, of the network and of the format
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
        raise DataError(
            f"The dataset {config.dataset!r}, split {split!r}, cannot be loaded ({reason}); check "
            f"corpus.dataset, corpus.dataset_config, the split names and the network."
        ) from None
    if isinstance(saved, datasets.Dataset):
        if config.makes_splits:
            return saved
        raise DataError(
            f"{config.dataset} holds rows without splits; save a DatasetDict there, or leave "
            f"corpus.validation and corpus.test empty and memdec splits the rows."
        )
    if split not in saved:
        raise DataError(
            f"{config.dataset} has no split {split!r}; it has: {', '.join(map(str, saved))}."
        )
    return saved[split]
