import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from memdec.artifacts.provenance import source_state
from memdec.corpus.windows import make_windows
from memdec.models.loading import load_tokenizer
from memdec.pipeline import runner
from memdec.pipeline.model_facts import read_model_facts
from memdec.results.record import parse_record

STAGES = [
    "base_scores",
    "datastore",
    "memory",
    "memory_scores",
    "neighbors",
    "query_neighbors",
    "targets",
    "tokens",
]


@pytest.fixture
def again(finished, tmp_path):
    """A copy of a finished run, to go on from."""
    shutil.copytree(finished, tmp_path / "again")
    return tmp_path / "again"


def records(folder):
    found = {}
    for path in sorted(folder.glob("artifacts/runs/*/*/record.json")):
        record = json.loads(path.read_text())
        found[record["method"]] = record
    return found


def array(folder, stage, name):
    (path,) = (folder / "artifacts" / stage).glob(f"*/{name}.npy")
    return np.load(path)


def test_one_command_leaves_an_artifact_a_stage_and_a_record_a_method(finished):
    root = finished / "artifacts"
    made = {path.parent.parent.name for path in root.glob("*/*/manifest.json")}
    assert sorted(made) == STAGES
    assert not list(root.glob("*/.*.part"))
    assert sorted(records(finished)) == ["base", "knn_lm", "memory_decoder"]


def test_the_records_have_the_fields_that_reports_read(finished):
    for method, record in records(finished).items():
        parse_record(record, method)
        assert record["status"] == "complete"
        assert record["id"].startswith(f"tiny-{method}-s0-")
        assert (record["experiment"], record["table"], record["scale"]) == ("tiny", "tiny", "smoke")
        assert {stage["name"] for stage in record["stages"]} >= {"tokens", "base_scores"}
        assert all(s["seconds"] >= 0 and s["bytes"] > 0 for s in record["stages"])
        assert record["provenance"]["command"] == "memdec run tiny.yaml"
        assert record["provenance"]["hardware"]["cores"] >= 1
        assert record["config"]["knn"]["k"] == 16
        assert record["budget"]["parameters"] > 0
    trained = records(finished)["memory_decoder"]
    assert trained["budget"]["train_tokens"] == 2 * len(array(finished, "datastore", "values"))
    num, width = len(array(finished, "tokens", "train_tokens")), 24
    llama = read_model_facts(Path(trained["config"]["model"]["source"]))
    outputs = len(array(finished, "memory", "export/output_ids"))
    assert outputs < llama.vocab_size  # vocabulary=corpus: the other rows are not trained
    a_token = 6 * (2 * llama.body_parameters + outputs * width)
    assert trained["budget"]["flops"] == a_token * trained["budget"]["train_tokens"]
    encoded = 2 * 2 * llama.body_parameters * num  # windows overlap
    assert trained["budget"]["datastore_flops"] == encoded + num**2 * width
    assert len(trained["curves"]["validation"]["step"]) == 2
    assert trained["generation"]["prompt"] == "The licence"
    shown = [token["text"] for d in trained["examples"] for token in d["tokens"]]
    gold = array(finished, "tokens", "test_tokens")[1:21]
    tokenizer = load_tokenizer(Path(trained["config"]["model"]["source"]))
    assert shown == [tokenizer.decode([token]) for token in gold]
    own = [s for s in trained["stages"] if s["name"] != "query_neighbors"]
    assert trained["budget"]["seconds"] == pytest.approx(sum(s["seconds"] for s in own))


def slow_nll(lm, added, alpha):
    with np.errstate(divide="ignore"):
        mixed = np.log((1 - alpha) * np.exp(lm.astype(float)) + alpha * np.exp(added.astype(float)))
    return -mixed.mean()


