"""Where, when and with what a result was made."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("memdec", "torch", "lightning", "transformers", "faiss-cpu", "numpy")


def provenance() -> dict[str, Any]:
    """Return commit, command, versions and hardware of this process."""
    commit, dirty = source_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "command": command_line(),
        "versions": versions(),
        "hardware": hardware(),
        "finished": now(),
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line() -> str:
    """Return the command as typed, without the folder of the program."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


@cache
def source_state() -> tuple[str, bool]:
    """Return the commit of the checkout this package runs from, and whether it was edited since.

    An installed copy has no checkout: the version stands in for the commit.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return f"memdec-{version('memdec')}", False
    sources = ("memdec", "experiments", "sweeps", "pyproject.toml")
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--", *sources))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and, when torch is loaded and sees one, the GPU."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "gpu": _gpu_name(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return f"{torch.cuda.device_count()}x {torch.cuda.get_device_name(0)}"
