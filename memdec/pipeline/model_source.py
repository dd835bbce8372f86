"""Where a model comes from: an embedded one, a GGUF file, a directory, or a hub name."""

from dataclasses import dataclass
from pathlib import Path

from memdec.artifacts.files import expand_home
from memdec.artifacts.fingerprint import FileHashes, fingerprint
from memdec.errors import DataError

EMBEDDED = "smollm2-135m"
_OTHERS = f", a .gguf file or {EMBEDDED}"
IDENTITY_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt")
"""Files of a model directory that decide what it computes."""

OTHER_FORMATS = [
    *("*.gguf", "*.onnx*", "*.msgpack", "*.h5", "*.ot", "*.tflite", "*.pth"),
    *("original/*", "consolidated*", "*.mlpackage/*"),
]
"""Files on the hub that hold the same weights once more."""


@dataclass(frozen=True)
class ModelSource:
    """A model and what identifies its weights and tokenizer."""

    identity: str
    path: Path | None
    """Its Hugging Face directory; None while it has to be converted from GGUF."""
    gguf: Path | None = None
    """The user's own GGUF file."""


def find_model(source: str, hashes: FileHashes) -> ModelSource:
    """Find a model by `model.source`.

    Raises:
        DataError: It is no embedded name, file or directory, and no hub has it either.
    """
    if source == EMBEDDED:
        from memdec.models.gguf import EMBEDDED_SHA256

        return ModelSource(EMBEDDED_SHA256, None)
    path = expand_home(source)
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(hashes.file(path), None, gguf=path)
    return find_directory("model.source", source, hashes)


def find_directory(key: str, source: str, hashes: FileHashes) -> ModelSource:
    """Find a Hugging Face model directory, or get it from the hub, as the setting `key` asks.

    Raises:
        DataError: It is neither.
    """
    path = expand_home(source)
    if not path.is_dir():
        path = _from_hub(key, source)
    if not (path / "config.json").is_file():
        raise DataError(
            f"{key}: {path} holds no config.json; give a Hugging Face model directory or a hub "
            f"name{_OTHERS if key == 'model.source' else ''}."
        )
    return ModelSource(fingerprint(hashes.folder(path, IDENTITY_SUFFIXES)), path)


def _from_hub(key: str, name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=OTHER_FORMATS))
    except Exception as error:  # the hub client has no common base for its failures
        raise DataError(
            f"{key} is {name!r}: no such directory or file here, and the model hub did not give it "
            f"({type(error).__name__}); give a model directory or a hub name"
            f"{_OTHERS if key == 'model.source' else ''}."
        ) from None
