"""A whole run on a GPU against the same run on the CPU."""

import json
import shutil

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

FLOAT32 = ("model.device=cuda", "trainer.accelerator=gpu")
BFLOAT16 = (*FLOAT32, "model.dtype=bfloat16", "trainer.precision=bf16-mixed")


@pytest.mark.parametrize(("settings", "tolerance"), [(FLOAT32, 2e-3), (BFLOAT16, 3e-2)])
def test_every_stage_gives_the_numbers_of_the_cpu(finished, memdec, tmp_path, settings, tolerance):
    """Adam enlarges differences of rounding; bfloat16 has three digits."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    shutil.copy(finished / "tiny.yaml", folder)
    ended = memdec("run", "tiny.yaml", *settings, cwd=folder)
    assert ended.code == 0, ended.err
    on_cpu, on_gpu = perplexities(finished), perplexities(folder)
    assert on_gpu.keys() == on_cpu.keys()
    for method, value in on_gpu.items():
        assert value == pytest.approx(on_cpu[method], rel=tolerance), method


def perplexities(folder):
    paths = folder.glob("artifacts/runs/*/*/record.json")
    found = [json.loads(path.read_text()) for path in paths]
    return {record["method"]: record["metrics"]["test/perplexity"] for record in found}
