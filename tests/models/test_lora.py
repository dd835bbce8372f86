"""Adapters: rank by hand, no change at the start, export and load. Shape: B windows, T, D width."""

import json
import sys

import pytest
import torch
from torch import nn
from transformers import Phi3Config, Phi3ForCausalLM

from memdec.errors import ConfigError, DataError, MissingExtraError
from memdec.models.loading import body_output, load_skeleton
from memdec.models.lora import add_lora, load_lora, parameters_per_rank, solve_rank
from memdec.models.memory import initial_lm

CPU = torch.device("cpu")
# Width 24, feed-forward 40, values and keys 12 wide: q 48, k and v 36 each, three of 64; 3 blocks.
LLAMA = 3 * (48 + 2 * 36 + 3 * 64)
PER_RANK = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gemma3": LLAMA // 3 * 2,
    "gpt2": 2 * ((24 + 72) + 2 * (24 + 96)),  # fused q, k, v; two projections of 24 x 96; 2 blocks
}
INPUTS_BT = torch.tensor([[5, 9, 40, 8, 77], [6, 6, 31, 2, 11]])


@pytest.fixture
def start(tiny_model):
    return lambda kind: initial_lm(tiny_model(kind), from_scratch=False, seed=0)


@pytest.mark.parametrize("kind", PER_RANK)
def test_a_rank_costs_the_widths_of_all_projections(start, tiny_model, kind):
    lm = start(kind)
    assert parameters_per_rank(lm) == PER_RANK[kind]
    assert parameters_per_rank(load_skeleton(tiny_model(kind))) == PER_RANK[kind]
    add_lora(lm, rank=3, scale=2.0, seed=1)
    trained = {name: p.numel() for name, p in lm.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == 3 * PER_RANK[kind]
    assert all(".lora_" in name for name in trained)


def test_the_rank_is_the_largest_that_fits():
    assert [solve_rank(936, budget) for budget in (936, 1871, 1872, 9361)] == [1, 1, 2, 10]


def test_a_budget_below_rank_1_is_refused_with_the_smallest():
    with pytest.raises(ConfigError, match=r"is 935 but rank 1 .* trains 936; give at least 936\."):
        solve_rank(936, 935)


@pytest.mark.parametrize("kind", PER_RANK)
def test_a_new_adapter_changes_nothing(start, kind):
    lm = start(kind)
    before_BTD = body_output(lm, INPUTS_BT)
    add_lora(lm, rank=2, scale=2.0, seed=1)
    assert torch.equal(body_output(lm, INPUTS_BT), before_BTD)


def test_the_seed_alone_draws_the_adapter(start):
    torch.manual_seed(99)
    untouched = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        lm = start("llama")
        add_lora(lm, rank=2, scale=2.0, seed=seed)
        drawn.append(torch.cat([p.flatten() for p in lm.parameters() if p.requires_grad]))
        torch.rand(3)
    torch.set_rng_state(untouched)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.fixture
def exported(start, tiny_model, tmp_path):
    """(architecture) -> folder of an adapter with weights everywhere, and its hidden states."""

    def make(kind):
        lm = start(kind)
        add_lora(lm, rank=2, scale=3.0, seed=1)
        for name, parameter in lm.named_parameters():
            if ".lora_B" in name:
                parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
        lm.save_pretrained(tmp_path)
        return tmp_path, body_output(lm, INPUTS_BT), lm

    return make


@pytest.mark.parametrize("kind", PER_RANK)
def test_a_loaded_adapter_is_the_exported_one(exported, tiny_model, kind):
    folder, hidden_BTD, written = exported(kind)
    lm = load_lora(folder, tiny_model(kind), "float32", CPU)
    adapters = [name for name, _ in written.named_parameters() if ".lora_" in name]
    assert adapters
    for name in adapters:
        assert torch.equal(lm.get_parameter(name), written.get_parameter(name))
    torch.testing.assert_close(body_output(lm, INPUTS_BT), hidden_BTD, rtol=1e-4, atol=1e-5)
    assert not lm.training
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == sorted(config["target_modules"])  # the same bytes each time
    assert not (folder / "model.safetensors").exists()


def test_scale_times_b_times_a_is_added_to_the_weight(exported, tiny_model, start):
    _, hidden_BTD, lm = exported("llama")
    plain = start("llama")
    for name, module in plain.named_modules():
        adapted = lm.get_submodule(name)
        if hasattr(adapted, "lora_A"):
            down, up = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
            module.weight.data += 3.0 * up @ down
    torch.testing.assert_close(body_output(plain, INPUTS_BT), hidden_BTD, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_an_adapter_is_refused(exported, tiny_model, name):
    folder, _, _ = exported("llama")
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"is no exported LoRA adapter \(no {name}\)"):
        load_lora(folder, tiny_model("llama"), "float32", CPU)


def test_a_model_without_known_projections_is_refused():
    with pytest.raises(ConfigError, match="Sequential has no attention projections that memdec"):
        parameters_per_rank(nn.Sequential(nn.Linear(3, 4)))
    only_attention = nn.ModuleDict({"attn": nn.ModuleDict({"q_proj": nn.Linear(3, 4)})})
    with pytest.raises(ConfigError, match="ModuleDict has no feed-forward projections that memdec"):
        parameters_per_rank(only_attention)


def test_fused_projections_are_found():
    config = Phi3Config(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    fused = (24 + 24 + 2 * 12) + (24 + 2 * 32) + (32 + 24)  # qkv, gate and up, down
    assert parameters_per_rank(Phi3ForCausalLM(config)) == 2 * fused


def test_a_missing_peft_is_named_with_its_extra(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"needs peft: .*'memdec\[lora\]'"):
        add_lora(start("llama"), rank=1, scale=1.0, seed=0)
