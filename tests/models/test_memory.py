import json
import shutil

import numpy as np
import pytest
import torch

from memdec.errors import DataError
from memdec.models.exports import read_memory_facts
from memdec.models.loading import load_tokenizer
from memdec.models.memory import MemoryDecoder, initial_lm, load_memory
from memdec.models.side_by_side import continue_both

CPU = torch.device("cpu")
OUTPUTS = torch.tensor([1, 4, 40, 299])


@pytest.fixture
def memory(tiny_model):
    return MemoryDecoder(initial_lm(tiny_model("llama"), False, 0), OUTPUTS)


def test_the_head_has_the_rows_of_the_output_tokens_and_learns(memory):
    head_OD = memory.head()
    weight_VD = memory.lm.lm_head.weight
    assert torch.equal(head_OD, weight_VD[OUTPUTS])
    head_OD.sum().backward()
    moved = weight_VD.grad.abs().sum(1).nonzero()[:, 0]
    assert moved.tolist() == OUTPUTS.tolist()


def test_spread_is_a_distribution_over_the_output_tokens_alone(memory):
    logits = torch.randn(2, 304, generator=torch.Generator().manual_seed(1))
    spread = memory.spread(logits)
    for row in range(2):
        chosen = logits[row, OUTPUTS].double().exp()
        wanted = torch.full((304,), -torch.inf, dtype=torch.float64)
        wanted[OUTPUTS] = (chosen / chosen.sum()).log()
        torch.testing.assert_close(spread[row].double(), wanted, rtol=1e-5, atol=1e-6)
    whole = MemoryDecoder(memory.lm, None).spread(logits)
    torch.testing.assert_close(whole, logits.log_softmax(-1))


def test_columns_are_rows_of_the_head(memory):
    assert memory.columns(torch.tensor([40, 1, 299])).tolist() == [2, 0, 3]


@pytest.mark.parametrize("outputs", [OUTPUTS, None])
def test_export_and_load_give_the_same_memory(tiny_model, outputs, tmp_path):
    memory = MemoryDecoder(initial_lm(tiny_model("llama"), False, 0), outputs).eval()
    memory.export(tmp_path, load_tokenizer(tiny_model("llama")), {"tokenizer_hash": "abc"})
    loaded = load_memory(tmp_path, "float32", CPU)
    ids_BT = torch.tensor([[5, 9, 17, 3]])
    with torch.no_grad():
        assert torch.equal(loaded(ids_BT), memory(ids_BT))
        assert torch.equal(loaded.head(), memory.head())
    assert read_memory_facts(tmp_path) == {"tokenizer_hash": "abc"}
    assert not loaded.training


def test_a_memory_starts_from_the_weights_of_the_base_without_dropout(tiny_model, tmp_path):
    folder = tmp_path / "gpt2"
    shutil.copytree(tiny_model("gpt2"), folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["attn_pdrop"] > 0
    lm = initial_lm(folder, False, 0)
    assert lm.training
    assert all(parameter.requires_grad for parameter in lm.parameters())
    ids_BT = torch.tensor([[5, 9, 17, 3, 8, 1, 250]])
    with torch.no_grad():
        first, second = lm(ids_BT).logits, lm(ids_BT).logits
    assert torch.equal(first, second)


def test_the_token_of_the_padding_learns_as_any_other(altered_model):
    folder = altered_model("llama", pad_token_id=5, tie_word_embeddings=False)
    lm = initial_lm(folder, True, 0)
    lm(torch.tensor([[5, 9, 17]])).logits.square().sum().backward()
    moved = lm.get_input_embeddings().weight.grad.abs().sum(1).nonzero()[:, 0]
    assert moved.tolist() == [5, 9, 17]


def test_from_scratch_depends_on_the_seed_only(tiny_model):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first = initial_lm(tiny_model("llama"), True, 7).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's numbers are untouched
    torch.rand(5)
    again = initial_lm(tiny_model("llama"), True, 7).state_dict()
    other = initial_lm(tiny_model("llama"), True, 8).state_dict()
    base = initial_lm(tiny_model("llama"), False, 7).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], base[name])


