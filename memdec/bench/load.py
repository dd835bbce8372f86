"""How much of the processor other programs took while a benchmark ran."""

import os
import resource
from pathlib import Path


class Load:
    """Counts processor time from its making on."""

    def __init__(self) -> None:
        self._start = _counters()

    def others_share(self) -> float:
        """Return the share of all processor time used since then that was not ours; 0 if unknown.

        Time that the host of a virtual machine took away counts as used by others.
        """
        used, ours = (now - then for now, then in zip(_counters(), self._start, strict=True))
        return max(0.0, 1 - ours / used) if used > 0 else 0.0


def _counters() -> tuple[float, float]:
    """Return seconds used by the whole machine, and by this process and its children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ours = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return ours, ours
    user, nice, system, _, _, irq, soft_irq, steal = map(int, words[:8])
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK"), ours
