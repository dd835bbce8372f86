"""Goals, the law of growth, processes of their own."""

import pytest

from memdec.bench.child import in_child, peak_extra_bytes
from memdec.bench.clock import in_turns
from memdec.bench.figures import Figure, Goal, seconds_figure
from memdec.bench.growth_law import extrapolated_grid, fit_law
from memdec.bench.load import Load
from memdec.datastore.search_config import SearchConfig
from memdec.errors import MemdecError


def figure(ours, plain, *goals):
    return Figure(name="x", unit="s", ours=ours, plain=plain, plain_is="slow", goals=goals)


def test_a_goal_is_missed_by_a_share_of_its_limit():
    at_most = Goal(number=2, limit=0.6)
    assert at_most.missed_by(0.5) == at_most.missed_by(0.6) == 0
    assert at_most.missed_by(0.75) == pytest.approx(0.25)
    at_least = Goal(number=4, limit=0.9, at_least=True)
    assert at_least.missed_by(0.95) == at_least.missed_by(0.9) == 0
    assert at_least.missed_by(0.45) == pytest.approx(0.5)


def test_a_goal_speaks_of_the_ratio_or_of_ours():
    facts = figure(
        3.0, 6.0, Goal(number=2, limit=0.6), Goal(number=5, of="ours", limit=1.0)
    ).to_json(gemm_gflops=1.0)
    assert facts["ratio"] == 0.5
    assert [goal["measured"] for goal in facts["goals"]] == [0.5, 3.0]
    assert [goal["reached"] for goal in facts["goals"]] == [True, False]
    assert [goal["missed_by"] for goal in facts["goals"]] == [0, 2.0]
    assert [goal["limit"] for goal in facts["goals"]] == ["ratio <= 0.6", "ours <= 1"]


def test_a_figure_of_timings_takes_medians():
    made = seconds_figure("x", ([9.0, 1.0, 2.0], [4.0, 400.0, 5.0]), "slow")
    assert (made.ours, made.plain) == (2.0, 5.0)


def test_sides_are_timed_in_turns_after_a_run_of_each():
    calls = []
    samples = in_turns(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3)
    assert "".join(calls) == "abababab"
    assert [len(side) for side in samples] == [3, 3]


def cost(sizes, linear, square):
    return [(linear * n + square * n * n, 40 * n) for n in sizes]


@pytest.mark.parametrize(("linear", "square"), [(2e-3, 3e-6), (0.0, 3e-6), (2e-3, 0.0)])
def test_a_law_is_found_again(linear, square):
    sizes = (100, 200, 400, 800)
    law = fit_law(sizes, cost(sizes, linear, square))
    assert law.linear == pytest.approx(linear, abs=1e-12)
    assert law.square == pytest.approx(square, abs=1e-12)
    assert law.num_bytes == 40


def test_a_law_never_has_a_negative_part():
    sizes = (100, 200, 400, 800)
    growing = fit_law(sizes, [(n**3.0, n) for n in sizes])
    shrinking = fit_law(sizes, [(n**0.5, n) for n in sizes])
    assert growing.linear == 0
    assert growing.square > 0
    assert shrinking.linear > 0
    assert shrinking.square == 0


def test_an_extrapolation_by_hand():
    law = fit_law((10, 20), cost((10, 20), 0.0, 1e-12))
    row, index = extrapolated_grid({"search": law}, 576, 1024, 1e9).rows
    assert row[3] == pytest.approx(1e-12 * 117e6**2 / 3600)
    assert row[4] == 117_000_000 * 40
    assert row[5] == pytest.approx(1e-12 * 500e6**2 / 3600)
    counted = SearchConfig(method="ivf_pq").flops(117_000_000, 576, 1024)
    assert index[3] == pytest.approx(counted / 1e9 / 3600)
    assert index[4] == row[4]


def test_a_process_of_its_own_answers_plain_data():
    answer = in_child("builtins:dict", [["a", 1]])
    assert answer == {"a": 1}


def test_a_process_that_fails_says_why():
    with pytest.raises(MemdecError, match=r"builtins:int ended with 1: ValueError: .*'no number'"):
        in_child("builtins:int", "no number")


def test_a_peak_of_memory_counts_what_was_let_go():
    held = bytearray(b"x") * (10 << 20)  # in use before: not counted
    extra = peak_extra_bytes(lambda: len(bytearray(b"y") * (60 << 20)))
    # The kernel's count lags by some pages, and pages let go before may be used again.
    assert 58 << 20 <= extra < 64 << 20
    assert len(held) == 10 << 20
    assert peak_extra_bytes(lambda: None) < 4 << 20


def test_the_share_of_others_leaves_ours_out(monkeypatch):
    counters = iter([(100.0, 7.0), (110.0, 15.0)])  # 10 s used by the machine, 8 s by us
    monkeypatch.setattr("memdec.bench.load._counters", lambda: next(counters))
    assert Load().others_share() == pytest.approx(0.2)


def test_the_share_of_others_is_a_share():
    load = Load()
    sum(range(10**6))
    assert 0 <= load.others_share() <= 1
