"""One artifact: a folder of files with a manifest that names, sizes and hashes each of them.

A writer fills a hidden part folder; `seal` syncs it, writes the manifest and renames it into
place. So a finished artifact is whole or absent, and what a killed stage left can be resumed or
thrown away.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from memdec.artifacts.files import read_json, sync, write_text
from memdec.artifacts.fingerprint import hash_file
from memdec.errors import ArtifactError

MANIFEST = "manifest.json"
SCRATCH = "scratch"
SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """A finished, checked artifact; arrays are memory-mapped and read-only."""

    path: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The name that says what made it."""
        return str(self.manifest["fingerprint"])

    @property
    def info(self) -> dict[str, Any]:
        """Facts that the stage left about its output."""
        return dict(self.manifest["info"])

    @property
    def num_bytes(self) -> int:
        """Bytes on disk, the manifest not counted."""
        return sum(entry["size"] for entry in self.manifest["files"].values())

    def array(self, name: str) -> NDArray[Any]:
        """Open the array `name` without reading it into memory."""
        path = self.path / f"{name}.npy"
        if not path.is_file():
            raise ArtifactError(f"{self.path} holds no array {name!r}; delete it and run again.")
        return np.load(path, mmap_mode="r", allow_pickle=False)


class ArtifactWriter:
    """The part folder of an artifact in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._info: dict[str, Any] = {}

    def clear(self) -> None:
        """Throw away what an earlier, killed attempt left."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)

    @property
    def scratch(self) -> Path:
        """A folder for what only a resumed attempt needs; it goes once the artifact is sealed."""
        return self.path / SCRATCH

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Make a writable memory-mapped array NAME.npy of zeros."""
        path = self.path / f"{name}.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)

    def write_array(self, name: str, array: NDArray[Any]) -> None:
        """Save a whole array as NAME.npy."""
        np.save(self.path / f"{name}.npy", array, allow_pickle=False)

    def info(self, **facts: Any) -> None:
        """Add plain JSON facts to the manifest."""
        self._info.update(facts)

    def seal(
        self, final: Path, stage: str, fingerprint: str, provenance: dict[str, Any]
    ) -> Artifact:
        """Sync, describe and rename the part folder to `final`."""
        files = {}
        (self.path / MANIFEST).unlink(missing_ok=True)  # of an attempt killed before its rename
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            if self.scratch in path.parents:
                continue
            sync(path)
            status = path.stat()
            files[path.relative_to(self.path).as_posix()] = {
                "size": status.st_size,
                "sha256": hash_file(path),
                "mtime_ns": status.st_mtime_ns,
            }
        manifest = {
            "schema": SCHEMA,
            "stage": stage,
            "fingerprint": fingerprint,
            "files": files,
            "arrays": self._arrays(),
            "info": self._info,
            "provenance": provenance,
        }
        write_text(self.path / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
        sync(self.path)
        final.parent.mkdir(parents=True, exist_ok=True)
        self.path.rename(final)
        sync(final.parent)
        shutil.rmtree(final / SCRATCH, ignore_errors=True)
        return Artifact(final, manifest)

    def _arrays(self) -> dict[str, Any]:
        arrays = {}
        for path in sorted(self.path.glob("*.npy")):
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                assert version == (1, 0), "arrays here have plain headers"
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            arrays[path.stem] = {"dtype": dtype.name, "shape": list(shape)}
        return arrays


def open_artifact(path: Path, stage: str, fingerprint: str) -> Artifact:
    """Open a finished artifact and check it against its manifest.

    Sizes are always checked; content is hashed again when a file's time is not the one recorded, so
    an edited or copied artifact is checked in full and an untouched one opens at once.

    Raises:
        ArtifactError: A file is missing, truncated or edited, or the manifest is another's.
    """
    remedy = f"delete {path} and run again to rebuild it"
    manifest = read_json(path / MANIFEST)
    entries = manifest.get("files")
    if not isinstance(entries, dict):
        raise ArtifactError(f"{path / MANIFEST} is missing or broken; {remedy}.")
    if manifest.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} has manifest schema {manifest.get('schema')}, this version reads {SCHEMA}; "
            f"{remedy}."
        )
    if (manifest.get("stage"), manifest.get("fingerprint")) != (stage, fingerprint):
        raise ArtifactError(f"{path} is not {stage} {fingerprint}; {remedy}.")
    for name, entry in entries.items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{stage} {fingerprint}: {name} is missing; {remedy}.")
        status = file.stat()
        if status.st_size != entry["size"]:
            raise ArtifactError(
                f"{stage} {fingerprint}: {name} has {status.st_size:,} bytes, its manifest says "
                f"{entry['size']:,}; {remedy}."
            )
        if status.st_mtime_ns != entry["mtime_ns"] and hash_file(file) != entry["sha256"]:
            raise ArtifactError(
                f"{stage} {fingerprint}: {name} was changed after it was made; {remedy}."
            )
    return Artifact(path, manifest)
