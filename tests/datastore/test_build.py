"""Shape legend: N rows, D key width."""

import numpy as np
import pytest
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.windows import Window, make_windows
from memdec.datastore.build import build_datastore, check_alignment, check_f16
from memdec.datastore.encoder import encode
from memdec.errors import ArtifactError
from memdec.models.loading import load_causal_lm, load_tokenizer
from memdec.models.tokenizer import read_token_rules

BLOCK, STRIDE, NUM_TOKENS = 10, 6, 33


@pytest.fixture
def tokens():
    return np.random.default_rng(4).integers(5, 300, NUM_TOKENS).astype(np.uint32)


def seal(writer, name="datastore"):
    return writer.seal(writer.path.parent / name / ("a" * 16), name, "a" * 16, {})


def writer_at(path):
    writer = ArtifactWriter(path / ".part")
    writer.clear()
    return writer


def slow_key(lm, rules, tokens, position):
    """Key of one position: its own context and nothing else, one sequence at a time."""
    end = BLOCK + 1
    while end <= position:
        end += STRIDE
    start = max(0, min(end, NUM_TOKENS) - 1 - BLOCK)
    context = list(map(int, tokens[start:position]))
    if rules.bos_on_each_window:
        context = [rules.bos_id, *context]
    return encode(lm, "last_ffn_input", torch.tensor([context]))[0, -1]


@pytest.mark.parametrize("kind", ["gemma3", "gpt2", "llama"])
def test_row_r_belongs_to_position_r_plus_1(kind, tiny_model, tokens, tmp_path):
    lm = load_causal_lm(tiny_model(kind), "float32", torch.device("cpu"))
    rules = read_token_rules(load_tokenizer(tiny_model(kind)))
    assert rules.bos_on_each_window == (kind == "gemma3")
    writer = writer_at(tmp_path)
    windows = make_windows(NUM_TOKENS, BLOCK, STRIDE)
    build_datastore(writer, tokens, windows, lm, rules, "last_ffn_input", 3)
    store = seal(writer)
    keys_ND = store.array("keys")
    assert (keys_ND.shape, keys_ND.dtype) == ((32, 24), np.float16)
    assert store.array("values").tolist() == tokens[1:].tolist()
    assert store.array("positions").tolist() == list(range(1, 33))
    assert store.info == {"num_rows": 32, "key_width": 24, "layer": "last_ffn_input"}
    for position in range(1, NUM_TOKENS):
        wanted_D = slow_key(lm, rules, tokens, position).numpy()
        # float16 keeps 11 bits
        np.testing.assert_allclose(keys_ND[position - 1], wanted_D, rtol=1e-3, atol=1e-4)


def test_a_bos_that_is_not_wanted_changes_the_keys(tiny_model, tokens, tmp_path):
    lm = load_causal_lm(tiny_model("gemma3"), "float32", torch.device("cpu"))
    tokenizer = load_tokenizer(tiny_model("gemma3"))
    keys = []
    for bos in ("auto", "never"):
        writer = writer_at(tmp_path / bos)
        rules = read_token_rules(tokenizer, bos)
        windows = [Window(0, 1, 8)]
        build_datastore(writer, tokens[:8], windows, lm, rules, "last_ffn_input", 1)
        keys.append(seal(writer).array("keys"))
    assert not np.allclose(*keys, atol=0.01)


def test_a_key_beyond_float16_is_refused():
    check_f16(torch.tensor([[65504.0, -65504.0]]), "0.output")
    for bad in (65505.0, float("inf"), float("nan")):
        with pytest.raises(ArtifactError, match=r"datastore.layer=0.output exceed"):
            check_f16(torch.tensor([[0.0, bad]]), "0.output")


@pytest.fixture
def aligned(tmp_path, tokens):
    """Make a tokens artifact and a datastore artifact from (values, positions)."""

    def make(values, positions):
        first, second = writer_at(tmp_path / "t"), writer_at(tmp_path / "d")
        first.write_array("train_tokens", tokens)
        second.write_array("values", np.asarray(values, np.uint32))
        second.write_array("positions", np.asarray(positions, np.int64))
        return seal(first, "tokens"), seal(second)

    return make


def test_alignment_of_datastore_and_stream(aligned, tokens):
    check_alignment(*aligned(tokens[1:], range(1, NUM_TOKENS)))


@pytest.mark.parametrize("fault", ["shifted", "short", "one value", "swapped", "from zero"])
def test_a_datastore_of_another_stream_is_refused(fault, aligned, tokens):
    values, positions = tokens[1:].copy(), np.arange(1, NUM_TOKENS)
    if fault == "shifted":
        values = np.roll(values, 1)
    if fault == "short":
        values, positions = values[:-1], positions[:-1]
    if fault == "one value":
        values[17] += 1
    if fault == "swapped":
        values[[3, 4]], positions[[3, 4]] = values[[4, 3]], positions[[4, 3]]
    if fault == "from zero":
        values, positions = tokens[:-1], positions - 1
    with pytest.raises(ArtifactError, match="do not follow corpus"):
        check_alignment(*aligned(values, positions))
