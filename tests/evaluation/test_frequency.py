import numpy as np
import pytest

from memdec.evaluation.frequency import frequency_metrics


def test_groups_by_hand():
    # token 0 stands 1,000 times in the training text, 1 twelve times, 2 once, 3 never
    train = np.repeat(np.uint32([0, 1, 2]), [1000, 12, 1])
    gold_N = np.uint32([0, 1, 1, 3, 0])
    base_N = np.float32([-1, -2, -4, -8, -3])
    method_N = np.float32([-0.5, -1, -3, -9, -2.5])
    found = frequency_metrics(method_N, base_N, gold_N, train)
    assert found == pytest.approx(
        {
            "test/share/seen_0": 0.2,
            "test/base_nll/seen_0": 8,
            "test/gain/seen_0": -1,
            "test/share/seen_10": 0.4,
            "test/base_nll/seen_10": 3,
            "test/gain/seen_10": 1,
            "test/share/seen_1000": 0.4,
            "test/base_nll/seen_1000": 2,
            "test/gain/seen_1000": 0.5,
        }
    )
    gains = sum(found[f"test/share/seen_{n}"] * found[f"test/gain/seen_{n}"] for n in (0, 10, 1000))
    assert gains == pytest.approx(np.mean(method_N - base_N))