def test_a_folder_that_is_no_memory_is_refused(tiny_model, tmp_path):
    for folder in (tmp_path / "nowhere", tiny_model("llama")):
        with pytest.raises(DataError, match="is not an exported memory"):
            load_memory(folder, "float32", CPU)
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "copy")
    (folder / "memory.json").write_text("[1]")
    with pytest.raises(DataError, match=r"no readable memory\.json"):
        read_memory_facts(folder)
    facts = {"tokenizer_hash": "", "trained_with": {"model.separator": None}}
    (folder / "memory.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"no readable memory\.json"):
        read_memory_facts(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="is a LoRA adapter, which is no memory"):
        read_memory_facts(folder)


def test_an_output_token_that_the_base_lacks_gets_no_column(memory):
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    log_probs = memory.spread(logits)
    ids = OUTPUTS[:3]  # 299 is left
    torch.testing.assert_close(log_probs[:, ids], logits[:, ids].log_softmax(-1))
    assert int(log_probs.isfinite().sum()) == 2 * 3


@pytest.mark.parametrize(
    "name", ["memory.json", "config.json", "model.safetensors", "output_ids.npy"]
)
def test_a_memory_that_lacks_a_file_is_refused(memory, tiny_model, tmp_path, name):
    trained_with = {"memory_decoder.vocabulary": "corpus"}
    facts = {"tokenizer_hash": "abc", "trained_with": trained_with}
    memory.export(tmp_path, load_tokenizer(tiny_model("llama")), facts)
    assert read_memory_facts(tmp_path) == facts
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match="is not an exported memory"):
        read_memory_facts(tmp_path)


def test_output_ids_are_ascending_in_the_export(memory, tiny_model, tmp_path):
    memory.export(tmp_path, load_tokenizer(tiny_model("llama")), {"tokenizer_hash": "abc"})
    assert np.load(tmp_path / "output_ids.npy").tolist() == OUTPUTS.tolist()


def test_damaged_output_ids_are_refused(memory, tiny_model, tmp_path):
    memory.export(tmp_path, load_tokenizer(tiny_model("llama")), {"tokenizer_hash": "abc"})
    file = tmp_path / "output_ids.npy"
    np.save(file, np.array([1.0, 2.0]))
    contents = [b"torn", b"PK\x03\x04torn", file.read_bytes()]
    for ids in ([], [4, 1], [4, 4], [-1, 4], [4, 304], 4):
        np.save(file, np.array(ids, np.int64))
        contents.append(file.read_bytes())
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"output_ids\.npy is damaged"):
            load_memory(tmp_path, "float32", torch.device("cpu"))


def test_a_start_of_an_unknown_build_is_refused_from_scratch_too(altered_model):
    folder = altered_model("llama", model_type="gurgle")
    for from_scratch in (False, True):
        with pytest.raises(DataError, match="is not a loadable causal LM"):
            initial_lm(folder, from_scratch, 0)


def test_a_start_that_caps_its_logits_is_refused_from_scratch_too(altered_model):
    folder = altered_model("gemma3", final_logit_softcapping=30.0)
    for from_scratch in (False, True):
        with pytest.raises(DataError, match="changes its logits after the output head"):
            initial_lm(folder, from_scratch, 0)


def test_alpha_is_the_share_of_the_memory_in_the_texts(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model("llama"))
    lm = initial_lm(tiny_model("llama"), True, 3)
    MemoryDecoder(lm, None).export(tmp_path / "memory", tokenizer, {"tokenizer_hash": "abc"})
    lm.save_pretrained(tmp_path / "alone")
    tokenizer.save_pretrained(tmp_path / "alone")
    rest = ("The licence", 8, "cpu", "float32")
    base = tiny_model("llama")
    plain, with_none = continue_both(base, tmp_path / "memory", 0.0, *rest)
    _, with_all = continue_both(base, tmp_path / "memory", 1.0, *rest)
    alone, _ = continue_both(tmp_path / "alone", tmp_path / "memory", 1.0, *rest)
    assert (with_none, with_all) == (plain, alone)
    assert plain != alone


def test_rows_that_pad_the_heads_do_not_show_in_the_texts(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model("llama"))
    texts = []
    for factor in (1, 100):
        lm = initial_lm(tiny_model("llama"), False, 0)
        with torch.no_grad():
            lm.lm_head.weight[300:] *= factor  # 304 rows, 300 tokens
        base, export = tmp_path / f"base-{factor}", tmp_path / f"memory-{factor}"
        lm.save_pretrained(base)
        tokenizer.save_pretrained(base)
        MemoryDecoder(lm, None).export(export, tokenizer, {"tokenizer_hash": "abc"})
        texts.append(continue_both(base, export, 0.5, "abc", 12, "cpu", "float32"))
        with torch.no_grad():
            largest = lm(torch.tensor([[5, 6, 7]])).logits[0, -1].argmax()
    assert largest >= 300
    assert texts[0] == texts[1]
    assert all(texts[0])
