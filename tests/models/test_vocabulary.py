import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from memdec.models.loading import load_causal_lm, load_tokenizer
from memdec.models.vocabulary import change_vocabulary

CPU = torch.device("cpu")


@pytest.fixture
def parts(tiny_model):
    """A Llama, its tokenizer, and the tokenizer (other specials, other ids) it moves to."""
    lm = load_causal_lm(tiny_model("llama"), "float32", CPU)
    return lm, load_tokenizer(tiny_model("llama")), load_tokenizer(tiny_model("gemma3"))


def test_copied_rows_are_those_of_the_same_text_or_the_mean_of_its_pieces(parts):
    lm, old, new = parts
    old_rows = lm.get_input_embeddings().weight.detach().clone()
    change_vocabulary(lm, old, new, "copied", seed=0)
    rows = lm.get_input_embeddings().weight
    same = mean = 0
    for name, token in new.get_vocab().items():
        if name in old.get_vocab():  # both spell bytes alike
            assert torch.equal(rows[token], old_rows[old.get_vocab()[name]])
            same += 1
            continue
        ids = old(new.decode([token]), add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(rows[token], sum(old_rows[i] for i in ids) / len(ids))
        mean += 1
    assert same > 256
    assert mean > 0


def test_tokens_that_the_old_model_has_no_row_for_are_not_copied(parts):
    lm, old, new = parts
    shorter = len(old) - 20
    lm.resize_token_embeddings(shorter)
    old_rows = lm.get_input_embeddings().weight.detach().clone()
    change_vocabulary(lm, old, new, "copied", seed=0)
    rows = lm.get_input_embeddings().weight
    (lacking, *_), (kept, *_) = (
        [name for name, token in old.get_vocab().items() if cut(token) and name in new.get_vocab()]
        for cut in (lambda token: token >= shorter, lambda token: 2 <= token < shorter)
    )
    torch.testing.assert_close(rows[new.get_vocab()[lacking]], old_rows.mean(0))
    assert torch.equal(rows[new.get_vocab()[kept]], old_rows[old.get_vocab()[kept]])


def sentencepiece_tokenizer(words):
    """Spells a space as ▁, puts one in front of each text and strips it again, as Llama-2 does."""
    names = ["<unk>", "<0xC3>", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁a", *words]
    names += [f"▁{word}" for word in words]
    backend = Tokenizer(models.Unigram([(name, -1.0) for name in names], 0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_a_words_first_token_keeps_its_space_there_and_back(parts):
    lm, bytewise, _ = parts
    ids = bytewise.get_vocab()
    words = [n for n in ids if n.isalpha() and n.isascii() and len(n) > 1 and f"Ġ{n}" in ids]
    assert words
    own = sentencepiece_tokenizer(words)
    first = lm.get_input_embeddings().weight.detach().clone()
    change_vocabulary(lm, bytewise, own, "copied", seed=0)
    moved = lm.get_input_embeddings().weight.detach().clone()
    change_vocabulary(lm, own, bytewise, "copied", seed=0)
    back = lm.get_input_embeddings().weight
    for word in words:
        for piece, name in ((word, word), (f"▁{word}", f"Ġ{word}")):
            assert torch.equal(moved[own.get_vocab()[piece]], first[ids[name]])
            assert torch.equal(back[ids[name]], first[ids[name]])
    # Half a character has no text, and its names differ: the mean of all rows.
    torch.testing.assert_close(moved[own.get_vocab()["<0xC3>"]], first.mean(0))


def test_the_body_stays_and_a_tied_head_stays_tied(parts):
    lm, old, new = parts
    body = [p.clone() for name, p in lm.named_parameters() if "embed" not in name]
    change_vocabulary(lm, old, new, "random", seed=3)
    after = [p for name, p in lm.named_parameters() if "embed" not in name]
    assert all(torch.equal(a, b) for a, b in zip(body, after, strict=True))
    assert lm.get_input_embeddings().weight is lm.get_output_embeddings().weight
    assert len(lm.get_input_embeddings().weight) == max(new.get_vocab().values()) + 1
    assert lm.config.vocab_size == len(lm.get_input_embeddings().weight)


def test_random_rows_follow_the_seed_and_start_as_an_untrained_model_does(parts, tiny_model):
    rows = []
    for seed in (1, 1, 2):
        lm = load_causal_lm(tiny_model("llama"), "float32", CPU)
        with torch.no_grad():
            lm.get_input_embeddings().weight.mul_(7)  # as training may have done
        change_vocabulary(lm, parts[1], parts[2], "random", seed)
        rows.append(lm.get_input_embeddings().weight.detach())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert rows[0].std().item() == pytest.approx(lm.config.initializer_range, rel=0.05)


def test_apart_embedding_and_head_get_rows_each_of_their_own(tiny_model):
    lm = load_causal_lm(tiny_model("gemma3"), "float32", CPU)
    old, new = load_tokenizer(tiny_model("gemma3")), load_tokenizer(tiny_model("llama"))
    old_head = lm.get_output_embeddings().weight.detach().clone()
    change_vocabulary(lm, old, new, "copied", seed=0)
    token = new.get_vocab()["a"]
    row = old_head[old.get_vocab()["a"]]
    torch.testing.assert_close(lm.get_output_embeddings().weight[token], row)
