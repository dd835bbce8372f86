import json

import pytest

from memdec.errors import DataError
from memdec.results.collect import collect


@pytest.fixture
def run(tmp_path):
    """Write facts as a finished run of their own and return its folder."""

    def write(facts, name="run"):
        folder = tmp_path / "runs" / name / facts["method"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(facts))
        return folder.parent

    return write


@pytest.fixture
def collected(tmp_path):
    def gather(**options):
        return collect([tmp_path / "runs"], tmp_path / "records", **options)

    return gather


def test_finished_records_are_copied_under_their_id(run, collected, make_facts, tmp_path):
    run(make_facts())
    run(make_facts(method="knn_lm"))
    result = collected()
    assert result.copied == ["toy-base-s0-01234567", "toy-knn_lm-s0-01234567"]
    copy = json.loads((tmp_path / "records/toy-base-s0-01234567.json").read_text())
    assert copy == make_facts()


def test_collecting_twice_changes_nothing(run, collected, make_facts, tmp_path):
    run(make_facts())
    collected()
    before = (tmp_path / "records/toy-base-s0-01234567.json").read_bytes()
    run(make_facts(provenance={"finished": "2027-01-01T00:00:00Z"}))  # the same result, run again
    result = collected()
    assert (result.copied, result.problems) == ([], [])
    assert result.unchanged == ["toy-base-s0-01234567"]
    assert (tmp_path / "records/toy-base-s0-01234567.json").read_bytes() == before


def test_a_record_of_edited_sources_is_refused_unless_told(run, collected, make_facts, tmp_path):
    run(make_facts(provenance={"dirty": True}))
    run(make_facts(method="knn_lm"))
    stages = [stage | {"dirty": True} for stage in make_facts()["stages"][:1]]
    run(make_facts(method="dapt", provenance={"dirty": True}, stages=stages))
    result = collected()
    assert result.copied == ["toy-knn_lm-s0-01234567"]
    of_base, of_dapt = sorted(result.problems)
    assert "made from edited sources (the run itself)" in of_base
    assert f"made from edited sources ({stages[0]['name']}/" in of_dapt
    assert not (tmp_path / "records/toy-base-s0-01234567.json").exists()
    assert len(collected(allow_dirty=True).copied) == 2


def test_a_different_result_of_the_same_id_is_not_overwritten(run, collected, make_facts, tmp_path):
    run(make_facts(20.0))
    collected()
    run(make_facts(10.0))
    result = collected()
    assert result.copied == []
    assert "has the same id; delete the one that is wrong" in result.problems[0]
    kept = json.loads((tmp_path / "records/toy-base-s0-01234567.json").read_text())
    assert kept["metrics"]["test/perplexity"] == 20.0


def test_a_complete_record_takes_the_place_of_a_failed_one(run, collected, make_facts):
    run(make_facts(status="failed"))
    assert collected().copied
    run(make_facts())
    assert collected().copied == ["toy-base-s0-01234567"]
    run(make_facts(status="failed"))
    assert "same id" in collected().problems[0]


def test_a_broken_record_is_named_and_the_others_are_copied(run, collected, make_facts, tmp_path):
    run(make_facts())
    bad = tmp_path / "runs/bad/record.json"
    bad.parent.mkdir()
    bad.write_text("{")
    result = collected()
    assert len(result.copied) == 1
    assert str(bad) in result.problems[0]


def test_sources_without_records_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere is not there"):
        collect([tmp_path / "nowhere"], tmp_path / "records")
    with pytest.raises(DataError, match=r"no record\.json under"):
        collect([tmp_path], tmp_path / "records")
