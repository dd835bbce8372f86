"""The local sweep over real subprocesses: failures, kills, Ctrl-C, and going on afterwards."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from memdec.errors import ArtifactError, ConfigError
from memdec.pipeline.sweep import run_sweep

TRIAL = """
import os, signal, subprocess, sys, time
from pathlib import Path

settings = dict(word.split("=", 1) for word in sys.argv[1:])
number, mood = settings["number"], settings.get("mood", "good")
with open("started.txt", "a") as file:
    file.write(number + "\\n")
print("hello from", number, flush=True)
if Path("healed").exists():
    mood = "good"
if mood == "fails" and number == "2":
    sys.exit("the disk is on fire [bold]")
if mood == "killed" and number == "2":
    os.kill(os.getpid(), signal.SIGKILL)
if mood == "meets":  # ends well only when another trial runs at the same time
    Path("here-" + number).touch()
    for _ in range(200):
        if len(list(Path().glob("here-*"))) == 2:
            sys.exit(0)
        time.sleep(0.05)
    sys.exit("alone")
if mood == "sleeps":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("pids.txt").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
if mood == "polite":  # as Lightning ends when SIGTERM cuts it short
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    Path("pids.txt").write_text(f"{os.getpid()} {os.getpid()}")
    time.sleep(600)
if mood == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path("pids.txt").write_text(f"{os.getpid()} {os.getpid()}")
    time.sleep(600)
