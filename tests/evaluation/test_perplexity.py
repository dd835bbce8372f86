"""Shape legend: N scored tokens, D documents."""

import math

import numpy as np
import pytest

from memdec.errors import DataError
from memdec.evaluation.perplexity import (
    LEAST_DOCUMENTS,
    document_totals,
    paired_bootstrap,
    perplexity_metrics,
)


def test_hand_worked_metrics():
    # 1/2, 1/8, 1/2, 1/2: 6 bits, over 4 tokens and 3 bytes
    metrics = perplexity_metrics(np.log(np.float32([0.5, 0.125, 0.5, 0.5])), num_bytes=3)
    assert metrics["num_tokens"] == 4
    assert metrics["nll"] == pytest.approx(6 * math.log(2) / 4)
    assert metrics["perplexity"] == pytest.approx(2**1.5)
    assert metrics["bits_per_byte"] == pytest.approx(2.0)


def test_many_tokens_are_summed_without_loss():
    metrics = perplexity_metrics(np.full(3_000_000, -0.1, np.float32), num_bytes=1)
    assert metrics["nll"] == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_a_token_of_probability_zero_has_no_perplexity():
    with pytest.raises(DataError, match=r"1 of 2 scored tokens have probability 0.*alpha below 1"):
        perplexity_metrics(np.array([-1.0, -np.inf]), num_bytes=1)


def test_a_model_without_numbers_has_no_perplexity():
    with pytest.raises(DataError, match=r"1 of 2 scored tokens have no probability \(NaN\)"):
        perplexity_metrics(np.array([-1.0, np.nan]), num_bytes=1)


def test_no_token_is_refused():
    with pytest.raises(DataError, match="no token"):
        perplexity_metrics(np.array([]), num_bytes=1)


def test_documents_own_the_tokens_from_their_start_on():
    # positions 0 1 2 | 3 4 | 5 | 6 7; position 0 is not scored
    totals_D, counts_D = document_totals(
        np.float32([-1, -2, -4, -8, -16, -32, -64]), np.array([0, 3, 5, 6])
    )
    assert totals_D.tolist() == [3, 12, 16, 96]
    assert counts_D.tolist() == [2, 2, 1, 2]


def test_a_document_cut_off_after_its_first_token_has_no_scored_token():
    totals_D, counts_D = document_totals(np.float32([-1, -2]), np.array([0, 1, 2]))
    assert (totals_D.tolist(), counts_D.tolist()) == ([0, 1, 2], [0, 1, 1])


def slow_bootstrap(method_D, base_D, counts_D, num_samples, seed):
    """Resample documents one by one in plain Python."""
    generator = np.random.default_rng(seed)
    perplexities, ratios = [], []
    for _ in range(num_samples):
        picked = generator.integers(len(counts_D), size=len(counts_D))
        tokens = sum(counts_D[d] for d in picked)
        nll = sum(method_D[d] for d in picked) / tokens
        base = sum(base_D[d] for d in picked) / tokens
        perplexities.append(math.exp(nll))
        ratios.append(math.exp(nll) / math.exp(base))
    return np.percentile(perplexities, [2.5, 97.5]), np.percentile(ratios, [2.5, 97.5])


def test_the_bootstrap_agrees_with_resampling_one_by_one():
    generator = np.random.default_rng(2)
    counts_D = generator.integers(5, 60, 30)
    base_D = counts_D * generator.normal(3.0, 0.5, 30)
    method_D = base_D - counts_D * generator.normal(0.3, 0.05, 30)
    found = paired_bootstrap(method_D, {"base": base_D}, counts_D, 4000, seed=1)
    perplexity, ratio = slow_bootstrap(method_D, base_D, counts_D, 4000, seed=7)
    # two Monte Carlo runs of 4000 agree to about 2% of the value
    assert found["test/perplexity"] == pytest.approx(perplexity, rel=0.02)
    assert found["test/perplexity_ratio_to_base"] == pytest.approx(ratio, rel=0.005)


def test_the_pairing_cancels_what_both_share():
    counts_D = np.full(LEAST_DOCUMENTS, 4)
    base_D = np.linspace(1.0, 30.0, LEAST_DOCUMENTS)
    others = {"base": base_D, "twin": base_D - 4 * 0.5}
    found = paired_bootstrap(base_D - 4 * 0.5, others, counts_D, 200, seed=0)
    assert found["test/perplexity_ratio_to_base"] == pytest.approx([math.exp(-0.5)] * 2)
    assert found["test/perplexity_ratio_to_twin"] == [1, 1]
    low, high = found["test/perplexity"]
    assert high > 1.5 * low


def test_few_documents_give_no_interval():
    few = np.ones(LEAST_DOCUMENTS - 1)
    assert paired_bootstrap(few, {"base": few}, few.astype(int), 100, seed=1) == {}


def test_the_seed_decides():
    totals_D = np.linspace(1.0, 9.0, 12)
    arguments = (totals_D, {"base": totals_D[::-1]}, np.arange(2, 14), 100)
    assert paired_bootstrap(*arguments, seed=1) == paired_bootstrap(*arguments, seed=1)
    assert paired_bootstrap(*arguments, seed=1) != paired_bootstrap(*arguments, seed=2)