def test_the_numbers_follow_from_the_arrays(finished):
    base, knn, memory = (records(finished)[name] for name in ("base", "knn_lm", "memory_decoder"))
    num_bytes = len("".join((finished / "text/test.txt").read_text().split("\n\n")).encode())
    for split in ("validation", "test"):
        lm = array(finished, "base_scores", f"{split}_gold_log_probs")
        assert base["metrics"][f"{split}/num_tokens"] == len(lm)
        assert base["metrics"][f"{split}/nll"] == pytest.approx(-lm.astype(float).mean())
        added = array(finished, "memory_scores", f"{split}_gold_log_probs")
        nll = slow_nll(lm, added, memory["alpha"])
        assert memory["metrics"][f"{split}/nll"] == pytest.approx(nll, rel=1e-5)
        assert memory["metrics"][f"{split}/perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    lm = array(finished, "base_scores", "test_gold_log_probs")
    bits = -lm.astype(float).sum() / math.log(2) / num_bytes
    assert base["metrics"]["test/bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert knn["tuned"]["temperature"] in (2.0, 8.0)
    assert 0 < memory["alpha"] < 1  # a word of the held-out text is not in train
    perplexities = [r["metrics"]["test/perplexity"] for r in (base, knn, memory)]
    assert perplexities[0] > max(perplexities[1:])
    curve = memory["curves"]["alpha"]
    assert curve["alpha"] == [0, 0.25, 0.5, 0.75, 1]
    assert curve["test/perplexity"][0] == pytest.approx(base["metrics"]["test/perplexity"])
    assert curve["test/perplexity"][-1] is None  # infinite


def test_alpha_is_the_best_on_validation(finished):
    lm, added = (
        array(finished, stage, "validation_gold_log_probs")
        for stage in ("base_scores", "memory_scores")
    )
    grid = np.linspace(0, 1, 4001)
    best = grid[np.argmin([slow_nll(lm, added, a) for a in grid])]
    assert records(finished)["memory_decoder"]["alpha"] == pytest.approx(best, abs=5e-4)


def test_rows_keys_and_targets_belong_to_the_same_positions(finished):
    tokens = array(finished, "tokens", "train_tokens")
    values = array(finished, "datastore", "values")
    assert values.tolist() == tokens[1:].tolist()
    rows, distances = (array(finished, "neighbors", name) for name in ("rows", "sq_distances"))
    keys = array(finished, "datastore", "keys").astype(float)
    starts, ids, probs = (array(finished, "targets", n) for n in ("starts", "token_ids", "probs"))
    assert rows.shape == (len(values), 24)
    for row in range(0, len(values), 37):
        true = ((keys - keys[row]) ** 2).sum(1)
        true[row] = np.inf
        order = np.argsort(true, kind="stable")[:24]
        np.testing.assert_allclose(true[rows[row]], true[order], rtol=1e-4)
        weights = np.exp(-distances[row, :16].astype(float) / 4.0)
        wanted = {}
        for neighbor, weight in zip(rows[row, :16], weights / weights.sum(), strict=True):
            wanted[int(values[neighbor])] = wanted.get(int(values[neighbor]), 0) + weight
        part = slice(starts[row], starts[row + 1])
        stored = dict(zip(ids[part].tolist(), probs[part].tolist(), strict=True))
        for token, prob in wanted.items():  # float16
            assert stored.get(token, 0.0) == pytest.approx(prob, rel=2e-3, abs=1e-7)


def test_every_window_of_train_was_trained_on(finished):
    memory = records(finished)["memory_decoder"]
    num_windows = len(make_windows(len(array(finished, "tokens", "train_tokens")), 32, 16))
    assert memory["curves"]["validation"]["step"][-1] == 2 * math.ceil(num_windows / 6)


def test_the_same_command_again_makes_nothing(again, memdec, contents):
    before = contents(again)
    times = {p: p.stat().st_mtime_ns for p in again.glob("artifacts/*/*/*.npy")}
    first = records(again)
    ended = memdec("run", "tiny.yaml", cwd=again)
    assert ended.code == 0, ended.err
    assert contents(again) == before
    assert {p: p.stat().st_mtime_ns for p in again.glob("artifacts/*/*/*.npy")} == times
    for method, record in records(again).items():
        assert record["metrics"] == first[method]["metrics"]
        assert record["id"] == first[method]["id"]
        if record != first[method]:  # made anew by edited sources, all from the same artifacts
            assert all(stage["reused"] for stage in record["stages"])


def test_a_run_says_nothing_on_stderr_and_prints_a_table(again, memdec):
    shutil.rmtree(again / "artifacts")
    ended = memdec("run", "tiny.yaml", cwd=again)
    assert ended.err == ""
    assert "Memory Decoder" in ended.out
    assert "kNN-LM" in ended.out
    assert "report" in ended.out


def test_a_moved_corpus_is_the_same_corpus(again, memdec):
    (again / "moved").mkdir()
    for name in ("train", "validation", "test"):
        shutil.move(again / "text" / f"{name}.txt", again / "moved" / f"{name}.md")
    where = [f"corpus.{s}={again}/moved/{s}.md" for s in ("train", "validation", "test")]
    before = {p for p in again.glob("artifacts/*/*") if p.parent.name in STAGES}
    ended = memdec("run", "tiny.yaml", *where, cwd=again)
    assert ended.code == 0, ended.err
    assert {p for p in again.glob("artifacts/*/*") if p.parent.name in STAGES} == before


def test_a_method_that_breaks_leaves_a_failed_record_and_keeps_the_others(again, memdec):
    shutil.rmtree(again / "artifacts" / "memory")
    shutil.rmtree(again / "artifacts" / "runs")
    broken = {"at": "memdec.models.memory:MemoryDecoder.export", "raises": "no luck"}
    ended = memdec("run", "tiny.yaml", cwd=again, kill=broken)
    assert ended.code == 1
    assert "RuntimeError: no luck" in ended.err
    found = records(again)
    assert {name: record["status"] for name, record in found.items()} == {
        "base": "complete",
        "knn_lm": "complete",
        "memory_decoder": "failed",
    }
    assert found["memory_decoder"]["error"] == "RuntimeError: no luck"
    parse_record(found["memory_decoder"], "failed")
    assert not list((again / "artifacts" / "memory").glob("[!.]*"))
    ended = memdec("run", "tiny.yaml", cwd=again)
    assert ended.code == 0, ended.err
    assert records(again)["memory_decoder"]["status"] == "complete"


def test_two_runs_at_once_share_the_work(again, memdec, contents):
    wanted = contents(again)
    shutil.rmtree(again / "artifacts")
    running = [memdec.start("run", "tiny.yaml", cwd=again) for _ in range(2)]
    ended = [run.wait() for run in running]
    assert [end.code for end in ended] == [0, 0], ended
    assert contents(again) == wanted
    said = "".join(end.err for end in ended)
    assert all(line.startswith("waiting for ") for line in said.splitlines())


def test_data_workers_change_no_byte(again, memdec, contents):
    wanted = contents(again)
    for stage in ("memory", "memory_scores"):
        shutil.rmtree(again / "artifacts" / stage)
    ended = memdec("run", "tiny.yaml", "trainer.num_workers=2", cwd=again)
    assert ended.code == 0, ended.err
    assert contents(again) == wanted


def test_other_objectives_train_whole_and_in_shards(finished, memdec, tmp_path, contents):
    """A language model's share in the targets, another divergence, gating: all wired through."""
    decoder = ("vocabulary=full", "divergence=jsd", "gating=gold")
    settings = ("knn.lm_share=0.3", *(f"memory_decoder.{setting}" for setting in decoder))
    words = ("tiny.yaml", "methods=[memory_decoder]", *settings)
    targets = {}
    for folder, shards in ((tmp_path / "whole", ()), (tmp_path / "parts", ("1/2", "2/2"))):
        folder.mkdir()
        shutil.copy(finished / "tiny.yaml", folder)
        for shard in (*shards, *shards):
            ended = memdec("run", *words, "--shard", shard, cwd=folder)
            assert ended.code == 0, ended.err
        ended = memdec("run", *words, cwd=folder)
        assert ended.code == 0, ended.err
        targets[folder.name] = {n: b for n, b in contents(folder).items() if "targets/" in n}
    assert targets["whole"] == {n: b for n, b in targets["parts"].items() if "shards" not in n}
    assert len(targets["whole"]) == 3
    trained = json.loads(next(folder.glob("artifacts/runs/*/*/record.json")).read_text())
    plain = records(finished)["memory_decoder"]
    # not a quantity of the same kind: bounded by log 2
    assert max(trained["curves"]["training"]["train/kl"]) < math.log(2)
    assert trained["metrics"]["test/perplexity"] != plain["metrics"]["test/perplexity"]


@pytest.mark.parametrize("method", ["memory_decoder", "dapt"])
def test_mixed_precision_trains_and_clips(again, finished, memdec, method):
    words = (f"methods=[{method}]", "trainer.precision=bf16-mixed", "evaluation.prompt=")
    ended = memdec("run", "tiny.yaml", *words, cwd=again)
    assert ended.code == 0, ended.err
    base = records(finished)["base"]["metrics"]["test/perplexity"]
    (mixed,) = (
        record
        for path in again.glob(f"artifacts/runs/*/{method}/record.json")
        if (record := json.loads(path.read_text()))["config"]["trainer"]["precision"] != "32-true"
    )
    assert mixed["metrics"]["test/perplexity"] < 0.8 * base


def test_numbers_that_edited_sources_made_are_marked(again, memdec):
    words = ("run", "tiny.yaml", "methods=[base,knn_lm,memory_decoder,dapt]")
    assert memdec(*words, cwd=again).code == 0
    of_all = {"base", "knn_lm", "memory_decoder", "dapt"}
    for edited, marked in {
        "": set(),
        "memory": {"memory_decoder"},
        "dapt": {"dapt"},
        "base_scores": of_all,  # what each is compared with
    }.items():
        for path in again.glob("artifacts/*/[!.]*/manifest.json"):
            made = json.loads(path.read_text())
            made["provenance"]["dirty"] = path.parent.parent.name == edited
            path.write_text(json.dumps(made))
        shutil.rmtree(again / "artifacts" / "runs")
        assert memdec(*words, cwd=again).code == 0
        found = records(again)
        for record in found.values():
            assert {s["name"] for s in record["stages"] if s["dirty"]} <= {edited}
        dirty = {name for name, record in found.items() if record["provenance"]["dirty"]}
        assert dirty == (of_all if source_state()[1] else marked)


@pytest.mark.parametrize(
    ("commit", "dirty", "edited_now", "kept"),
    [
        ("c0ffee", False, False, True),
        ("c0ffee", True, False, False),
        ("c0ffee", False, True, False),
        ("decade", False, False, False),
    ],
)
def test_a_record_is_kept_where_this_very_code_made_it(
    tmp_path, monkeypatch, commit, dirty, edited_now, kept
):
    monkeypatch.setattr(runner, "source_state", lambda: ("c0ffee", edited_now))
    made = {"commit": commit, "dirty": dirty}
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"status": "complete", "provenance": made}))
    assert (runner._finished(path) is not None) == kept