if mood == "devices":
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a sweep of the stand-in trial above."""
    monkeypatch.chdir(tmp_path)
    Path("trial.py").write_text(TRIAL)

    def write_sweep(numbers, mood="good", command=("${interpreter}", "trial.py")):
        content = {
            "method": "grid",
            "parameters": {"number": {"values": numbers}, "mood": {"value": mood}},
            "command": [*command, "${args_no_hyphens}"],
        }
        Path("grid.yaml").write_text(yaml.safe_dump(content))
        return "grid.yaml"

    return write_sweep


def started():
    return [int(line) for line in Path("started.txt").read_text().split()]


def states():
    files = Path("artifacts/sweeps/grid").glob("*.json")
    found = {state["parameters"]["number"]: state for state in map(json.loads, map(read, files))}
    return {number: found[number]["status"] for number in sorted(found)}


def read(file):
    return file.read_text()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_every_trial_runs_once_and_a_second_call_runs_none(write, capsys):
    path = write([1, 2, 3])
    assert run_sweep(path) == 0
    assert started() == [1, 2, 3]
    assert states() == dict.fromkeys((1, 2, 3), "finished")
    assert "3 finished" in capsys.readouterr().out
    assert run_sweep(path) == 0
    assert started() == [1, 2, 3]
    out = capsys.readouterr().out
    assert "3 trials, 3 finished earlier" in out
    assert "trial 1/3" not in out


def test_a_grid_that_grows_runs_only_what_is_new(write):
    assert run_sweep(write([1, 2])) == 0
    assert run_sweep(write([1, 5, 2])) == 0
    assert started() == [1, 2, 5]


def test_a_failed_trial_is_reported_and_retried(write, capsys):
    path = write([1, 2, 3], mood="fails")
    assert run_sweep(path) == 1
    assert started() == [1, 2, 3]
    assert states() == {1: "finished", 2: "failed", 3: "finished"}
    out = capsys.readouterr().out
    assert "trial 2/3 failed" in out
    assert "  exit 1: the disk is on fire [bold]" in out
    assert "failed: python trial.py mood=fails number=2" in out
    log = next(Path(line.split("log: ")[1]) for line in out.splitlines() if "  log: " in line)
    Path("healed").touch()
    assert run_sweep(path) == 0
    assert started() == [1, 2, 3, 2]
    assert log.read_text().count("hello from 2") == 2
    assert log.read_text().startswith("# 20")


def test_a_trial_that_fails_in_silence_says_so(write, capsys):
    Path("trial.py").write_text("raise SystemExit(3)")
    assert run_sweep(write([1])) == 1
    assert run_sweep(write([1])) == 1
    assert capsys.readouterr().out.count("  exit 3: it wrote nothing") == 2


def test_a_killed_trial_does_not_stop_the_others(write, capsys):
    assert run_sweep(write([1, 2, 3], mood="killed")) == 1
    assert states() == {1: "finished", 2: "failed", 3: "finished"}
    assert "killed by SIGKILL: hello from 2" in capsys.readouterr().out


def test_a_command_that_cannot_start_is_a_failed_trial(write, capsys):
    assert run_sweep(write([1, 2], command=["./no-such-program"])) == 1
    assert capsys.readouterr().out.count("  exit 127: ./no-such-program: No such file") == 2


def test_jobs_run_side_by_side(write):
    assert run_sweep(write([1, 2], mood="meets"), jobs=2) == 0


def test_one_job_runs_one_trial_at_a_time(write, monkeypatch):
    Path("trial.py").write_text(TRIAL.replace("range(200)", "range(3)"))
    assert run_sweep(write([1], mood="meets"), jobs=1) == 1
    Path("here-1").unlink()
    assert run_sweep(write([3, 4], mood="meets"), jobs=1) == 1  # 4 finds what 3 left; 3 is alone
    assert states() == {1: "failed", 3: "failed", 4: "finished"}


def test_jobs_share_cores_and_take_turns_on_devices(write, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert run_sweep(write([1, 2], mood="devices"), jobs=2) == 0
    logs = {read(file).splitlines()[-1] for file in Path("artifacts/sweeps/grid").glob("*.log")}
    assert logs == {"3 4", "5 4"}


def test_a_torn_state_file_means_the_trial_runs_again(write):
    path = write([1, 2])
    assert run_sweep(path) == 0
    file = sorted(Path("artifacts/sweeps/grid").glob("*.json"))[0]
    file.write_text(file.read_text()[:40])
    assert run_sweep(path) == 0
    assert len(started()) == 3
    assert states() == {1: "finished", 2: "finished"}


def test_nothing_starts_when_a_later_trial_is_wrong(write, tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text("name: tiny\n")
    content = {
        "method": "grid",
        "parameters": {"memory_decoder.beta": {"values": [0.1, 0.2, 7.0]}},
        "command": ["memdec", "run", "tiny.yaml", "${args}"],
    }
    Path("grid.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"beta must lie in \[0, 1\]"):
        run_sweep("grid.yaml")
    assert not Path("artifacts").exists()


def test_fewer_than_one_job_is_refused(write):
    with pytest.raises(ConfigError, match="--jobs must be at least 1, got 0"):
        run_sweep(write([1]), jobs=0)


def test_one_sweep_at_a_time_in_a_folder(write):
    from filelock import FileLock

    path = write([1])
    assert run_sweep(path) == 0
    refused = pytest.raises(ArtifactError, match="another `memdec sweep` runs")
    with FileLock("artifacts/sweeps/grid/.lock"), refused:
        run_sweep(path)


CALL = """
import sys
from memdec.pipeline import sweep
sweep.GRACE_SECONDS = float(sys.argv[1])
sys.exit(sweep.run_sweep("grid.yaml"))
"""


def call(grace=10.0, **options):
    return subprocess.Popen([sys.executable, "-c", CALL, str(grace)], **options)


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_sweep_leaves_no_process_and_goes_on_later(write, number):
    path = write([1, 2], mood="sleeps")
    process = call(stdout=subprocess.PIPE, text=True)
    wait_for(lambda: Path("pids.txt").exists() and len(Path("pids.txt").read_text().split()) == 2)
    pids = Path("pids.txt").read_text().split()
    assert all(map(alive, pids))
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "1 waiting, 1 stopped" in out
    assert "the same command again runs what has not finished" in out
    assert not any(map(alive, pids))  # neither the trial nor the child it left
    assert states() == {1: "stopped"}
    Path("healed").touch()
    assert run_sweep(path) == 0
    assert started() == [1, 1, 2]


def test_a_trial_that_ends_well_because_it_was_stopped_has_not_finished(write):
    path = write([1], mood="polite")
    process = call(stdout=subprocess.DEVNULL)
    wait_for(lambda: Path("pids.txt").exists() and Path("pids.txt").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert states() == {1: "stopped"}
    Path("healed").touch()
    assert run_sweep(path) == 0
    assert started() == [1, 1]


@pytest.mark.parametrize(("grace", "signals"), [(0.3, 1), (600, 2)])
def test_a_trial_deaf_to_sigterm_is_killed_after_the_grace_or_a_second_ctrl_c(
    write, grace, signals
):
    write([1], mood="deaf")
    process = call(grace, stdout=subprocess.DEVNULL)
    wait_for(lambda: Path("pids.txt").exists() and Path("pids.txt").read_text())
    for _ in range(signals):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert not alive(Path("pids.txt").read_text().split()[0])


def test_a_terminal_shows_a_live_table(write):
    write([1, 2, 3], mood="fails")
    ours, theirs = pty.openpty()
    process = call(
        stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "90"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 1
    text = shown.decode()
    assert "last line" in text
    assert "number" in text
    assert "mood" not in text.split("failed: ")[0]  # it is the same for all trials
    assert "grid: 2 finished, 1 failed" in text
    assert "the disk is on fire [bold]" in text
