"""Divergences and their gradients against dense formulas under autograd, in float64.

Shape legend: C tokens, V head outputs, M stored target entries.
"""

import math

import pytest
import torch

from memdec.training.config import DIVERGENCE_NAMES
from memdec.training.divergences import DIVERGENCES, SMOOTHING, Chunk
from memdec.training.losses import memory_decoder_loss

C, V, M = 6, 9, 4


def draw():
    random = torch.Generator().manual_seed(0)
    logits_CV = 2 * torch.randn(C, V, generator=random, dtype=torch.float64)
    ids_CM = torch.stack([torch.randperm(V, generator=random)[:M] for _ in range(C)])
    probs_CM = torch.rand(C, M, generator=random, dtype=torch.float64)
    ids_CM[1, 2:], probs_CM[1, 2:] = 0, 0  # padding
    probs_CM /= probs_CM.sum(1, keepdim=True)
    probs_CM[4] = 0  # no target
    beta_C = torch.rand(C, generator=random, dtype=torch.float64)
    return logits_CV, torch.randint(0, V, (C,), generator=random), ids_CM, probs_CM, beta_C


def dense(name, logits_CV, ids_CM, probs_CM):
    q_CV = logits_CV.softmax(1)
    p_CV = torch.zeros_like(q_CV).scatter_add(1, ids_CM, probs_CM)
    if name == "reverse_kl":
        p_CV = (1 - SMOOTHING) * p_CV + SMOOTHING / V
        values_C = (q_CV * (q_CV / p_CV).log()).sum(1)
    elif name == "jsd":
        m_CV = (p_CV + q_CV) / 2
        kl_pm_CV = torch.xlogy(p_CV, p_CV) - p_CV * m_CV.log()
        values_C = (kl_pm_CV + q_CV * (q_CV / m_CV).log()).sum(1) / 2
    else:
        values_C = (torch.xlogy(p_CV, p_CV) - p_CV * q_CV.log()).sum(1)
    return torch.where(probs_CM.sum(1) > 0, values_C, 0.0)


@pytest.mark.parametrize("name", DIVERGENCE_NAMES)
def test_values_and_gradients(name):
    logits_CV, gold_C, ids_CM, probs_CM, beta_C = draw()
    logits_CV.requires_grad_()
    wanted_C = dense(name, logits_CV, ids_CM, probs_CM)
    nll_C = torch.nn.functional.cross_entropy(logits_CV, gold_C, reduction="none")
    (beta_C * wanted_C + (1 - beta_C) * nll_C).sum().backward()
    chunk, log_q_CV = (
        Chunk(gold_C, ids_CM, probs_CM, beta_C),
        logits_CV.detach().log_softmax(1),
    )
    found_C1 = DIVERGENCES[name].values(log_q_CV, chunk)
    torch.testing.assert_close(found_C1[:, 0], wanted_C.detach())
    factor_C1, grad_CV = DIVERGENCES[name].gradient(log_q_CV, chunk, found_C1)
    torch.testing.assert_close(factor_C1 * grad_CV, logits_CV.grad)


def test_a_jensen_shannon_divergence_by_hand():
    """Between (1, 0) and (1/2, 1/2): m = (3/4, 1/4)."""
    one = torch.ones(1, dtype=torch.float64)
    chunk = Chunk(torch.tensor([0]), torch.tensor([[0]]), one[:, None], one)
    found = DIVERGENCES["jsd"].values(torch.full((1, 2), math.log(0.5), dtype=torch.float64), chunk)
    wanted = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert found.item() == pytest.approx(wanted)


def test_the_names_are_those_of_the_configuration():
    assert tuple(DIVERGENCES) == DIVERGENCE_NAMES


@pytest.mark.parametrize("name", DIVERGENCE_NAMES)
def test_the_loss_weighs_each_token_by_its_own_beta(name):
    _, gold_C, ids_CM, probs_CM, beta_C = draw()
    random = torch.Generator().manual_seed(1)
    hidden_CD = torch.randn(C, 3, generator=random, dtype=torch.float64, requires_grad=True)
    head_VD = torch.randn(V, 3, generator=random, dtype=torch.float64)
    batch = hidden_CD, head_VD, gold_C, ids_CM, probs_CM, beta_C, name
    loss, divergence, nll = memory_decoder_loss(*batch)
    loss.backward()
    slow_CD = hidden_CD.detach().clone().requires_grad_()
    logits_CV = slow_CD @ head_VD.T
    values_C = dense(name, logits_CV, ids_CM, probs_CM)
    nll_C = torch.nn.functional.cross_entropy(logits_CV, gold_C, reduction="none")
    wanted = (beta_C * values_C + (1 - beta_C) * nll_C).mean()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(divergence, values_C.mean())
    torch.testing.assert_close(nll, nll_C.mean())
    torch.testing.assert_close(hidden_CD.grad, slow_CD.grad)
