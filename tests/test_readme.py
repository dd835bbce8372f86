"""What README says is so: its commands parse, its files exist, its numbers stand in records."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from memdec.cli import _parser
from memdec.pipeline.experiment import load_experiment
from memdec.pipeline.show import row_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEADERS = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("experiments/**/*.yaml"))]
COMMANDS = sorted(
    {
        line.strip("# ").strip()
        for text in (README, *HEADERS)
        for line in text.splitlines()
        if re.match(r"(#   |    )memdec ", line)
    }
)
LINKED = ("experiments/", "sweeps/", "reports/", "memdec/", "tests/", "Makefile")


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_memdec_takes(command):
    words = shlex.split(command)[1:]
    options, rest = _parser().parse_known_args(words)
    if hasattr(options, "experiment"):
        load_experiment(ROOT / options.experiment, [*options.settings, *rest])
    else:
        assert not rest


@pytest.mark.parametrize("name", LINKED)
def test_what_readme_points_to_is_there(name):
    assert (ROOT / name).exists()


def test_the_index_of_experiments_lists_each_of_them_once():
    index = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(.+?\.yaml)`", index, re.MULTILINE)
    files = (ROOT / "experiments").glob("**/*.yaml")
    assert sorted(listed) == sorted(
        path.relative_to(ROOT / "experiments").as_posix() for path in files
    )


def test_the_domains_in_readme_are_those_of_the_report():
    shown = README.split("<!-- domains table: begin -->")[1].split("<!-- domains table: end -->")[0]
    report = (ROOT / "reports" / "tables" / "domains.md").read_text(encoding="utf-8")
    report = re.sub(r" \\\[.*?\\\]", "", report)  # the intervals
    rows = [line for line in report.split("## Small scale")[1].splitlines() if line[:1] == "|"]
    assert shown.split("\n")[2:-2] == [
        row for row in rows if re.search(r"\d|Finance|---", row) and not row.startswith("| **")
    ]


def test_the_demo_output_in_readme_is_that_of_the_committed_records():
    shown = README.split("<!-- demo output: begin -->")[1].split("<!-- demo output: end -->")[0]
    files = sorted((ROOT / "reports" / "records").glob("demo-*-s0-*.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    records = [record for record in found if record["table"] == "demo"]
    assert {record["method"] for record in records} == {"base", "knn_lm", "memory_decoder"}
    base = next(r["metrics"]["test/perplexity"] for r in records if r["method"] == "base")
    for record in records:
        cells = row_of(record, base)
        assert any(all(cell in line for cell in cells) for line in shown.splitlines()), cells


def test_the_python_in_readme_runs(monkeypatch):
    (code,) = re.findall(r"^    from memdec\..*?\n(?=\S)", README, re.MULTILINE | re.DOTALL)
    *lines, shown = textwrap.dedent(code).strip().splitlines()
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    table = eval(shown, names)
    assert sorted(table.index) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert sorted(table.columns) == [0, 1, 2]
    assert table.notna().all(axis=None)
