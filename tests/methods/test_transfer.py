"""A memory of another vocabulary in the place of the base's own."""

import pytest
import torch

from memdec.errors import ConfigError
from memdec.models.loading import load_causal_lm
from memdec.models.memory import load_memory
from memdec.pipeline.job import Job
from memdec.training.config import MemoryDecoderConfig, TrainerConfig

CPU = torch.device("cpu")
STANDS_STILL = TrainerConfig(
    learning_rate=1e-12, batch_size=6, micro_batch_size=3, max_steps=1, accelerator="cpu"
)


@pytest.fixture
def memory_of(tiny_experiment, tiny_model, tmp_path):
    """Transfer -> parameters, by name, of a Gemma memory trained (hardly) beside a Llama base."""

    def train(transfer):
        settings = MemoryDecoderConfig(
            init=str(tiny_model("gemma3")), transfer=transfer, beta=0.0, vocabulary="full"
        )
        experiment = tiny_experiment("llama", memory_decoder=settings, trainer=STANDS_STILL)
        export = Job(experiment, tmp_path).artifact("memory").path / "export"
        return dict(load_memory(export, "float32", CPU).lm.named_parameters())

    return train


def test_a_transfer_keeps_the_body_and_scratch_keeps_nothing(memory_of, tiny_model):
    old = dict(load_causal_lm(tiny_model("gemma3"), "float32", CPU).named_parameters())
    new = {transfer: memory_of(transfer) for transfer in ("copied", "random", "scratch")}
    rows = "model.embed_tokens.weight"
    body = [name for name in old if name.endswith("_proj.weight")]
    assert len(body) == 2 * 7
    for transfer, parameters in new.items():
        assert parameters.keys() == old.keys()
        for name in body:
            kept = torch.allclose(parameters[name], old[name], atol=1e-9)
            assert kept == (transfer != "scratch")
    assert new["copied"][rows].shape == new["random"][rows].shape == new["scratch"][rows].shape
    assert not torch.allclose(new["copied"][rows], new["random"][rows], atol=1e-3)


@pytest.mark.parametrize("init", ["base", "scratch"])
def test_a_transfer_of_what_has_the_bases_vocabulary_is_refused(init):
    with pytest.raises(
        ConfigError, match=rf"transfer is copied but memory_decoder\.init is {init}"
    ):
        MemoryDecoderConfig(init=init, transfer="copied")
