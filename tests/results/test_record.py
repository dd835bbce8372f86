import json
import math
import re
from dataclasses import asdict

import pytest

from memdec.errors import DataError
from memdec.results.loading import find_records, load_records
from memdec.results.record import parse_record, read_record, write_plain


def test_a_record_survives_writing_and_reading(make_record, tmp_path):
    record = make_record(
        16.25,
        method="memory_decoder",
        alpha=0.6,
        intervals={"test/perplexity": [15.0, 17.5]},
        examples=[{"tokens": [{"text": " a", "lm": -1, "mixture": -0.5, "lm_top": [["b", 0.5]]}]}],
        generation={"prompt": "p", "base": "b", "adapted": "a"},
    )
    write_plain(asdict(record), tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]  # nothing left aside
    assert record.examples[0].tokens[0].lm == -1.0
    assert record.examples[0].tokens[0].lm_top == [("b", 0.5)]


def test_infinite_points_of_a_curve_are_null(make_facts):
    curves = {"alpha": {"alpha": [0.0, 1.0], "test/perplexity": [20.0, None]}}
    assert parse_record(make_facts(curves=curves), "run").curves == curves


def test_fields_of_later_writers_are_ignored(make_facts):
    assert parse_record(make_facts(novelty={"a": 1}), "run").experiment == "toy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"x\.json: schema 2 is newer than 1"),
        ({"schema": 0}, r"x\.json: schema is 0"),
        ({"schema": "1"}, r"schema must be a whole number, got '1'"),
        ({"seed": 1.5}, r"seed must be a whole number, got 1\.5"),
        ({"seed": True}, r"seed must be a whole number, got True"),
        ({"scale": "huge"}, r"scale is 'huge'; allowed: smoke, small, paper"),
        ({"status": "running"}, r"status is 'running'; allowed: complete, failed"),
        (
            {"metrics": {"test/perplexity": "9"}},
            r"metrics\.test/perplexity must be a finite number",
        ),
        (
            {"curves": {"a": {"b": [math.inf]}}},
            r"curves\.a\.b\[0\] must be a finite number, got inf",
        ),
        ({"metrics": {"a": math.nan}}, r"metrics\.a must be a finite number, got nan"),
        ({"metrics": []}, r"metrics must be a mapping, got \[\]"),
        ({"metrics": {}}, r"metrics is empty, but status is complete"),
        ({"status": "failed", "error": None}, r"error is missing, but status is failed"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1\.5"),
        ({"id": "../../etc"}, r"id is '\.\./\.\./etc'; it names files"),
        ({"intervals": {"a": [1.0]}}, r"intervals\.a must be a list of 2 values"),
        ({"intervals": {"a": [2.0, 1.0]}}, r"intervals\.a must run from low to high"),
        ({"curves": {"c": {"x": [1.0], "y": []}}}, r"curves\.c has columns of unequal length"),
        ({"examples": [{"tokens": [{"text": "a"}]}]}, r"examples\[0\]\.tokens\[0\]\.lm is missing"),
        ({"provenance": {"commit": "c", "dirty": False}}, r"provenance\.command is missing"),
        ({"stages": [{"name": "a", "seconds": "1"}]}, r"stages\[0\]\.seconds must be a finite"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_field(make_facts, change, message):
    facts = make_facts() | change
    with pytest.raises(DataError, match=message) as caught:
        parse_record(facts, "x.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["id", "method", "config", "fingerprint", "provenance", "status"])
def test_a_missing_field_is_named(make_facts, field):
    facts = make_facts()
    del facts[field]
    with pytest.raises(DataError, match=rf"x\.json: {field} is missing\."):
        parse_record(facts, "x.json")


def test_content_that_is_no_mapping_is_refused():
    with pytest.raises(DataError, match="the content must be a mapping"):
        parse_record([1], "x.json")


def test_broken_json_and_infinity_are_refused_with_the_path(make_facts, tmp_path):
    path = tmp_path / "broken.json"
    for text in (
        "{oops",
        json.dumps(make_facts(config={"a": math.inf})),
        "\ud800".encode("utf-8", "surrogatepass"),
    ):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_record(path)


def test_bad_records_are_named_and_skipped(make_facts, save):
    good = save(make_facts(seed=1))
    save(make_facts(seed=2) | {"schema": 9}, "newer.json")
    save(make_facts(seed=1), "zz-copy.json")
    (good.parent / "broken.json").write_text("{")
    records, problems = load_records(good.parent)
    assert [record.seed for record in records] == [1]
    assert len(problems) == 3
    assert "broken.json" in problems[0]
    assert "newer.json" in problems[1]
    assert "zz-copy.json" in problems[2]
    assert f"already in {good}" in problems[2]


def test_runs_are_searched_deeply_but_not_in_hidden_folders(make_facts, tmp_path):
    for folder in ("run/base", "run/.part-knn", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "record.json").write_text(json.dumps(make_facts()))
    (tmp_path / "manifest.json").write_text("{}")
    assert find_records(tmp_path) == [tmp_path / "run/base/record.json"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not there; run an experiment"):
        load_records(tmp_path / "nowhere")
