"""How long the command line takes to answer, against an interpreter that imports torch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from memdec.bench.clock import in_turns
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Figure, Goal, Outcome, seconds_figure
from memdec.errors import MemdecError

MEMDEC = (sys.executable, "-c", "from memdec.cli import main; main()")
PLAIN = (sys.executable, "-c", "import torch")
TEXT = "The licence grants the work.\n\n" * 2000
RECORDS = Path("reports/records")


def run(config: BenchConfig) -> Outcome:
    """Time help, plan and report, and a run that finds everything done, where there is one."""
    with TemporaryDirectory(prefix="memdec-bench-") as name:
        folder = Path(name)
        experiment = _write_experiment(folder)
        records = RECORDS if RECORDS.is_dir() else folder
        verbs: dict[str, tuple[str, ...]] = {
            "--help": ("--help",),
            "plan": ("plan", str(experiment)),
            "report": ("report", "--records", str(records), "--output", str(folder / "report")),
        }
        root = {"MEMDEC_ARTIFACTS": str(folder / "artifacts")}
        figures = [
            _figure(f"memdec {verb}", words, 1.0, config.repeats, root)
            for verb, words in verbs.items()
        ]
    notes = []
    if _is_finished(config.experiment):
        words = ("run", config.experiment)
        figures.append(_figure("memdec run, all done before", words, 5.0, config.repeats))
    else:
        notes.append(f"memdec run {config.experiment} is not finished here, so not timed again")
    imported = "import sys, memdec.cli; memdec.cli._parser(); print(int('torch' in sys.modules))"
    loaded = _run((sys.executable, "-c", imported), {})
    check = Check(what="torch imported by the parser (1 for yes)", value=float(loaded), limit=0)
    return Outcome(figures=figures, checks=[check], notes=notes)


def _figure(
    name: str,
    words: tuple[str, ...],
    limit: float,
    repeats: int,
    extra: dict[str, str] | None = None,
) -> Figure:
    samples = in_turns(
        lambda: _run((*MEMDEC, *words), extra or {}), lambda: _run(PLAIN, {}), repeats
    )
    goal = Goal(number=7, of="ours", limit=limit)
    return seconds_figure(name, samples, "python -c 'import torch'", goals=(goal,))


def _run(command: tuple[str, ...], extra: dict[str, str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | extra
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MemdecError(f"{' '.join(command[3:])} ended with {done.returncode}: {words}")
    return done.stdout


def _is_finished(experiment: str) -> bool:
    if not Path(experiment).is_file():
        return False
    return "0 stages to do" in _run((*MEMDEC, "plan", experiment), {})


def _write_experiment(folder: Path) -> Path:
    corpus = {"source": "text", "document_split": "blank_line"}
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.txt"
        path.write_text(TEXT)
        corpus[split] = str(path)
    experiment = folder / "experiment.yaml"
    experiment.write_text(json.dumps({"name": "startup", "scale": "smoke", "corpus": corpus}))
    return experiment
