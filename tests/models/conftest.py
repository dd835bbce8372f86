"""Tiny tokenizers and random models; a few thousand parameters each."""

from collections.abc import Callable

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT = ["The licensee shall not sell the work. The work is provided as is, without warranty."]


def build_tokenizer(
    bos: str | None,
    eos: str | None,
    adds_bos: bool = False,
    specials: tuple[str, ...] = SPECIALS,
    merges_from: list[str] = TEXT,
) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; `adds_bos` puts BOS in front by a post-processor."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(merges_from, trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, model_max_length=8
    )


@pytest.fixture(scope="session")
def plain_tokenizer():
    """SmolLM2's way: a BOS token is named but never added."""
    return build_tokenizer("<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="session")
def bos_tokenizer():
    """Gemma's way: BOS in front of each text, no <|endoftext|>."""
    return build_tokenizer("<bos>", "<eos>", adds_bos=True, specials=("<pad>", "<eos>", "<bos>"))


def build_llama(seed: int, vocab_size: int = 53) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _build(transformers.LlamaForCausalLM, config, seed)


def build_gpt2(seed: int, vocab_size: int = 53) -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=40,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _build(transformers.GPT2LMHeadModel, config, seed)


def build_gemma3(seed: int, vocab_size: int = 53) -> transformers.PreTrainedModel:
    config = transformers.Gemma3TextConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,  # tied and random, it only repeats its last token
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return _build(transformers.Gemma3ForCausalLM, config, seed)


BUILDERS = {"llama": build_llama, "gpt2": build_gpt2, "gemma3": build_gemma3}


def _build(model_class: type, config: object, seed: int) -> transformers.PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(config).eval()


@pytest.fixture(params=sorted(BUILDERS))
def build_lm(request) -> Callable[..., transformers.PreTrainedModel]:
    """Each architecture in turn: (seed, vocab_size) -> model."""
    return BUILDERS[request.param]


@pytest.fixture
def llama() -> Callable[..., transformers.PreTrainedModel]:
    return build_llama


@pytest.fixture
def tokenizer_builder():
    return build_tokenizer
