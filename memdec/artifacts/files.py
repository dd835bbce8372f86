"""Write files so that a reader sees the old content or the new, never a part."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from memdec.errors import ArtifactError

RESERVE_BYTES = 64 << 20  # room left for logs and other processes


def write_text(path: Path, text: str) -> None:
    """Replace `path` in one step with `text` (UTF-8)."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where the file is not there or torn."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def sync(path: Path) -> None:
    """Push a file or folder to the disk, so that a later rename cannot outrun its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_disk(folder: Path, need: int, what: str) -> None:
    """Raise ArtifactError when fewer than `need` bytes (plus a reserve) are free for `folder`."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if need + RESERVE_BYTES > free:
        raise ArtifactError(
            f"{what} needs about {gigabytes(need)} but {gigabytes(free)} are free for {folder}; "
            f"free some space or set MEMDEC_ARTIFACTS to a larger disk."
        )


def gigabytes(count: int) -> str:
    """Write a number of bytes for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"


def expand_home(path: str) -> Path:
    """Return the path with `~` in front replaced, and as it is where there is no such home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser would raise)