@pytest.mark.slow
def test_a_compiled_decoder_learns_the_same(again, finished, memdec):
    words = ("run", "tiny.yaml", "methods=[memory_decoder]", "trainer.compile=true")
    ended = memdec(*words, cwd=again)
    assert ended.code == 0, ended.err
    compiled = next(
        record
        for path in again.glob("artifacts/runs/*/memory_decoder/record.json")
        if (record := json.loads(path.read_text()))["config"]["trainer"]["compile"]
    )
    plain = records(finished)["memory_decoder"]["metrics"]["test/perplexity"]
    # rounding differs, and Adam enlarges it
    assert compiled["metrics"]["test/perplexity"] == pytest.approx(plain, rel=2e-3)


def test_an_index_in_the_place_of_exact_search(again, finished, memdec):
    words = ("run", "tiny.yaml", "methods=[memory_decoder]", "search.method=ivf_flat")
    ended = memdec(*words, "search.num_lists=30", "search.num_probes=1", cwd=again)
    assert ended.code == 0, ended.err
    manifests = again.glob("artifacts/neighbors/[!.]*/manifest.json")
    found = {i["search"]: i for i in (json.loads(p.read_text())["info"] for p in manifests)}
    assert set(found) == {"exact", "IVF30,Flat"}
    info = found["IVF30,Flat"]
    assert 0 < info["recall"] < 0.95
    assert ended.err.startswith("warning: recall@24 of the search is ")  # one line for the user
    assert "raise search.num_probes (now 1)" in ended.err
    assert ended.err.count("\n") == 1
    record = next(
        record
        for path in again.glob("artifacts/runs/*/memory_decoder/record.json")
        if (record := json.loads(path.read_text()))["config"]["search"]["method"] == "ivf_flat"
    )
    exact = records(finished)["memory_decoder"]["metrics"]["test/perplexity"]
    assert record["metrics"]["test/perplexity"] == pytest.approx(exact, rel=0.1)
