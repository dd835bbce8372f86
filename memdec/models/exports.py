"""The folder of an exported memory, and what it says about itself."""

import json
from pathlib import Path
from typing import Any

from memdec.errors import DataError

MEMORY_FILE = "memory.json"
OUTPUT_IDS_FILE = "output_ids.npy"


def read_memory_facts(path: Path) -> dict[str, Any]:
    """Read what an exported memory says about itself (tokenizer hash, training settings).

    Raises:
        DataError: `path` is not a whole export of a memory.
    """
    if (path / "adapter_config.json").is_file():
        raise DataError(f"{path} is a LoRA adapter, which is no memory; {_REMEDY}")
    for pattern in (MEMORY_FILE, "config.json", "*.safetensors"):
        if not any(path.glob(pattern)):
            raise DataError(f"{path} is not an exported memory (no {pattern}); {_REMEDY}")
    try:
        facts: dict[str, Any] = json.loads((path / MEMORY_FILE).read_text(encoding="utf-8"))
        facts["tokenizer_hash"]
        trained_with = facts.get("trained_with", {})
        vocabulary = trained_with.get("memory_decoder.vocabulary")
        for key in ("model.bos", "model.separator"):
            if not isinstance(trained_with.get(key, ""), str):
                raise TypeError(key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path} is not an exported memory (no readable {MEMORY_FILE}); {_REMEDY}"
        ) from None
    if vocabulary == "corpus" and not (path / OUTPUT_IDS_FILE).is_file():
        raise DataError(f"{path} is not an exported memory (no {OUTPUT_IDS_FILE}); {_REMEDY}")
    return facts


_REMEDY = "give the export folder that `memdec run` left: artifacts/memory/ID/export."
