"""What is known of each trial of a local sweep: one JSON file and one log a trial."""

import enum
import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import IO

from memdec.artifacts.files import read_json, write_text
from memdec.artifacts.provenance import now
from memdec.pipeline.sweep_file import Sweep, Trial
from memdec.pipeline.sweep_identity import trial_identity
from memdec.pipeline.sweep_metric import read_metric

TAIL_BYTES = 4096


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
        self, number: int, trial: Trial, folder: Path, metric: str | None, root: Path
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
        self._metric = metric
        self._root = root
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
        self._identity = trial_identity(self.trial, self._root)  # before the trial reads anything
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
            self.value = read_metric(self.trial, self._metric, self._root)
        self._write(code)

    def stop(self) -> None:
        """Note that the sweep was stopped while the trial ran."""
        self.seconds = round(self.elapsed, 1)
        self.status = Status.STOPPED
        self._write(None)

    def _is_still(self, identity: str | None) -> bool:
        return identity is not None and identity == trial_identity(self.trial, self._root)

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


def open_states(sweep: Sweep, folder: Path, root: Path) -> list[TrialState]:
    """Return the states of all trials, those that finished in an earlier call marked so.

    `root` is the folder of artifacts. A trial that would now make something else is to run again.
    """
    return [
        TrialState(number, trial, folder, sweep.metric, root)
        for number, trial in enumerate(sweep.trials, 1)
    ]
