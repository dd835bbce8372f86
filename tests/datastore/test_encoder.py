"""Shape legend: B windows, T positions, D key width."""

import pytest
import torch

from memdec.datastore.encoder import capture, encode
from memdec.errors import ConfigError
from memdec.models.loading import load_causal_lm

KINDS = ["gemma3", "gpt2", "llama", "qwen2"]
EXACT = {"rtol": 1e-5, "atol": 1e-5}  # the same float32 operations, perhaps in another order


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def lm(kind, tiny_model):
    return load_causal_lm(tiny_model(kind), "float32", torch.device("cpu"))


@pytest.fixture
def inputs_BT():
    return torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(3))


def hidden_states(lm, inputs_BT):
    """Embedding, then the output of each block; the last one behind the final norm."""
    with torch.no_grad():
        return lm(input_ids=inputs_BT, output_hidden_states=True).hidden_states


def wire_last_block(lm, kind, hidden_BTD):
    """Compose the feed-forward input of the last block by hand from its input."""
    if kind == "gpt2":
        block = lm.transformer.h[-1]
        residual_BTD = hidden_BTD + block.attn(block.ln_1(hidden_BTD))[0]
        return block.ln_2(residual_BTD)
    block = lm.model.layers[-1]
    positions_BT = torch.arange(hidden_BTD.shape[1])[None]
    layer_type = ["full_attention"] if kind == "gemma3" else []
    rotary = lm.model.rotary_emb(hidden_BTD, positions_BT, *layer_type)
    attended_BTD = block.self_attn(
        hidden_states=block.input_layernorm(hidden_BTD),
        position_embeddings=rotary,
        attention_mask=None,
    )[0]
    if kind == "gemma3":
        attended_BTD = block.post_attention_layernorm(attended_BTD)
        return block.pre_feedforward_layernorm(hidden_BTD + attended_BTD)
    return block.post_attention_layernorm(hidden_BTD + attended_BTD)


def test_the_default_key_is_the_input_of_the_last_feed_forward(lm, kind, inputs_BT):
    keys_BTD = encode(lm, "last_ffn_input", inputs_BT)
    with torch.no_grad():
        wanted_BTD = wire_last_block(lm, kind, hidden_states(lm, inputs_BT)[-2])
    assert keys_BTD.shape == (2, 9, 24)
    torch.testing.assert_close(keys_BTD, wanted_BTD, **EXACT)


def test_blocks_are_named_from_zero(lm, inputs_BT):
    states = hidden_states(lm, inputs_BT)
    last = len(states) - 2
    for block in range(last):
        keys_BTD = encode(lm, f"{block}.output", inputs_BT)
        torch.testing.assert_close(keys_BTD, states[block + 1], **EXACT)
    torch.testing.assert_close(encode(lm, "final_hidden", inputs_BT), states[-1], **EXACT)
    ffn_input_BTD = encode(lm, f"{last}.ffn_input", inputs_BT)
    assert torch.equal(ffn_input_BTD, encode(lm, "last_ffn_input", inputs_BT))
    assert not torch.allclose(ffn_input_BTD, encode(lm, f"{last - 1}.ffn_input", inputs_BT))


@pytest.mark.parametrize("layer", ["last_ffn_input", "0.ffn_input", "0.output", "final_hidden"])
def test_stopping_early_changes_nothing_and_leaves_no_hook(lm, layer, inputs_BT):
    with torch.no_grad(), capture(lm, layer, stop=False) as captured:
        logits = lm(input_ids=inputs_BT).logits
    assert torch.equal(captured.hidden_BTD, encode(lm, layer, inputs_BT))
    with torch.no_grad():
        assert torch.equal(lm(input_ids=inputs_BT).logits, logits)
    hooks = [m for m in lm.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_nothing_above_the_layer_and_no_head_is_computed(lm, inputs_BT):
    called = []
    blocks = lm.transformer.h if hasattr(lm, "transformer") else lm.model.layers
    for name, module in (("head", lm.lm_head), ("mlp", blocks[-1].mlp), ("block", blocks[-1])):
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    encode(lm, "last_ffn_input", inputs_BT)
    assert called == []
    encode(lm, "0.output", inputs_BT)
    assert called == []


def test_a_block_that_is_not_there_is_refused(lm, inputs_BT):
    with pytest.raises(ConfigError, match=r"'9.output' but the model has blocks 0 to [12]\."):
        encode(lm, "9.output", inputs_BT)


def test_an_error_of_the_model_is_not_swallowed(lm):
    with pytest.raises(IndexError):
        encode(lm, "last_ffn_input", torch.tensor([[10_000]]))
