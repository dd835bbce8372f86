"""The tracked reports/ folder: published numbers, specs, and generated files, never stale."""

import shutil
from pathlib import Path

import pytest

from memdec.results.loading import load_records
from memdec.results.paper import load_paper
from memdec.results.report import build_report
from memdec.results.specs import load_specs

REPORTS = Path(__file__).parents[2] / "reports"
PAPER = load_paper(REPORTS / "paper")


def test_the_demo_comes_first():
    assert load_specs(REPORTS / "specs", PAPER)[0].name == "demo"


def test_every_reference_to_the_paper_finds_a_number():
    for spec in load_specs(REPORTS / "specs", PAPER):
        if not spec.paper:
            continue
        for column in [c.paper for c in spec.columns if c.paper]:
            assert column in PAPER[spec.paper].columns, spec.name
        for row in [row for row in spec.rows if row.paper]:
            table, _, key = row.paper.rpartition(":")
            assert key in PAPER[table or spec.paper].rows, (spec.name, row.paper)
        for group in [group for group in spec.groups if group.paper]:
            assert f"{group.paper} base" in PAPER[spec.paper].rows


# The mean of the paper's own numbers, where it does not round to the average that it prints.
NOT_AS_PRINTED = {
    ("T1", "memory_decoder"): 12.0175,
    ("T8", "memory-small"): 12.0175,
    ("T10", "memory_decoder"): 12.0175,
    ("T14", "memory_decoder"): 74.688,
}


# Sums are the check on typing: a wrong digit moves the average away from the printed one.
@pytest.mark.parametrize("table", [name for name, t in PAPER.items() if t.columns[-1] == "average"])
def test_printed_averages_follow_from_the_printed_numbers(table):
    checked = 0
    for key, row in PAPER[table].rows.items():
        *numbers, average = row
        if average is not None and None not in numbers:
            mean = sum(numbers) / len(numbers)
            assert mean == pytest.approx(average, abs=0.0085), key
            if (table, key) in NOT_AS_PRINTED:
                assert mean == pytest.approx(NOT_AS_PRINTED[table, key]), key
            else:
                assert mean == pytest.approx(average, abs=0.0051), key
            checked += 1
    assert checked >= 2


def test_spot_checks_of_published_numbers():
    assert PAPER["T1"].value("memory_decoder", "gpt2-small") == 13.36
    assert PAPER["T1"].value("dapt", "gpt2-small") == 14.76
    assert PAPER["T3"].value("qwen2.5-7b lora", "law") == 3.81
    assert PAPER["T3"].value("qwen2-72b lora", "law") is None
    assert PAPER["T4"].value("llama3.2-1b memory_decoder", "finance") == 4.85
    assert PAPER["T7"].value("0.6", "law") == 4.11
    assert PAPER["T9"].value("ce", "qwen2-7b") == 4.69
    assert PAPER["T11"].value("targets-large", "gpt2-large") == 11.93
    assert len(PAPER) == 15


def test_tracked_records_are_sound():
    records, problems = load_records(REPORTS / "records")
    assert problems == []
    assert [record.id for record in records if record.provenance.dirty] == []
    for record in records:
        assert (REPORTS / "records" / f"{record.id}.json").exists()


def test_generated_files_are_those_that_the_records_give(tmp_path):
    rebuilt = tmp_path / "reports"
    for folder in ("records", "specs", "paper", "bench"):
        shutil.copytree(REPORTS / folder, rebuilt / folder)
    build_report(rebuilt / "records", rebuilt, rebuilt / "specs", rebuilt / "paper")
    tracked, fresh = contents(REPORTS), contents(rebuilt)
    changed = sorted(name for name in fresh | tracked if tracked.get(name) != fresh.get(name))
    assert changed == [], "run `memdec report` and commit reports/"


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "FINDINGS.md"  # written by hand
    }
