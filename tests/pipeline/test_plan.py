import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from memdec.errors import ConfigError, DataError
from memdec.pipeline.experiment import load_experiment
from memdec.pipeline.job import Job
from memdec.pipeline.model_facts import read_model_facts
from memdec.pipeline.model_source import ModelSource
from memdec.pipeline.plan import make_plan
from memdec.pipeline.preflight import check_models
from memdec.pipeline.sizes import model_facts

STAGES = ("base_scores", "datastore", "query_neighbors", "targets", "memory", "memory_scores")


def plans(folder, *overrides, stages=STAGES):
    job = Job(load_experiment(folder / "tiny.yaml", list(overrides)), folder / "artifacts")
    return {plan.name: plan for plan in make_plan(job, stages)}


def check(folder, *overrides, stages=STAGES):
    job = Job(load_experiment(folder / "tiny.yaml", list(overrides)), folder / "artifacts")
    make_plan(job, stages)
    check_models(job, job.required(stages))


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_finished_run_is_complete_with_its_true_sizes(finished):
    for plan in plans(finished).values():
        assert plan.complete
        (made,) = (finished / "artifacts" / plan.name).glob("[!.]*")
        on_disk = sum(
            p.stat().st_size for p in made.rglob("*") if p.is_file() and p.name != "manifest.json"
        )
        assert plan.num_bytes == on_disk


def test_what_a_change_makes_anew_is_to_do(finished):
    found = plans(finished, "knn.temperature=9.0")
    todo = {name for name, plan in found.items() if not plan.complete}
    assert todo == {"targets", "memory", "memory_scores"}


def test_estimates_are_near_and_above_what_is_then_made(finished, copy):
    made = plans(finished)
    stages = [p for p in (copy / "artifacts").iterdir() if p.is_dir() and p.name != "tokens"]
    for path in stages:
        shutil.rmtree(path)
    for name, plan in plans(copy).items():
        if name == "tokens":
            continue
        assert not plan.complete
        assert plan.num_bytes >= 0.5 * made[name].num_bytes, name
        assert plan.rows == made[name].rows


def test_a_training_that_two_methods_share_is_planned_once(finished):
    both = ("dapt_scores", "dapt_memory_scores")
    assert "dapt_memory" not in plans(finished, stages=both)
    assert {"dapt", "dapt_memory"} <= set(plans(finished, "dapt.max_epochs=5", stages=both))


def test_rows_and_flops_are_the_formula(finished):
    found = plans(finished)
    (tokens,) = (finished / "artifacts/tokens").glob("[!.]*")
    num = {s: len(np.load(tokens / f"{s}_tokens.npy")) for s in ("train", "validation", "test")}
    settings = json.loads((finished / "tiny.yaml").read_text())
    facts = read_model_facts(Path(settings["model"]["source"]))
    assert found["datastore"].rows == num["train"]
    forward = 2.0 * facts.body_parameters * num["train"] * 32 / 16  # windows overlap
    assert found["datastore"].flops == pytest.approx(forward)
    # forward and backward through the body at each input and the head at each token, and once
    # forward over validation text
    body, head = 2.0 * facts.body_parameters, 2.0 * facts.hidden_size * facts.vocab_size
    an_epoch = 3 * num["train"] * (body * 32 / 16 + head)
    an_epoch += num["validation"] * (body * 32 / 24 + head)
    assert found["memory"].flops == pytest.approx(settings["trainer"]["max_epochs"] * an_epoch)
    assert found["base_scores"].rows == num["validation"] + num["test"]


