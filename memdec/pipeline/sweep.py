"""Run a sweep file's grid on this machine, with no account: `memdec sweep FILE`."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from filelock import FileLock, Timeout

from memdec.errors import ArtifactError, ConfigError
from memdec.pipeline.sweep_file import load_sweep
from memdec.pipeline.sweep_state import Status, TrialState, open_states
from memdec.pipeline.sweep_view import open_view

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL when the sweep is stopped
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130  # what a shell reports after Ctrl-C


def run_sweep(path: Path | str, jobs: int = 1, artifacts: Path = Path("artifacts")) -> int:
    """Run every trial that has not finished as it is now, `jobs` at a time; return the exit code.

    A trial is a subprocess of the command that `wandb agent` would run. Failed trials do not stop
    the others. States and logs stay in ARTIFACTS/sweeps/NAME, so a later call goes on from there.
    Returns 0, 1 when a trial failed, or 130 after Ctrl-C (SIGTERM and SIGHUP count as Ctrl-C).

    Raises:
        ConfigError: The sweep file or one of its trials is wrong; nothing has been started.
        ArtifactError: Another process runs this sweep.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {jobs}.")
    sweep = load_sweep(path)
    folder = artifacts / "sweeps" / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder), _count_signals() as signals:
        states = open_states(sweep, folder, artifacts)
        with open_view(sweep, states, folder) as view:
            for state in _Pool(states, jobs, signals).run():
                view.changed(state)
    if signals:
        return INTERRUPTED
    return int(any(state.status is Status.FAILED for state in states))


class _Pool:
    """Keeps up to `jobs` trials running, each in a process group of its own."""

    def __init__(self, states: list[TrialState], jobs: int, signals: list[int]) -> None:
        self._signals = signals
        self._waiting = [state for state in states if state.status is Status.WAITING]
        self._running: dict[int, tuple[TrialState, subprocess.Popen[bytes]]] = {}
        self._jobs = jobs

    def run(self) -> Iterator[TrialState]:
        """Run all waiting trials; yield a trial's state after each change."""
        while self._waiting or self._running:
            if self._signals:
                yield from self._stop()
                return
            for slot in range(self._jobs):
                if slot not in self._running and self._waiting:
                    yield self._start(slot, self._waiting.pop(0))
            time.sleep(POLL_SECONDS)
            yield from self._collect()

    def _stop(self) -> Iterator[TrialState]:
        yield from self._collect()  # those that came to their end by themselves
        # SIGTERM first, as `wandb agent` does; a second Ctrl-C cuts the grace short.
        for _, process in self._running.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(process.poll() is None for _, process in self._running.values()):
            if time.monotonic() > deadline or len(self._signals) > 1:
                break
            time.sleep(POLL_SECONDS)
        for state, process in self._running.values():
            _signal_group(process, signal.SIGKILL)  # also what the trial left behind
            process.wait()
            state.stop()  # also after exit code 0: Lightning ends so when SIGTERM cuts it short
            yield state

    def _start(self, slot: int, state: TrialState) -> TrialState:
        with state.open_log() as log:
            try:
                process = _spawn(state.trial.command, log, _environment(slot, self._jobs))
            except OSError as error:
                log.write(f"{state.trial.command[0]}: {error.strerror}\n".encode())
                log.flush()
                state.end(127)
                return state
        state.start()
        self._running[slot] = (state, process)
        return state

    def _collect(self) -> Iterator[TrialState]:
        for slot, (state, process) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[slot]
                state.end(code)
                yield state


def _spawn(
    command: tuple[str, ...], log: IO[bytes], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        process_group=0,  # a Ctrl-C reaches the sweep alone, which then stops whole groups
    )


def _environment(slot: int, jobs: int) -> dict[str, str]:
    environment = dict(os.environ)
    # The `memdec` of this environment, also when its folder is not on the PATH.
    bin_folder = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([bin_folder, environment.get("PATH", os.defpath)])
    environment["PYTHONUNBUFFERED"] = "1"
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    devices = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if jobs > 1 and devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(
            f"another `memdec sweep` runs in {folder}; wait for it, or raise its --jobs."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _count_signals() -> Iterator[list[int]]:
    """Collect the signals that ask the sweep to stop, instead of dying of them at any line."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # SIGINT too: a shell that starts the sweep with `&` has it ignored.
    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
