"""The folder of all artifacts: open what is there, build what is not, one process at a time."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from memdec.artifacts.artifact import SCRATCH, Artifact, ArtifactWriter, open_artifact
from memdec.artifacts.files import read_json, write_text
from memdec.artifacts.provenance import now, provenance
from memdec.errors import ConfigError, DataError

Build = Callable[[ArtifactWriter], None]
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Made:
    """An artifact and what it took to have it."""

    artifact: Artifact
    seconds: float
    """Wall-clock seconds of building, over all attempts, as its manifest says."""
    reused: bool


@dataclass(frozen=True)
class Earlier:
    """The work behind an artifact before this attempt at it."""

    seconds: float = 0.0
    dirty: bool = False
    """Whether edited sources had a part in it."""


class Store:
    """Artifacts under one root: ROOT/STAGE/FINGERPRINT, parts and locks beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, fingerprint: str) -> Path:
        """Where the finished artifact stands or will stand."""
        return self.root / stage / fingerprint

    def open(self, stage: str, fingerprint: str) -> Artifact | None:
        """Open a finished artifact, or return None when there is none.

        Raises:
            ArtifactError: It is there but damaged.
        """
        path = self.path(stage, fingerprint)
        return open_artifact(path, stage, fingerprint) if path.exists() else None

    def make(
        self,
        stage: str,
        fingerprint: str,
        build: Build,
        resumable: bool = False,
        earlier: Earlier | None = None,
    ) -> Made:
        """Return the artifact, building it under a lock when it is not there yet.

        A second process that wants the same artifact waits and then reuses it. `resumable` keeps
        what a killed attempt left; other stages start afresh. `earlier` is the work of the shards
        that a build merges, which counts as its own.
        """
        final = self.path(stage, fingerprint)
        if found := self.open(stage, fingerprint):
            if (final / SCRATCH).exists():  # its maker was killed, or is at it now
                with self._lock(final):
                    shutil.rmtree(final / SCRATCH, ignore_errors=True)
            return self._reused(found)
        with self._lock(final):
            if found := self.open(stage, fingerprint):
                return self._reused(found)
            writer, attempts = ArtifactWriter(_part(final)), _Attempts(final)
            before = earlier or Earlier()
            resumed = resumable and writer.path.is_dir() and any(writer.path.iterdir())
            if resumed:
                before = attempts.read(writer.path)
            else:
                writer.clear()
            source = provenance()
            dirty = source["dirty"] or before.dirty
            attempts.note(Earlier(before.seconds, dirty))
            started = time.monotonic()
            try:
                build(writer)
            except (ConfigError, DataError):
                if not resumed:  # else a model that failed to load once would cost the checkpoint
                    writer.clear()  # empty, as the others of a distributed job wait for the folder
                    attempts.forget()
                raise
            seconds = round(before.seconds + time.monotonic() - started, 3)
            facts = {"finished": now(), "seconds": seconds, "dirty": dirty}
            sealed = writer.seal(final, stage, fingerprint, source | facts)
            attempts.forget()
        return Made(sealed, seconds, reused=False)

    def join(self, stage: str, fingerprint: str, build: Build) -> Made:
        """Take part in a build that another process of the same job leads, then open its result.

        The leader holds the lock, makes the part folder and seals it.
        """
        final = self.path(stage, fingerprint)
        while not (final.exists() or _part(final).is_dir()):
            time.sleep(POLL_SECONDS)
        if not final.exists():
            build(ArtifactWriter(_part(final)))
        while not final.exists():
            time.sleep(POLL_SECONDS)
        return self._reused(open_artifact(final, stage, fingerprint))

    def _reused(self, artifact: Artifact) -> Made:
        return Made(artifact, artifact.manifest["provenance"]["seconds"], reused=True)

    @contextmanager
    def _lock(self, final: Path) -> Iterator[None]:
        # The operating system drops the lock when its holder dies, so a killed run blocks nobody.
        final.parent.mkdir(parents=True, exist_ok=True)
        holder = final.with_name(f".{final.name}.holder")
        lock = FileLock(final.with_name(f".{final.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for {final}: {_holder_name(holder)} is building it", file=sys.stderr)
            lock.acquire()
        try:
            holder.write_text(json.dumps({"pid": os.getpid(), "host": os.uname().nodename}))
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


class _Attempts:
    """What is known of the attempts before this one, in a small file beside the part folder."""

    def __init__(self, final: Path) -> None:
        self._file = final.with_name(f".{final.name}.attempts")

    def note(self, earlier: Earlier) -> None:
        """Write down that an attempt starts now, after the work of others."""
        write_text(self._file, json.dumps(asdict(earlier) | {"started": time.time()}))

    def read(self, part: Path) -> Earlier:
        """Return the work so far; a killed attempt counts up to the last file that it wrote."""
        known = read_json(self._file)
        if not known:
            return Earlier()
        written = max((path.stat().st_mtime for path in part.rglob("*")), default=0.0)
        seconds = known["seconds"] + max(0.0, written - known["started"])
        return Earlier(float(seconds), known.get("dirty", False))

    def forget(self) -> None:
        """Remove the file once the artifact stands."""
        self._file.unlink(missing_ok=True)


def _part(final: Path) -> Path:
    return final.with_name(f".{final.name}.part")


def _holder_name(holder: Path) -> str:
    facts = read_json(holder)
    return f"process {facts['pid']} on {facts['host']}" if facts else "another process"
