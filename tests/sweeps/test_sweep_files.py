"""The sweeps that we ship: valid to the last trial, and as their headers and the index say."""

import gzip
import re
import shutil
from pathlib import Path

import pytest
import yaml

from memdec.methods.registry import METHODS
from memdec.pipeline.job import Job
from memdec.pipeline.stages import STAGES, stages_of
from memdec.pipeline.sweep_file import load_sweep

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "sweeps").glob("*.yaml"))
HEADER = re.compile(r"# Runs: (\d+)\. Trainings: (\d+)\. Shared: ([a-z_, ]+)\.")
ROW = re.compile(r"\| \[`(.+?)`\]\((.+?)\) \| `(.+?)` \| (\S+) \| (\d+) \| (\d+) \|")


DOMAINS = ("pubmed", "fomc_minutes", "cuad")
CORPORA = ("wikitext2", *DOMAINS)
MODELS = ("gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_model):
    """Small stand-ins for the text and models that sweeps take from outside the project."""
    folder = tmp_path_factory.mktemp("given")
    for number, name in enumerate(CORPORA):
        for split in ("train", "validation", "test"):
            path = folder / "corpora" / name / f"{split}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(b'{"text": "%d"}' % number))
    (folder / "latest").mkdir()
    (folder / "latest" / "fomc_minutes.jsonl.gz").write_bytes(gzip.compress(b'{"text": "9"}'))
    names = (*DOMAINS, "qwen2.5-coder-0.5b")
    memories = [f"memories/{seed}/{name}" for seed in range(3) for name in names]
    for number, name in enumerate((*MODELS, *memories)):
        shutil.copytree(tiny_model("llama"), folder / name)
        (folder / name / "number.txt").write_text(str(number))
    for name in memories:
        (folder / name / "memory.json").write_text('{"tokenizer_hash": ""}')
    return folder


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch, given):
    monkeypatch.chdir(ROOT)  # commands name experiments from there, as people run them
    monkeypatch.setenv("MEMDEC_DATA", str(given))
    monkeypatch.setenv("MEMDEC_LATEST", str(given / "latest"))
    monkeypatch.setenv("MEMDEC_MODELS", str(given))
    monkeypatch.setenv("MEMDEC_MEMORIES", str(given / "memories"))


def stage_names(sweep, root):
    """Return per stage the names of its artifact in the trials that need it."""
    names = {}
    for trial in sweep.trials:
        job = Job(trial.experiment, root)
        methods = [METHODS[name] for name in trial.experiment.methods]
        for stage in job.required(stages_of(trial.experiment, methods)):
            names.setdefault(stage, []).append(job.fingerprint(stage))
    return names


def num_trainings(names):
    return len({name for stage in names if STAGES[stage].collective for name in names[stage]})


def test_there_are_sweeps():
    assert len(FILES) >= 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestSweepFile:
    def test_every_trial_is_a_valid_and_different_experiment(self, path):
        trials = load_sweep(path).trials
        assert all(trial.experiment is not None for trial in trials)
        assert len({trial.id for trial in trials}) == len(trials)
        for trial in trials:
            assert trial.experiment.table == path.stem
            assert trial.command[:3] == ("/usr/bin/env", "memdec", "run")

    def test_the_header_counts_runs_trainings_and_shared_stages(self, path, tmp_path):
        runs, trainings, shared = HEADER.search(path.read_text()).groups()
        sweep = load_sweep(path)
        assert int(runs) == len(sweep.trials)
        names = stage_names(sweep, tmp_path)
        assert int(trainings) == num_trainings(names)
        shared_stages = [
            stage for stage, found in names.items() if len(found) > len(set(found)) == 1
        ]
        assert shared == (", ".join(shared_stages) or "none")

    def test_the_header_gives_both_commands(self, path):
        header = "".join(line for line in path.open() if line.startswith("#"))
        assert re.search(rf"^#   memdec sweep {path}\s", header, re.MULTILINE)
        assert re.search(rf"^#   wandb sweep {path}\s", header, re.MULTILINE)

    def test_it_fills_a_table_of_the_report(self, path):
        assert (ROOT / "reports" / "specs" / path.name).is_file()
        assert yaml.safe_load(path.read_text())["name"] == path.stem

    def test_the_metric_is_one_that_a_run_reports(self, path):
        from memdec.pipeline.tracking import summary

        record = {
            "method": "base",
            "alpha": 0.5,
            "id": "x",
            "metrics": {"test/perplexity": 2.0, "validation/perplexity": 2.0},
        }
        assert load_sweep(path).metric in summary(record)


def test_the_index_lists_every_sweep_as_it_is(tmp_path):
    rows = ROW.findall((ROOT / "sweeps" / "README.md").read_text())
    assert [row[0] for row in rows] == [path.name for path in FILES]
    for file, link, table, paper, runs, trainings in rows:
        sweep = load_sweep(Path("sweeps") / file)
        spec = yaml.safe_load((ROOT / "reports" / "specs" / f"{table}.yaml").read_text())
        assert link == file
        assert paper == spec.get("paper", "-")
        assert {trial.experiment.table for trial in sweep.trials} == {table}
        assert int(runs) == len(sweep.trials)
        assert int(trainings) == num_trainings(stage_names(sweep, tmp_path))
