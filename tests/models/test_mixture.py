"""The mixture against float64 NumPy, and its edges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memdec.errors import ConfigError
from memdec.models.mixture import mix_log_probs

LOG_PROBS = st.floats(-80, 0, width=32) | st.just(-np.inf)


def reference(lm, memory, alpha):
    with np.errstate(divide="ignore"):
        return np.log((1 - alpha) * np.exp(np.float64(lm)) + alpha * np.exp(np.float64(memory)))


@given(
    pair=hnp.arrays(np.float32, (2, 5, 3), elements=LOG_PROBS),
    alpha=st.just(0.0) | st.floats(1e-30, 1),  # smaller ones underflow in the reference
)
def test_it_agrees_with_probabilities_mixed_in_float64(pair, alpha):
    lm, memory = torch.from_numpy(pair)
    mixed = mix_log_probs(lm, memory, alpha)
    assert mixed.dtype == torch.float32
    expected = reference(pair[0], pair[1], alpha)
    # f32 rounds each log at one part in 2**24; three operations follow one another.
    np.testing.assert_allclose(mixed.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("alpha", "side"), [(0, 0), (0.0, 0), (1, 1), (1.0, 1)])
def test_the_ends_are_exact_and_never_nan(alpha, side):
    pair = torch.tensor([[-1.1, -np.inf, -2.7, -np.inf], [-np.inf, -0.3, -9.1, -np.inf]])
    assert torch.equal(mix_log_probs(pair[0], pair[1], alpha), pair[side])


def test_one_half_by_hand():
    lm, memory = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.0, 1.0, 0.0]).log()
    mixed = mix_log_probs(lm, memory, 0.5)
    torch.testing.assert_close(mixed.exp(), torch.tensor([0.25, 0.625, 0.125]))


def test_alpha_may_be_a_tensor_of_shares():
    lm, memory = torch.randn(2, 5, 11).log_softmax(-1), torch.randn(2, 5, 11).log_softmax(-1)
    alpha_B11 = torch.tensor([0.0, 0.7])[:, None, None]
    mixed = mix_log_probs(lm, memory, alpha_B11)
    assert torch.equal(mixed[0], lm[0])
    torch.testing.assert_close(mixed[1], mix_log_probs(lm[1], memory[1], 0.7))
    torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(2, 5))


def test_a_memory_of_another_batch_shape_broadcasts():
    lm_TV, memory_V = torch.randn(5, 11).log_softmax(-1), torch.randn(11).log_softmax(-1)
    assert mix_log_probs(lm_TV, memory_V, 0.3).shape == (5, 11)


@pytest.mark.parametrize(
    ("given_dtype", "result"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2],
)
def test_sums_are_in_float32_or_better(given_dtype, result):
    lm = torch.tensor([-1.5, -3.0], dtype=given_dtype)
    assert mix_log_probs(lm, lm, 0.5).dtype == result


def test_float64_alpha_near_one_keeps_its_digits():
    lm, memory = torch.zeros(1, dtype=torch.float64), torch.tensor([-np.inf], dtype=torch.float64)
    mixed = mix_log_probs(lm, memory, 1 - 2**-40)
    assert mixed.item() == pytest.approx(-40 * np.log(2), abs=1e-12)


@pytest.mark.parametrize(
    "alpha", [-0.01, 1.01, float("nan"), 7, torch.tensor([0.5, 1.5]), torch.tensor([-1.0])]
)
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ConfigError, match=r"alpha must lie in \[0, 1\]"):
        mix_log_probs(torch.zeros(2), torch.zeros(2), alpha)
