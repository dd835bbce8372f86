"""What is known of each trial of a local sweep: one JSON file and one log a trial."""

import enum
import json
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from memdec.artifacts.files import read_json, write_text
from memdec.artifacts.provenance import now
from memdec.pipeline.sweep_file import Sweep, Trial

TAIL_BYTES = 4096

Measure = Callable[[Trial], float | None]
Identify = Callable[[Trial], str | None]


class Status(enum.StrEnum):
    """Where a trial stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    EARLIER = "finished earlier"
    FAILED = "failed"
    STOPPED = "stopped"


class TrialState:
    """One trial: its status, and the files FOLDER/ID.json and FOLDER/ID.log."""

    def __init__(
        self, number: int, trial: Trial, folder: Path, measure: Measure, identify: Identify
    ) -> None:
        self.number = number
        self.trial = trial
        self.value: float | None = None
        self.file = folder / f"{trial.id}.json"
        self.log = folder / f"{trial.id}.log"
        self.status = Status.WAITING
        self.seconds = 0.0
        self.reason = ""
        self._started = 0.0
        self._log_start = 0
        self._measure = measure
        self._identify = identify
        self._identity: str | None = None
        known = read_json(self.file)  # empty when it never ran, or was torn by a full disk
        if known.get("status") == Status.FINISHED and self._is_still(known.get("identity")):
            self.status = Status.EARLIER
            self.seconds = float(known.get("seconds", 0.0))
            self.value = known.get("value")

    @property
    def elapsed(self) -> float:
        """Seconds so far, or in all."""
        return time.monotonic() - self._started if self.status is Status.RUNNING else self.seconds

    def last_line(self) -> str:
        """Return the last line that this attempt wrote, or nothing."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
        return next((line for line in reversed(lines) if line), "")

    def open_log(self) -> IO[bytes]:
        """Open the log for one more attempt; earlier attempts stay in it."""
        self._identity = self._identify(self.trial)  # before the trial reads anything
        log = self.log.open("ab")
        log.write(f"# {now()} {shlex.join(self.trial.command)}\n".encode())
        log.flush()
        self._log_start = log.tell()
        return log

    def start(self) -> None:
        """Note that the trial runs."""
        self.status = Status.RUNNING
        self._started = time.monotonic()

    def end(self, code: int) -> None:
        """Note the exit code of the trial's process."""
        self.seconds = round(self.elapsed, 1)
        self.status = Status.FINISHED if code == 0 else Status.FAILED
        if code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
            self.reason = f"{how}: {self.last_line() or 'it wrote nothing'}"
        else:
            self.value = self._measure(self.trial)
        self._write(code)

    def stop(self) -> None:
        """Note that the sweep was stopped while the trial ran."""
        self.seconds = round(self.elapsed, 1)
        self.status = Status.STOPPED
        self._write(None)

    def _is_still(self, identity: str | None) -> bool:
        return identity is not None and identity == self._identify(self.trial)

    def _write(self, code: int | None) -> None:
        facts = {
            "status": self.status,
            "exit_code": code,
            "identity": self._identity,
            "seconds": self.seconds,
            "value": self.value,
            "ended": now(),
            "parameters": self.trial.parameters,
            "command": self.trial.command,
        }
        write_text(self.file, json.dumps(facts, indent=1) + "\n")


def open_states(
    sweep: Sweep, folder: Path, measure: Measure, identify: Identify
) -> list[TrialState]:
    """Return the states of all trials, those that finished in an earlier call marked so.

    `measure` returns a finished trial's value of the sweep's metric, or None; `identify` what the
    trial would make now, or None. A trial that would now make something else is to run again.
    """
    return [
        TrialState(number, trial, folder, measure, identify)
        for number, trial in enumerate(sweep.trials, 1)
    ]
