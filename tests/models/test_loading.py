import shutil

import pytest
import torch
import transformers

from memdec.errors import ConfigError, DataError
from memdec.models.loading import (
    blocks,
    body_output,
    head_weight,
    load_causal_lm,
    load_skeleton,
    load_tokenizer,
    pick_device,
)

CPU = torch.device("cpu")
KINDS = ["gemma3", "gpt2", "llama", "qwen2"]


@pytest.fixture(params=KINDS)
def lm(request, tiny_model):
    return load_causal_lm(tiny_model(request.param), "float32", CPU)


def test_the_head_on_the_body_output_gives_the_models_own_logits(lm):
    ids_BT = torch.randint(0, 300, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = body_output(lm, ids_BT) @ head_weight(lm).T
        torch.testing.assert_close(logits, lm(ids_BT).logits, rtol=1e-5, atol=1e-4)
    assert not lm.training


def test_blocks_are_found_first_to_last(lm):
    found = blocks(lm)
    assert len(found) == lm.config.num_hidden_layers
    names = {id(module): name for name, module in lm.named_modules()}
    assert [names[id(block)].rsplit(".", 1)[1] for block in found] == list(
        map(str, range(len(found)))
    )


def test_an_architecture_without_such_blocks_is_refused():
    config = transformers.OPTConfig(
        vocab_size=20, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(ConfigError, match="OPTForCausalLM has no list of blocks"):
        blocks(transformers.OPTForCausalLM(config))


def test_a_dtype_is_that_of_the_weights(tiny_model):
    lm = load_causal_lm(tiny_model("llama"), "bfloat16", CPU)
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("load", [lambda p: load_causal_lm(p, "float32", CPU), load_tokenizer])
def test_a_folder_without_a_model_is_refused(load, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"no config.json"):
            load(folder)


def damaged(tiny_model, tmp_path, name, content):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), folder)
    (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", "[1]"),
        ("config.json", '{"model_type": "no-such-model"}'),
        ("model.safetensors", "torn"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(tiny_model, tmp_path, name, content):
    with pytest.raises(DataError, match="is not a loadable causal LM") as caught:
        load_causal_lm(damaged(tiny_model, tmp_path, name, content), "float32", CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_a_tokenizer_is_refused(tiny_model, tmp_path, kind):
    folder = shutil.copytree(tiny_model(kind), tmp_path / "copy")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match=r"holds no tokenizer \(no tokenizer\.json\)"):
        load_tokenizer(folder)


def test_a_damaged_tokenizer_is_refused_in_one_line(tiny_model, tmp_path):
    with pytest.raises(DataError, match="holds no loadable tokenizer") as caught:
        load_tokenizer(damaged(tiny_model, tmp_path, "tokenizer.json", "{"))
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_refused(altered_model):
    folder = altered_model("llama", num_hidden_layers=4)
    with pytest.raises(
        DataError, match=r"lacks weights: model.layers.3"
    ):  # else they would be random numbers
        load_causal_lm(folder, "float32", CPU)


def test_a_head_that_does_more_than_a_product_is_refused(tmp_path):
    config = transformers.Gemma3TextConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=30.0,
    )
    transformers.Gemma3ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="changes its logits after the output head"):
        load_causal_lm(tmp_path, "float32", CPU)


@pytest.mark.parametrize(
    "change", [{"layer_types": ["x"]}, {"hidden_size": -24}, {"model_type": "?"}]
)
def test_a_config_that_transformers_refuses_is_refused_in_one_line(altered_model, change):
    folder = altered_model("llama", **change)
    for load in (load_skeleton, lambda path: load_causal_lm(path, "float32", CPU)):
        with pytest.raises(DataError, match="is not a loadable causal LM"):
            load(folder)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    for name in ("cuda:2", "cuda:256"):
        with pytest.raises(ConfigError, match=f"model.device is '{name}' but torch sees 2"):
            pick_device(name)


def test_devices():
    assert pick_device("cpu") == CPU
    for name in ("gpu0", "cuda:01", "cuda:99999999999", "cuda:٣"):
        with pytest.raises(ConfigError, match="allowed: auto, cpu, cuda"):
            pick_device(name)
    if not torch.cuda.is_available():
        assert pick_device("auto") == CPU
        with pytest.raises(ConfigError, match="torch sees no GPU here; use cpu or auto"):
            pick_device("cuda:1")