def test_each_model_is_planned_at_its_own_size(finished, tmp_path, tiny_model):
    wide_config = {
        "hidden_size": 48,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 304,
    }
    wide = transformers.LlamaConfig(**wide_config)
    transformers.LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    for file in tiny_model("llama").glob("*token*"):
        shutil.copy(file, tmp_path / "wide")
    own, wide = read_model_facts(tiny_model("llama")), read_model_facts(tmp_path / "wide")
    found = plans(finished)
    keys = plans(finished, f"datastore.model={tmp_path / 'wide'}", "methods=[memory_decoder]")
    assert keys["datastore"].num_bytes == found["datastore"].rows * (2 * 48 + 12)
    memory = plans(finished, f"memory_decoder.init={tmp_path / 'wide'}")
    assert memory["memory"].num_bytes == 32 * wide.parameters
    small = transformers.LlamaConfig(**wide_config | {"vocab_size": 204})
    transformers.LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    moved = (f"memory_decoder.init={tmp_path / 'small'}", "memory_decoder.transfer=random")
    assert plans(finished, *moved)["memory"] == memory["memory"]  # with the base's vocabulary
    shallow = plans(finished, "memory_decoder.blocks=1")["memory"]
    assert shallow.num_bytes == 32 * (own.parameters - own.body_parameters * 2 // 3)
    assert plans(finished, "trainer.max_steps=0")["memory"].flops == 0
    one, two = (plans(finished, f"trainer.max_steps={n}")["memory"].flops for n in (1, 2))
    assert two == 2 * one < found["memory"].flops


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "qwen2"])
def test_model_facts_are_read_without_loading_the_model(kind, tiny_model):
    facts = read_model_facts(tiny_model(kind))
    with safe_open(tiny_model(kind) / "model.safetensors", framework="np") as file:
        sizes = {name: file.get_tensor(name).size for name in file.keys()}  # noqa: SIM118
    assert facts.parameters == sum(sizes.values())
    assert (facts.hidden_size, facts.vocab_size) == (24, 304)
    embeddings = ("embed_tokens", "wte", "lm_head")
    outside = sum(n for name, n in sizes.items() if any(e in name for e in embeddings))
    assert facts.body_parameters == facts.parameters - outside
    assert facts.num_blocks == (3 if kind in ("llama", "qwen2") else 2)


def test_masks_and_second_copies_are_no_parameters(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("gpt2"), tmp_path / "model")
    wanted = read_model_facts(folder)
    file = folder / "model.safetensors"
    shutil.copy(file, folder / "consolidated.safetensors")
    masks = {"h.0.attn.bias": np.ones((1, 1, 9, 9)), "h.0.attn.masked_bias": np.array(-1e4)}
    save_file(load_file(file) | masks, file)
    assert read_model_facts(folder) == wanted


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[1]"),
        ("model.safetensors", ""),
        ("model.safetensors", "torn"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ],
)
def test_a_damaged_model_is_refused(tiny_model, tmp_path, name, content):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=f"{name} is no"):
        read_model_facts(folder)


def test_a_gguf_file_is_planned_by_its_own_size(finished, tmp_path):
    sizes = {}
    for parameters in (100_000, 7_000_000_000):
        with (tmp_path / f"{parameters}.gguf").open("wb") as file:
            file.truncate(parameters * 6 // 10)  # a hole: it takes no room
        model = ModelSource("any", None, gguf=tmp_path / f"{parameters}.gguf")
        job = Job(load_experiment(finished / "tiny.yaml"), tmp_path / "artifacts")
        job.model = model
        sizes[parameters] = model_facts(job)
        assert sizes[parameters].parameters == pytest.approx(parameters, rel=1e-4)
        assert sizes[parameters].body_parameters >= 0
    large = sizes[7_000_000_000]
    assert large.hidden_size == pytest.approx(4096, rel=0.1)  # as Llama 2 7B has
    body = 12 * large.num_blocks * large.hidden_size**2
    assert large.body_parameters == pytest.approx(body, rel=0.01)


def test_planning_makes_nothing(copy, memdec):
    shutil.rmtree(copy / "artifacts")
    ended = memdec("plan", "tiny.yaml", cwd=copy)
    assert ended.code == 0, ended.err
    assert "8 stages to do" in ended.out
    made = [p.name for p in (copy / "artifacts").rglob("*")]
    assert made in ([], ["file-hashes.json"])


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_plan_says_what_is_complete(finished, memdec):
    before = names_in(finished / "artifacts")
    ended = memdec("plan", "tiny.yaml", "memory_decoder.beta=0.9", cwd=finished)
    assert ended.code == 0, ended.err
    lines = {line.split()[1]: line for line in ended.out.splitlines() if line.startswith("│")}
    assert [name for name, line in lines.items() if "to do" in line] == ["memory", "memory_scores"]
    assert sum("complete" in line for line in lines.values()) == 6
    assert "2 stages to do" in ended.out
    assert names_in(finished / "artifacts") == before


def test_a_larger_text_is_planned_with_the_index_that_it_would_use(finished, memdec):
    words = ("plan", "tiny.yaml", "--train-tokens", "117e6", "--gflops", "100")
    search = ("search.num_lists=1000", "search.num_probes=10", "search.code_bytes=8")
    ended = memdec(*words, *search, cwd=finished)
    assert ended.code == 0, ended.err
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:]]
        for line in ended.out.splitlines()
        if line.startswith("│")
    }
    assert cells["neighbors"][1:3] == ["to do", "117,000,000"]
    settings = json.loads((finished / "tiny.yaml").read_text())
    k_max = settings["knn"].get("k_max", 1024)
    lists = 2 * 24 * 1000 * (10 * 256 * 1000 + 2 * 117e6)
    tables = 256 * 117e6 * (2 * 24 + 10 * 8)
    visited = 8 * 117e6 * 10 * 117e6 / 1000
    exact = 3 * 24 * 117e6 * (k_max + 1) * 4
    assert cells["neighbors"][4] == f"{lists + tables + visited + exact:.1e}"
    hours = (lists + tables + visited + exact) / 100e9 / 3600
    assert cells["neighbors"][5] in (f"{hours:.1f} h", f"{hours / 24:.1f} days")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("search.method=ivf_pq",), "search.code_bytes must be at most 24"),
        (("search.method=ivf_flat", "search.train_rows=9"), "search.train_rows gives 9 rows"),
        (("corpus.block_size=200",), "200 positions but the model has 128"),
        (("evaluation.prompt=of the", "evaluation.new_tokens=128"), "but the model has 128"),
    ],
)
def test_what_an_index_or_the_model_cannot_do_is_refused_before_any_work(
    finished, memdec, tmp_path, settings, message
):
    shutil.copy(finished / "tiny.yaml", tmp_path)
    for verb in ("plan", "run"):
        ended = memdec(verb, "tiny.yaml", *settings, cwd=tmp_path)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert message in ended.err
    made = list((tmp_path / "artifacts").glob("*/[!.]*"))
    assert not made


