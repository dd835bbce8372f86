import json
import shutil

from memdec.pipeline.experiment import load_experiment
from memdec.pipeline.job import Job
from memdec.pipeline.shards import Shard


def test_a_merged_stage_took_the_seconds_of_all_its_shards(finished, tmp_path):
    root = tmp_path / "artifacts"
    shutil.copytree(finished / "artifacts", root)
    shutil.rmtree(root / "datastore")
    experiment = load_experiment(finished / "tiny.yaml")
    assert Job(experiment, root).shard("datastore", Shard(0, 2)) == [Shard(1, 2)]
    (manifest,) = root.glob("datastore-shards/[!.]*/manifest.json")
    facts = json.loads(manifest.read_text())
    facts["provenance"]["seconds"] = 1000.0
    manifest.write_text(json.dumps(facts))
    job = Job(experiment, root)
    assert job.shard("datastore", Shard(1, 2)) == []
    job.artifact("datastore")
    assert 1000 < job.runs["datastore"].seconds < 1100
