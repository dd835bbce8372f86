"""The fused loss and its gradients against the paper's formula with a dense target, in float64.

Shape legend: N tokens, D width, V head outputs, M stored target entries.
"""

import pytest
import torch

from memdec.errors import ConfigError, DataError
from memdec.training import losses
from memdec.training.losses import memory_decoder_loss

N, D, V, M = 7, 5, 11, 3


@pytest.fixture(scope="module")
def slow(reference):
    return reference("loss").memory_decoder_loss


def draw(seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(N, D, generator=random, dtype=torch.float64)
    head_VD = torch.randn(V, D, generator=random, dtype=torch.float64)
    gold_N = torch.randint(0, V, (N,), generator=random)
    ids_NM = torch.stack([torch.randperm(V, generator=random)[:M] for _ in range(N)])
    probs_NM = torch.rand(N, M, generator=random, dtype=torch.float64)
    ids_NM[2, 1:], probs_NM[2, 1:] = 0, 0  # padding
    gold_N[3] = ids_NM[3, 0]  # the gold token is a target as well
    probs_NM /= probs_NM.sum(1, keepdim=True)
    return hidden_ND.to(dtype), head_VD.to(dtype), gold_N, ids_NM, probs_NM.to(dtype)


def run(hidden_ND, head_VD, *rest, scale=1.0):
    hidden_ND, head_VD = (x.clone().requires_grad_() for x in (hidden_ND, head_VD))
    loss, kl, nll = memory_decoder_loss(hidden_ND, head_VD, *rest)
    (loss * scale).backward()
    return [loss.detach(), kl, nll, hidden_ND.grad, head_VD.grad]


def assert_close(found, wanted, tolerance):
    for a, b in zip(found, wanted, strict=True):
        expected = torch.as_tensor(b, dtype=torch.float64)
        torch.testing.assert_close(a.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("chunk_logits", [1, 2 * V + 3, 10**6])
def test_it_agrees_with_the_paper(slow, beta, chunk_logits, monkeypatch):
    monkeypatch.setitem(losses._CHUNK_LOGITS, "cpu", chunk_logits)
    batch = draw()
    # float64 all along: rounding of sums of 11 terms
    assert_close(run(*batch, beta), slow(*(x.numpy() for x in batch), beta), 1e-12)


def test_float32_agrees_to_its_precision(slow):
    batch = draw(1, torch.float32)
    found = run(*batch, 0.4)
    assert {x.dtype for x in found} == {torch.float32}
    assert_close(found, slow(*(x.numpy() for x in batch), 0.4), 2e-6)


def test_autograd_agrees_with_numerical_derivatives():
    hidden_ND, head_VD, *rest = draw(2)
    grads = run(hidden_ND, head_VD, *rest, 0.6)[3:]
    for values, grad in zip((hidden_ND, head_VD), grads, strict=True):
        for place in [(0, 0), (2, 4), (6, 1)]:
            losses_beside = []
            for step in (1e-6, -2e-6):
                values[place] += step
                losses_beside.append(memory_decoder_loss(hidden_ND, head_VD, *rest, 0.6)[0])
            values[place] += 1e-6
            slope = (losses_beside[0] - losses_beside[1]) / 2e-6
            # central differences: error of the order of the step squared, and 1e-16 / step
            assert_close([slope], [grad[place]], 1e-8)


def test_bfloat16_autocast_keeps_the_softmax_in_float32(slow):
    hidden_ND, head_VD, *rest = draw(3, torch.float32)
    hidden_ND, head_VD = (x.bfloat16().float() for x in (hidden_ND, head_VD))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(hidden_ND, head_VD, *rest, 0.5)
    assert {x.dtype for x in found} == {torch.float32}
    wanted = slow(hidden_ND.numpy(), head_VD.numpy(), *(x.numpy() for x in rest), 0.5)
    # bfloat16 logits of size up to 8 are off by 0.016 each
    assert_close(found, wanted, 3e-2)


def test_a_bfloat16_model_gets_bfloat16_gradients():
    found = run(*draw(4, torch.bfloat16), 0.5)
    assert [x.dtype for x in found] == [torch.float32] * 3 + [torch.bfloat16] * 2


def test_the_gradient_follows_the_scale():
    batch = draw(5)
    once, thrice = run(*batch, 0.5), run(*batch, 0.5, scale=3.0)
    assert_close(thrice[3:], [3 * x for x in once[3:]], 1e-12)


def test_a_token_without_targets_has_no_kl(slow):
    hidden_ND, head_VD, gold_N, ids_NM, probs_NM = draw(6)
    probs_NM[4] = 0
    batch = hidden_ND, head_VD, gold_N, ids_NM, probs_NM
    for beta in (0.3, 1.0):
        assert_close(run(*batch, beta), slow(*(x.numpy() for x in batch), beta), 1e-12)


def test_beta_zero_needs_no_targets():
    hidden_ND, head_VD, gold_N, ids_NM, probs_NM = draw(7)
    without = run(hidden_ND, head_VD, gold_N, ids_NM[:, :0], probs_NM[:, :0], 0.0)
    assert without[1] == 0
    wanted = torch.nn.functional.cross_entropy(hidden_ND @ head_VD.T, gold_N)
    assert_close([without[0], without[2]], [wanted, wanted], 1e-12)


def test_kl_is_zero_when_the_memory_is_the_target():
    ids_NM = torch.arange(V).expand(N, V)
    hidden_ND, head_VD, gold_N, _, _ = draw(8)
    probs_NM = (hidden_ND @ head_VD.T).softmax(1)
    _, kl, _, grad_ND, _ = run(hidden_ND, head_VD, gold_N, ids_NM, probs_NM, 1.0)
    assert abs(kl) < 1e-12
    assert grad_ND.abs().max() < 1e-12


def test_a_frozen_head_gets_no_gradient():
    hidden_ND, head_VD, *rest = draw(9)
    hidden_ND.requires_grad_()
    memory_decoder_loss(hidden_ND, head_VD, *rest, 0.5)[0].backward()
    assert head_VD.grad is None
    assert_close([hidden_ND.grad], [run(hidden_ND.detach(), head_VD, *rest, 0.5)[3]], 1e-12)


def test_without_gradients_the_values_are_the_same():
    batch = draw(10)
    with torch.no_grad():
        found = memory_decoder_loss(*batch, 0.5)
    assert_close(found, run(*batch, 0.5)[:3], 0)


def test_only_the_loss_can_be_differentiated_and_only_once():
    hidden_ND, head_VD, *rest = draw(11)
    loss, kl, nll = memory_decoder_loss(hidden_ND.requires_grad_(), head_VD, *rest, 0.5)
    assert not kl.requires_grad
    assert not nll.requires_grad
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once per call"):
        loss.backward()


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_beta_must_be_a_share(beta):
    with pytest.raises(ConfigError, match=r"beta must be in \[0, 1\]"):
        memory_decoder_loss(*draw(), beta)


def test_shapes_must_agree():
    hidden_ND, head_VD, gold_N, ids_NM, probs_NM = draw()
    with pytest.raises(DataError, match=r"\[7, 5\], \[11, 5\], \[6\]"):
        memory_decoder_loss(hidden_ND, head_VD, gold_N[1:], ids_NM, probs_NM, 0.5)
    with pytest.raises(DataError, match="at least one token"):
        memory_decoder_loss(hidden_ND[:0], head_VD, gold_N[:0], ids_NM[:0], probs_NM[:0], 0.5)