@pytest.mark.parametrize(
    ("setting", "who", "more"),
    [
        ("memory_decoder.init={}", "the memory", ()),
        ("memory_decoder.trained={}", "the memory", ()),
        ("datastore.model={}", "the model of the keys", ()),
        ("memory_mixture.memories=[{}]", "memory {}", ("methods=[memory_mixture]",)),
    ],
)
def test_the_shortest_reader_says_how_long_a_window_may_be(
    finished, altered_model, setting, who, more
):
    short = altered_model("llama", max_position_embeddings=30)
    (short / "memory.json").write_text('{"tokenizer_hash": ""}')
    words = (setting.format(short), *more)
    stages = ("mixture_scores",) if more else STAGES
    with pytest.raises(ConfigError, match=f"for 32 positions but {who.format(short)} has 30"):
        check(finished, *words, stages=stages)
    check(finished, *words, "corpus.block_size=30", "corpus.stride=24", stages=stages)


def test_a_bos_that_the_tokenizer_adds_needs_a_position_too(finished, tiny_model):
    words = (f"model.source={tiny_model('gemma3')}", "corpus.block_size=128")
    with pytest.raises(ConfigError, match="asks for 129 positions but the model has 128"):
        check(finished, *words)
    check(finished, *words, "model.bos=never")


def test_a_start_that_cannot_be_loaded_is_refused_before_any_work(finished, altered_model):
    folder = altered_model("gemma3", final_logit_softcapping=30.0)
    words = (f"memory_decoder.init={folder}", "memory_decoder.transfer=scratch")
    with pytest.raises(DataError, match="changes its logits after the output head"):
        check(finished, *words)


