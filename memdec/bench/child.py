"""Run one side of a comparison in a process of its own, and read a process's peak memory.

A fresh process has a clean memory peak, and torch and FAISS never meet in it: they share OpenMP
badly.
"""

import importlib
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memdec.errors import MemdecError

PAGE = 4096
"""Less than this cannot be seen."""


def in_child(function: str, *arguments: Any) -> dict[str, Any]:
    """Call `module:function` in a fresh Python; arguments and answer are plain JSON.

    Raises:
        MemdecError: The process failed; the text ends with its last words.
    """
    command = [sys.executable, "-m", "memdec.bench.child", function, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or ["no memory left?"])[-1]
        raise MemdecError(f"benchmark process {function} ended with {done.returncode}: {words}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def peak_extra_bytes(work: Callable[[], Any], device: str = "cpu") -> int:
    """Return by how many bytes `work` raises the memory in use at its worst, its result too.

    For the CPU this is the process's resident memory, so give `work` a fresh process.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    _forget_peak()
    before = _resident_bytes("VmRSS")
    work()
    return max(PAGE, _resident_bytes("VmHWM") - before)


def _forget_peak() -> None:
    # Not getrusage: its peak is handed down from the process that started this one.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak so far stands: the figure is then too large, never too small


def _resident_bytes(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found, f"/proc/self/status has no {field}"
    return int(found[1]) * 1024


def _main() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    print(json.dumps(function(*json.loads(sys.argv[2]))))


if __name__ == "__main__":
    _main()
