import json
import shutil

import pytest

from memdec.errors import ConfigError
from memdec.pipeline.shards import Shard, parse_shard

SHARDED = ("datastore", "neighbors", "targets")


@pytest.mark.parametrize(("num_items", "multiple", "count"), [(10, 1, 3), (11, 4, 2), (9, 4, 3)])
def test_shards_follow_each_other_and_cut_between_batches(num_items, multiple, count):
    parts = [Shard(index, count).of(num_items, multiple) for index in range(count)]
    assert [item for part in parts for item in part] == list(range(num_items))
    assert all(part.start % multiple == 0 for part in parts)


def test_more_shards_than_pieces_are_refused():
    with pytest.raises(ConfigError, match="--shard 1/3 is empty: the work has 2 pieces"):
        Shard(0, 3).of(8, 4)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_shard_is_written_i_of_n(text):
    with pytest.raises(ConfigError, match="write i/n with i from 1 to n"):
        parse_shard(text)


def test_three_shards_in_any_order_make_the_bytes_of_a_whole_run(
    memdec, finished, contents, tmp_path
):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    for number, index in enumerate((3, 1, 2) * len(SHARDED)):
        if number == 1:  # as if edited sources had made the first
            (part,) = (tmp_path / "run").glob("artifacts/datastore-shards/[!.]*/manifest.json")
            facts = json.loads(part.read_text())
            facts["provenance"]["dirty"] = True
            part.write_text(json.dumps(facts))
        ended = memdec("run", "tiny.yaml", "--shard", f"{index}/3", cwd=tmp_path / "run")
        assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "targets: complete"
    whole, merged = contents(finished), contents(tmp_path / "run")
    of_stages = {name for name in whole if name.split("/")[0] in SHARDED}
    assert len(of_stages) == 3 + 2 + 3
    assert all(merged[name] == whole[name] for name in of_stages)
    (merged_one,) = (tmp_path / "run").glob("artifacts/datastore/[!.]*/manifest.json")
    assert json.loads(merged_one.read_text())["provenance"]["dirty"]
    assert memdec("run", "tiny.yaml", cwd=tmp_path / "run").code == 0
    records = (tmp_path / "run").glob("artifacts/runs/*/*/record.json")
    assert {json.loads(path.read_text())["status"] for path in records} == {"complete"}