@pytest.mark.parametrize("key", ["model.source", "memory_decoder.init", "datastore.model"])
def test_a_model_without_weights_is_refused_before_any_work(finished, altered_model, key):
    folder = altered_model("llama")
    check(finished, f"{key}={folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=rf"{key} .*altered holds no weights \(\*\.safetensors"):
        check(finished, f"{key}={folder}")


def test_more_neighbors_than_the_cached_text_has_are_refused_before_any_work(finished):
    (tokens,) = (finished / "artifacts/tokens").glob("[!.]*")
    most = len(np.load(tokens / "train_tokens.npy")) - 2  # rows are all tokens but the last
    check(finished, f"knn.k={most}", f"knn.k_max={most}")
    with pytest.raises(ConfigError, match=rf"at most {most:,} neighbors each"):
        check(finished, f"knn.k={most + 1}", f"knn.k_max={most + 1}")


def test_k_is_not_held_against_a_text_that_is_not_there(finished, memdec, tmp_path):
    k = ("knn.k=5000", "knn.k_max=5000")
    assert memdec("plan", "tiny.yaml", *k, "--train-tokens", "30000", cwd=finished).code == 0
    assert memdec("plan", "tiny.yaml", *k, "--train-tokens", "5001", cwd=finished).code == 2
    shutil.copy(finished / "tiny.yaml", tmp_path)
    ended = memdec("plan", "tiny.yaml", *k, cwd=tmp_path)  # how many tokens it gives, nobody knows
    assert ended.code == 0, ended.err


def test_a_memory_is_mixed_once(finished, tmp_path):
    (memory,) = (finished / "artifacts/memory").glob("[!.]*/export")
    shutil.copytree(memory, tmp_path / "other")
    for twin in (memory, f"{memory}/", tmp_path / "other"):
        words = f"memory_mixture.memories=[{memory},{twin}]"
        with pytest.raises(ConfigError, match=r"memory_mixture\.memories has one memory twice"):
            check(finished, words, stages=("mixture_scores",))


def test_a_plan_makes_no_model_to_check_a_prompt(finished, memdec, altered_model, tmp_path):
    short = altered_model("llama", max_position_embeddings=40)
    shutil.copy(finished / "tiny.yaml", tmp_path)
    words = ("model.source=smollm2-135m", f"memory_decoder.init={short}", "knn.k=8")
    ended = memdec("plan", "tiny.yaml", *words, "evaluation.new_tokens=60", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert not list(tmp_path.glob("artifacts/*/[!.]*"))


def test_a_plan_knows_the_longest_window_of_a_model_that_is_not_there_yet(
    finished, memdec, tmp_path
):
    shutil.copy(finished / "tiny.yaml", tmp_path)
    sizes = [f"corpus.{key}=9000" for key in ("block_size", "stride", "train_stride")]
    ended = memdec("plan", "tiny.yaml", "model.source=smollm2-135m", *sizes, cwd=tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "9,000 positions but the model has 8,192" in ended.err


def test_loras_plan_does_not_depend_on_the_other_methods(finished):
    words = ("memory_decoder.blocks=1",)
    alone = plans(finished, *words, stages=("lora",))["lora"]
    assert alone == plans(finished, *words, stages=("lora", "memory"))["lora"]
    assert alone.flops < plans(finished, stages=("lora",))["lora"].flops  # it has the memory's size


def test_lora_reads_frozen_weights_and_trains_adapters(finished):
    settings = json.loads((finished / "tiny.yaml").read_text())
    model = read_model_facts(Path(settings["model"]["source"]))
    lora = plans(finished, "lora.budget_parameters=2000", stages=("lora",))["lora"]
    (tokens,) = (finished / "artifacts/tokens").glob("[!.]*")
    num = {s: len(np.load(tokens / f"{s}_tokens.npy")) for s in ("train", "validation")}
    body, head = 2.0 * model.body_parameters, 2.0 * model.hidden_size * model.vocab_size
    passes = 32 / 16  # windows overlap
    epoch = num["train"] * (2 * (body * passes + head) + 6 * 2000 * passes)
    epoch += num["validation"] * (body * 32 / 24 + head)
    assert lora.flops == pytest.approx(settings["trainer"]["max_epochs"] * epoch)


def test_a_prompt_is_checked_against_the_memory_too(finished, altered_model):
    short = altered_model("llama", max_position_embeddings=40)
    words = (f"memory_decoder.init={short}", "evaluation.new_tokens=60")
    with pytest.raises(ConfigError, match="positions but the model has 40"):
        check(finished, *words)
    # LoRA is as large as the memory, but nobody continues the prompt with it
    words += ("methods=[lora,dapt_memory]", "lora.budget_parameters=0")
    check(finished, *words, stages=("lora", "dapt"))


def test_a_prompt_matters_where_it_is_continued_and_only_if_it_is_too_long(finished, memdec):
    long = "evaluation.prompt=" + "of the " * 30  # 210 bytes, so that its tokens are counted
    assert memdec("plan", "tiny.yaml", long, "evaluation.new_tokens=2", cwd=finished).code == 0
    more = (long, "evaluation.new_tokens=128")
    assert memdec("plan", "tiny.yaml", *more, cwd=finished).code == 2
    assert memdec("plan", "tiny.yaml", *more, "methods=[base,knn_lm]", cwd=finished).code == 0


@pytest.mark.parametrize(
    "words", [("--train-tokens", "1.5"), ("--train-tokens", "many"), ("--gflops", "0")]
)
def test_sizes_that_mean_nothing_are_refused(finished, memdec, words):
    ended = memdec("plan", "tiny.yaml", *words, cwd=finished)
    assert ended.code == 2
    assert words[0] in ended.err
