import pytest
import torch
from transformers import AutoModelForCausalLM

from memdec.errors import ConfigError
from memdec.models.depth import keep_blocks, kept_blocks
from memdec.models.loading import blocks, load_causal_lm

CPU = torch.device("cpu")
INPUTS = torch.tensor([[5, 9, 2, 7, 11, 3]])


@pytest.mark.parametrize(
    ("num_blocks", "num_kept", "numbers"),
    [(30, 1, [29]), (30, 2, [0, 29]), (5, 3, [0, 2, 4]), (4, 4, [0, 1, 2, 3])],
)
def test_kept_blocks_are_spread_with_both_ends(num_blocks, num_kept, numbers):
    assert kept_blocks(num_blocks, num_kept) == numbers


@pytest.mark.parametrize(("kind", "kept"), [("llama", [0, 2]), ("gpt2", [1]), ("gemma3", [1])])
def test_a_shortened_model_runs_its_own_blocks_and_survives_saving(
    tiny_model, kind, kept, tmp_path
):
    lm = load_causal_lm(tiny_model(kind), "float32", CPU)
    wanted = [blocks(lm)[number] for number in kept]
    keep_blocks(lm, len(kept))
    assert list(blocks(lm)) == wanted
    lm.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(lm(INPUTS).logits, again(INPUTS).logits)
        whole = lm(INPUTS).logits
        first = lm(INPUTS[:, :4], use_cache=True)
        rest = lm(INPUTS[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, whole[:, 4:], atol=1e-5, rtol=1e-5)


def test_all_blocks_change_nothing(tiny_model):
    whole = load_causal_lm(tiny_model("llama"), "float32", CPU)
    same = load_causal_lm(tiny_model("llama"), "float32", CPU)
    keep_blocks(same, 3)
    with torch.no_grad():
        assert torch.equal(whole(INPUTS).logits, same(INPUTS).logits)


def test_more_blocks_than_there_are_is_refused(tiny_model):
    lm = load_causal_lm(tiny_model("llama"), "float32", CPU)
    with pytest.raises(ConfigError, match=r"memory_decoder\.blocks is 4 .* 3 blocks"):
        keep_blocks(lm, 4)
