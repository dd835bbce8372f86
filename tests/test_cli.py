"""The command line: what starts fast, and every mistake of a user as one line and exit code 2."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import transformers

TORCH_FREE = """
import sys
from memdec.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = {"torch", "transformers", "lightning", "faiss", "wandb", "datasets"} & set(sys.modules)
print("heavy:", sorted(heavy))
sys.exit(code)
"""


def run_cold(*arguments, cwd):
    """Run in a fresh interpreter and return (exit code, stdout, the heavy modules imported)."""
    command = [sys.executable, "-c", TORCH_FREE, *map(str, arguments)]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.rsplit("heavy: ", 1)[1].strip()


@pytest.mark.parametrize("verb", [[], ["run"], ["plan"], ["report"], ["collect"], ["generate"]])
def test_help_imports_nothing_heavy(verb, tmp_path):
    assert run_cold(*verb, "--help", cwd=tmp_path) == "[]"


def test_plan_and_report_import_nothing_heavy(finished, tmp_path):
    assert run_cold("plan", "tiny.yaml", cwd=finished) == "[]"
    records = finished / "artifacts" / "runs"
    heavy = run_cold("report", "--records", records, "--output", tmp_path / "out", cwd=finished)
    assert heavy == "[]"
    assert (tmp_path / "out" / "index.html").is_file()


def assert_refused(ended, *words):
    """One line on stderr that holds `words`, nothing on stdout, exit code 2."""
    assert ended.code == 2, ended
    assert ended.err.startswith("memdec: "), ended.err
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    for word in words:
        assert word in ended.err
    assert ended.out == ""


def assert_nothing_written(folder):
    artifacts = folder / "artifacts"
    assert not list(artifacts.glob("runs/*/*/*"))
    assert not [p for p in artifacts.glob("*/[!.]*") if p.is_dir()]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_epoch=2", ["'trainer.max_epoch'", "max_epochs"]),
        ("trainr.max_epochs=2", ["'trainr'", "trainer"]),
        ("nonsense=1", ["'nonsense'", "the top level knows", "corpus"]),
        ("knn.k.deep=1", ["knn.k"]),
        ("trainer.max_epochs=many", ["trainer.max_epochs", "many"]),
        ("trainer.learning_rate=fast", ["trainer.learning_rate", "fast"]),
        ("knn_lm.temperatures=3", ["knn_lm.temperatures"]),
        ("corpus=5", ["corpus"]),
        ("memory_decoder.alpha=1.5", ["memory_decoder.alpha", "[0, 1]", "1.5"]),
        ("memory_decoder.alpha=sometimes", ["memory_decoder.alpha", "'sometimes'"]),
        ("memory_decoder.alpha=2", ["memory_decoder.alpha", "[0, 1]", "2"]),
        ("knn_lm.alpha=true", ["knn_lm.alpha", "True"]),
        ("seed=-1", ["seed must lie in 0..4294967295, got -1"]),
        ("seed=5000000000", ["seed must lie in 0..4294967295, got 5000000000"]),
        ("trainer.accelerator=tpu", ["trainer.accelerator", "'tpu'", "mps"]),
        ("memory_decoder.beta=-0.1", ["memory_decoder.beta", "[0, 1]", "-0.1"]),
        ("memory_decoder.beta=nan", ["memory_decoder.beta", "[0, 1]", "nan"]),
        ("knn.temperature=0", ["knn.temperature", "at least 1e-06", "got 0"]),
        ("knn.k=0", ["knn.k", "at least 1"]),
        ("knn.k=25", ["knn.k is 25", "knn.k_max = 24"]),
        ("methods=[bse]", ["methods", "'bse'", "did you mean 'base'"]),
        ("methods=[]", ["methods is empty", "base"]),
        ("methods=[base,dapt,base]", ["methods names base more than once"]),
        ("scale=big", ["scale", "'big'", "paper, small, smoke"]),
        ("name=a/b", ["name", "'a/b'"]),
        ("table=ablation of beta", ["table", "'ablation of beta'"]),
        ("methods[0]=dapt", ["methods"]),
        ("methods.0=dapt", ["methods is a list; give all of it, methods=[A,B]"]),
        ("methods={0: base}", ["methods is a list"]),
        ("methods=base", ["methods is a list; give all of it, methods=[A,B]"]),
        ("memory_mixture.memories=mem", ["memory_mixture.memories is a list"]),
        ("knn_lm.temperatures.0=2", ["knn_lm.temperatures is a list"]),
        ("methods.0=", ["methods is a list"]),
        ("[=", ["'[='"]),
        ("[a=1", ["'[a=1'"]),
        ("knn.temperature=1e-60", ["knn.temperature", "at least 1e-06"]),
        ("datastore.layer=².output", ["datastore.layer", "'².output'"]),
        ("model.source=~nobody-here/model", ["model.source", "~nobody-here/model"]),
        ("trainer.batch_size=7", ["trainer.batch_size 7", "multiple"]),
        ("corpus.stride=33", ["corpus.stride", "block_size", "33"]),
        ("datastore.layer=last", ["datastore.layer", "last_ffn_input"]),
        ("knn.lm_share=0.3", ["knn.lm_share", "memory_decoder.vocabulary=corpus", "full"]),
        ("memory_decoder.gating=some", ["memory_decoder.gating", "'some'", "gold"]),
        ("memory_decoder.divergence=tv", ["memory_decoder.divergence", "'tv'", "jsd"]),
        ("methods=[memory_mixture]", ["memory_mixture.memories is empty"]),
        ("search.method=hnsw", ["search.method", "'hnsw'", "ivf_pq"]),
        ("trainer.strategy=deepspeed", ["trainer.strategy", "'deepspeed'", "fsdp"]),
        ("knn.k", ["'knn.k'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("knn.k=[1", ["knn.k"]),
    ],
)
def test_a_bad_setting_is_refused_before_any_work(override, words, memdec, experiment, tmp_path):
    ended = memdec("run", experiment, override, cwd=tmp_path)
    assert_refused(ended, *words)
    assert not (tmp_path / "artifacts").exists()
    assert_refused(memdec("plan", experiment, override, cwd=tmp_path), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: [", ["tiny.yaml", "not valid YAML"]),
        ("name: a\nname: b\n", ["not valid YAML", "duplicate key name", "line 2"]),
        ("- base\n", ["tiny.yaml", "key: value"]),
        ("just a word", ["tiny.yaml"]),
        ("name: a\nseeed: 3\n", ["tiny.yaml", "'seeed'", "did you mean seed"]),
        ("name: a\nknn: {temprature: 2}\n", ["tiny.yaml", "'knn.temprature'", "temperature"]),
        ("name: a\nname: b\n", ["tiny.yaml"]),
        ("seed: ${pick:a}\n", ["tiny.yaml: seed", "argument: 'values'"]),
        ("seed: ${pick:a,{b:1},high}\n", ["tiny.yaml: seed", "'high'"]),
    ],
)
def test_a_bad_experiment_file_is_refused(content, words, memdec, tmp_path):
    (tmp_path / "tiny.yaml").write_text(content)
    assert_refused(memdec("run", "tiny.yaml", cwd=tmp_path), *words)
    assert not (tmp_path / "artifacts").exists()


def test_a_missing_experiment_file_is_refused(memdec, tmp_path):
    assert_refused(memdec("run", "nowhere.yaml", cwd=tmp_path), "nowhere.yaml", "is not a file")
    (tmp_path / "latin.yaml").write_bytes(b"title: \xe9\n")
    assert_refused(memdec("run", "latin.yaml", cwd=tmp_path), "latin.yaml")


def test_settings_may_have_dashes(memdec, finished):
    ended = memdec("plan", "tiny.yaml", "--knn.temperature=9.0", cwd=finished)
    assert ended.code == 0, ended.err
    assert "3 stages to do" in ended.out


def json_lines(tmp_path, settings, lines):
    """Turn the experiment into one of JSON lines with this text for train."""
    (tmp_path / "train.jsonl").write_bytes(lines)
    good = json.dumps({"text": "The work is licensed. " * 40})
    (tmp_path / "rest.jsonl").write_text(good)
    rest = str(tmp_path / "rest.jsonl")
    settings["corpus"] |= {"source": "jsonl", "train": str(tmp_path / "train.jsonl")}
    settings["corpus"] |= {"validation": rest, "test": rest}


def write(settings, tmp_path):
    (tmp_path / "tiny.yaml").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b'{"text": "good"}\n{"text": "torn\n', ["train.jsonl:2", "not JSON"]),
        (b'{"text": "good"}\n\n{"txt": "x"}\n', ["train.jsonl:3", "no field 'text'", "'txt'"]),
        (b'{"text": 5}\n', ["train.jsonl:1", "holds a number"]),
        (b'["text"]\n', ["train.jsonl:1", "holds a list"]),
        (b'{"text": "caf\xe9"}\n', ["train.jsonl is not UTF-8", "0xe9"]),
        (b"", ["corpus.train", "holds no text"]),
    ],
)
def test_bad_json_lines_are_refused(lines, words, memdec, settings, tmp_path):
    json_lines(tmp_path, settings, lines)
    write(settings, tmp_path)
    assert_refused(memdec("run", "tiny.yaml", cwd=tmp_path), *words)
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["corpus.train is '", "no file"]),
        (b"", ["corpus.train", "holds no text"]),
        (b" \n \n\n", ["corpus.train", "holds no text"]),
        (b"The licence \xff\xfe.", ["train.txt is not UTF-8", "0xff", "offset 12"]),
        (b"Short.", ["train split has", "one window needs 33"]),
    ],
)
def test_a_bad_text_file_is_refused(content, words, memdec, settings, experiment, tmp_path):
    path = tmp_path / "text" / "train.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert_refused(memdec("run", experiment, cwd=tmp_path), *words)
    assert_nothing_written(tmp_path)


def test_a_folder_for_a_corpus_or_no_model_is_refused(memdec, experiment, tmp_path):
    folder = f"corpus.train={tmp_path}"
    assert_refused(memdec("run", experiment, folder, cwd=tmp_path), "corpus.train", "folder")
    nobody = "corpus.train=~nobody-here/x.txt"
    assert_refused(memdec("run", experiment, nobody, cwd=tmp_path), nobody.split("=")[1])
    (tmp_path / "empty").mkdir()
    model = "model.source=empty"
    assert_refused(memdec("run", experiment, model, cwd=tmp_path), "config.json", "model.source")
    model = "model.source=org/no-such-model"
    assert_refused(memdec("run", experiment, model, cwd=tmp_path), "org/no-such-model")
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize("method", ["memory_decoder", "knn_lm"])
@pytest.mark.parametrize("datastore_is_there", [False, True])
def test_k_above_the_rows_is_refused(method, datastore_is_there, memdec, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    if not datastore_is_there:
        shutil.rmtree(tmp_path / "run" / "artifacts")
    settings = ["knn.k=5000", "knn.k_max=5000", f"methods=[{method}]"]
    ended = memdec("run", "tiny.yaml", *settings, cwd=tmp_path / "run")
    assert_refused(ended, "knn.k ")
    assert "5000" in ended.err.replace(",", "")


def damage(folder, how):
    (path,) = (folder / "artifacts" / "datastore").glob("[!.]*/keys.npy")
    if how == "edited":
        with path.open("r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"\x77\x07")
    if how == "truncated":
        with path.open("r+b") as file:
            file.truncate(500)
    if how == "deleted":
        path.unlink()
    if how == "unreadable manifest":
        path.with_name("manifest.json").write_text("{")
    return path.parent


@pytest.mark.parametrize("how", ["edited", "truncated", "deleted", "unreadable manifest"])
def test_a_damaged_artifact_is_refused_and_left_for_the_user(how, memdec, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "artifacts" / "runs")
    path = damage(folder, how)
    for verb in ("run", "plan"):
        ended = memdec(verb, "tiny.yaml", cwd=folder)
        assert_refused(ended, f"delete {path.relative_to(folder)} and run again")
    assert not list(folder.glob("artifacts/runs/*/*"))
    shutil.rmtree(path)
    assert memdec("run", "tiny.yaml", cwd=folder).code == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.device=cuda", ["model.device is 'cuda'", "no GPU", "cpu or auto"]),
        ("model.device=meta", ["model.device is 'meta'", "auto, cpu, cuda"]),
        ("trainer.accelerator=gpu", ["trainer.accelerator is 'gpu'", "cpu or auto"]),
        ("trainer.accelerator=mps", ["trainer.accelerator is 'mps'", "cpu or auto"]),
        ("trainer.precision=16-mixed", ["trainer.precision is '16-mixed'", "bf16-mixed"]),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_the_work(
    override, words, memdec, experiment, tmp_path
):
    import torch

    if torch.cuda.is_available() or torch.mps.is_available():
        pytest.skip("this machine has one")
    ended = memdec("run", experiment, override, cwd=tmp_path)
    assert_refused(ended, *words)
    assert not (tmp_path / "artifacts" / "tokens").exists()


@pytest.mark.parametrize("alpha", ["0", "1", "0.5"])
def test_alpha_may_be_written_without_a_point(alpha, memdec, experiment, tmp_path):
    ended = memdec("plan", experiment, f"memory_decoder.alpha={alpha}", cwd=tmp_path)
    assert ended.code == 0, ended.err


def test_a_small_disk_is_refused_before_the_work(memdec, experiment, tmp_path):
    patch = {"free": 65 << 20}
    ended = memdec("run", experiment, cwd=tmp_path, patch=patch)
    assert_refused(ended, "this run needs", "68.2 MB are free", "MEMDEC_ARTIFACTS")
    assert_nothing_written(tmp_path)
    assert not (tmp_path / "artifacts" / "tokens").exists()


def test_validation_text_that_is_the_test_text_is_refused_or_counted(
    memdec, settings, experiment, tmp_path
):
    same = ("methods=[base]", f"corpus.validation={settings['corpus']['test']}")
    ended = memdec("run", experiment, *same, "corpus.max_overlap=0.2", cwd=tmp_path)
    assert_refused(ended, "5 of 5 test documents also stand in validation", "corpus.max_overlap")
    ended = memdec("run", experiment, *same, "corpus.max_overlap=1", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "5 of 5 test documents also stand in validation, 5 word for word." in ended.out
    assert "also stand in train" not in ended.out


def export_of(folder):
    (path,) = (folder / "artifacts" / "memory").glob("[!.]*/export")
    return path


def generate(memdec, finished, base, memory, **changes):
    options = {"alpha": "0.5", "prompt": "The licence", "max-new-tokens": "3"} | changes
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return memdec("generate", "--base", base, "--memory", memory, *flags, cwd=finished)


def test_generate_prints_both_continuations(memdec, finished, tiny_model):
    ended = generate(memdec, finished, tiny_model("llama"), export_of(finished))
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert "base + memory" in ended.out
    assert ended.out.count("The licence") == 2


def test_generate_reads_the_prompt_as_the_memory_was_trained_to(
    memdec, finished, tiny_model, tmp_path
):
    memory = shutil.copytree(export_of(finished), tmp_path / "memory")
    facts = json.loads((memory / "memory.json").read_text())
    facts["trained_with"]["model.bos"] = "always"
    (memory / "memory.json").write_text(json.dumps(facts))
    plain, with_bos = (
        generate(memdec, finished, tiny_model("llama"), path, **{"max-new-tokens": "12"})
        for path in (export_of(finished), memory)
    )
    assert plain.code == with_bos.code == 0
    assert plain.out != with_bos.out
    facts["trained_with"]["model.separator"] = "<nothing>"
    (memory / "memory.json").write_text(json.dumps(facts))
    ended = generate(memdec, finished, tiny_model("llama"), memory)
    assert_refused(ended, "model.separator", "<nothing>")
    ended = generate(memdec, finished, tiny_model("gemma3"), memory)
    assert_refused(ended, "different tokenizers")


def test_shards_of_methods_that_have_none_are_refused(memdec, experiment, tmp_path):
    ended = memdec("run", experiment, "methods=[base]", "--shard", "1/2", cwd=tmp_path)
    assert_refused(ended, "--shard", "run without it")


def test_an_empty_folder_of_artifacts_is_the_usual_one(memdec, finished):
    ended = memdec("plan", "tiny.yaml", cwd=finished, env={"MEMDEC_ARTIFACTS": ""})
    assert "\n0 stages to do" in ended.out


def test_generate_refuses_a_memory_of_another_tokenizer(memdec, finished, tiny_model):
    ended = generate(memdec, finished, tiny_model("gemma3"), export_of(finished))
    assert_refused(ended, "different tokenizers", str(export_of(finished)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": "1.5"}, ["--alpha must lie in [0, 1], got 1.5"]),
        ({"max-new-tokens": "0"}, ["--max-new-tokens must be", "at least 1, got 0"]),
        ({"max-new-tokens": "1000"}, ["positions", "128"]),
        ({"prompt": ""}, ["prompt is empty"]),
        ({"device": "gpu7"}, ["gpu7", "cpu"]),
        ({"dtype": "float8"}, ["float8", "bfloat16"]),
    ],
)
def test_generate_refuses_settings_out_of_range(changes, words, memdec, finished, tiny_model):
    ended = generate(memdec, finished, tiny_model("llama"), export_of(finished), **changes)
    assert_refused(ended, *words)


def test_generate_refuses_what_is_no_memory(memdec, finished, tiny_model):
    base = tiny_model("llama")
    ended = generate(memdec, finished, base, base)
    assert_refused(ended, "is not an exported memory")


def test_a_memory_from_a_model_with_another_tokenizer_is_refused(
    memdec, experiment, tiny_model, tmp_path
):
    init = f"memory_decoder.init={tiny_model('gemma3')}"
    for verb, method in (
        ("run", "memory_decoder"),
        ("run", "adaptive_alpha"),
        ("run", "lora"),  # as large as that memory
        ("plan", "memory_decoder"),
    ):
        ended = memdec(verb, experiment, init, f"methods=[{method}]", cwd=tmp_path)
        assert_refused(ended, "another tokenizer than the base", "memory_decoder.transfer=copied")
    assert not list(tmp_path.glob("artifacts/*/*"))


def test_it_is_taken_where_it_may_or_does_not_matter(
    memdec, finished, experiment, tiny_model, tmp_path
):
    other, alike = tiny_model("gemma3"), export_of(finished)
    for init, *words in (
        [other, "methods=[memory_decoder]", "memory_decoder.transfer=copied"],
        [other, "methods=[lora]", "lora.budget_parameters=2000"],
        [alike, "methods=[memory_decoder]", "memory_decoder.transfer=scratch"],
    ):
        words.append(f"memory_decoder.init={init}")
        assert memdec("run", experiment, *words, cwd=tmp_path).code == 0


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_move_to_the_vocabulary_that_the_memory_has_is_refused(
    verb, memdec, finished, experiment, tmp_path
):
    init = f"memory_decoder.init={export_of(finished)}"
    words = (init, "memory_decoder.transfer=random", "methods=[memory_decoder]")
    ended = memdec(verb, experiment, *words, cwd=tmp_path)
    assert_refused(ended, "transfer is random", "has the tokenizer of the base", "model.source")
    assert not list(tmp_path.glob("artifacts/*/*"))


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_more_blocks_than_there_are_is_refused_before_any_work(verb, memdec, experiment, tmp_path):
    words = ("memory_decoder.blocks=9", "methods=[memory_decoder]")
    ended = memdec(verb, experiment, *words, cwd=tmp_path)
    assert_refused(ended, "memory_decoder.blocks is 9 but the starting model has 3 blocks.")
    assert not list(tmp_path.glob("artifacts/*/*"))


def test_a_separator_that_the_model_has_no_row_for_is_refused(
    memdec, experiment, tiny_model, tmp_path
):
    base = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<x{i}>" for i in range(10)], special_tokens=True)
    tokenizer.save_pretrained(base)
    words = (f"model.source={base}", "model.separator=<x9>", "methods=[base]")
    ended = memdec("run", experiment, *words, cwd=tmp_path)
    assert_refused(ended, "'<x9>'", "but the model has 304 tokens", "model.separator")
    assert not list(tmp_path.glob("artifacts/tokens/[!.]*"))


def test_text_with_a_token_that_the_model_has_no_row_for_is_refused(
    memdec, experiment, tiny_model, tmp_path
):
    base = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([*(f"<x{i}>" for i in range(9)), "memory"])
    tokenizer.save_pretrained(base)
    text = tmp_path / "test.txt"
    text.write_text("A memory of the licence and of its terms and conditions. " * 20)
    words = (f"model.source={base}", f"corpus.test={text}", "methods=[base]")
    ended = memdec("run", experiment, *words, cwd=tmp_path)
    assert_refused(ended, "test text has token", "the model has 304 tokens, fewer than its token")
    assert not list(tmp_path.glob("artifacts/tokens/[!.]*"))


@pytest.mark.parametrize(
    "key", ["memory_decoder.init", "memory_decoder.trained", "datastore.model"]
)
def test_a_model_with_fewer_tokens_than_its_tokenizer_is_refused_before_any_work(
    key, memdec, finished, experiment, tmp_path
):
    other = shutil.copytree(export_of(finished), tmp_path / "model")
    lm = transformers.AutoModelForCausalLM.from_pretrained(other)
    lm.resize_token_embeddings(270)
    lm.save_pretrained(other)
    for verb in ("run", "plan"):
        words = (f"{key}={other}", "methods=[memory_decoder]")
        ended = memdec(verb, experiment, *words, cwd=tmp_path)
        assert_refused(ended, f"{other} has 270 tokens, fewer than the", "resize its embedding")
    assert not list(tmp_path.glob("artifacts/*/*"))


def test_a_trained_memory_of_another_tokenizer_is_refused_before_any_work(
    memdec, finished, experiment, tiny_model, tmp_path
):
    base, memory = f"model.source={tiny_model('gemma3')}", export_of(finished)
    for words in (
        ["run", f"memory_decoder.trained={memory}", "methods=[memory_decoder]"],
        ["run", f"memory_mixture.memories=[{memory}]", "methods=[memory_mixture]"],
        ["run", f"memory_decoder.trained={memory}", "methods=[adaptive_alpha]"],
        ["plan", f"memory_decoder.trained={memory}", "methods=[memory_decoder]"],
    ):
        ended = memdec(words[0], experiment, base, *words[1:], cwd=tmp_path)
        assert_refused(ended, "different tokenizers", "memory_decoder.transfer=copied")
    assert not list(tmp_path.glob("artifacts/*/*"))


def test_keys_of_another_tokenizer_are_refused_before_any_work(
    memdec, experiment, tiny_model, tmp_path
):
    keys = f"datastore.model={tiny_model('gemma3')}"
    for words in ([keys], [keys, "--shard=1/2"]):
        ended = memdec("run", experiment, *words, "methods=[memory_decoder]", cwd=tmp_path)
        assert_refused(ended, "datastore.model", "another tokenizer than the base")
    assert not list(tmp_path.glob("artifacts/*/*"))


def test_a_lora_budget_below_rank_1_is_refused_before_any_work(memdec, experiment, tmp_path):
    for verb in ("run", "plan"):
        words = ["methods=[base,lora]", "lora.budget_parameters=935"]
        ended = memdec(verb, experiment, *words, cwd=tmp_path)
        assert_refused(ended, "lora.budget_parameters is 935", "at least 936")
    assert not list(tmp_path.glob("artifacts/*/*"))


def test_a_word_that_is_no_text_is_refused(memdec, experiment, tmp_path):
    ended = memdec("plan", experiment, "title=\udcff", cwd=tmp_path)  # byte 0xff of the shell
    assert_refused(ended, "is not UTF-8")


def test_an_unknown_verb_or_flag_exits_with_two(memdec, tmp_path):
    for arguments in (["rnu", "x.yaml"], ["report", "--recods=x"], []):
        ended = memdec(*arguments, cwd=tmp_path)
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith("memdec")
