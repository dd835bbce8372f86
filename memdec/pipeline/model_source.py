"""Where a model comes from: an embedded one, a GGUF file, a directory, or a hub name."""

from dataclasses import dataclass
from pathlib import Path

from memdec.artifacts.fingerprint import FileHashes, fingerprint
from memdec.errors import DataError

EMBEDDED = "smollm2-135m"
IDENTITY_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt")
"""Files of a model directory that decide what it computes."""


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
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(hashes.file(path), None, gguf=path)
    if not path.is_dir():
        path = _from_hub(source)
    if not (path / "config.json").is_file():
        raise DataError(
            f"{path} holds no config.json; model.source wants a Hugging Face model directory, "
            f"a .gguf file, a hub name or {EMBEDDED}."
        )
    return ModelSource(fingerprint(hashes.folder(path, IDENTITY_SUFFIXES)), path)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.gguf", "*.onnx", "*.msgpack"]))
    except Exception as error:  # the hub client has no common base for its failures
        raise DataError(
            f"model.source is {name!r}: no such directory or file here, and the model hub did not "
            f"give it ({type(error).__name__}); give a model directory, a .gguf file or {EMBEDDED}."
        ) from None
