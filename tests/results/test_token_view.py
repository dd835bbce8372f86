import json
import math

import pytest

from memdec.results.record import Example, Token
from memdec.results.token_view import factor, largest_gains, level, percent, text_views


@pytest.mark.parametrize(
    ("factor_of_probability", "expected"),
    [(1.0, ""), (1.1, ""), (1.3, "h1"), (2.1, "h2"), (4.1, "h3"), (8.1, "h4"), (33, "h5")],
)
def test_colour_steps_are_powers_of_two_on_both_sides(factor_of_probability, expected):
    assert level(math.log(factor_of_probability)) == expected
    assert level(-math.log(factor_of_probability)) == expected.replace("h", "c")


def test_numbers_for_people():
    assert [percent(math.log(p)) for p in (0.674, 0.031, 0.0002, 1e-7)] == [
        "67%",
        "3.1%",
        "0.02%",
        "<0.01%",
    ]
    assert [factor(math.log(f)) for f in (1.23, 12.3, 1234)] == ["1.2", "12", "1,234"]


def test_the_largest_gains_come_first_and_rare_tokens_are_left_out():
    tokens = [
        Token(text=" a", lm=-3.0, mixture=-1.0),
        Token(text=" b", lm=-9.0, mixture=-4.0),  # gains most, but stays unlikely
        Token(text="\n", lm=-4.0, mixture=-0.5),
        Token(text=" c", lm=-0.5, mixture=-1.0),
    ]
    chips = largest_gains(Example(tokens=tokens))
    assert [chip.index for chip in chips] == [2, 0]
    assert chips[0].before == " a b"
    assert chips[0].text == "\u21b5"


def test_a_text_shows_gains_and_facts(make_record):
    tokens = [
        {"text": "</script>", "lm": -2.0, "mixture": -1.0, "lm_top": [["<b>", 0.5]]},
        {"text": " b", "lm": -1.0, "mixture": -1.5},
    ]
    records = [
        make_record(method="knn_lm", examples=[{"tokens": tokens[:1]}]),
        make_record(method="memory_decoder", seed=1, alpha=0.75, examples=[{"tokens": tokens}]),
        make_record(method="memory_decoder", seed=2, alpha=0.75, examples=[{"tokens": tokens}]),
        make_record(),
    ]
    (view,) = text_views(records)
    assert view.record_id == "toy-memory_decoder-s1-01234567"
    assert view.spans == [("h2", "</script>"), ("c1", " b")]
    assert view.helped == 0.5
    assert view.gain == pytest.approx(0.25)
    assert view.floor == pytest.approx(0.25)
    assert "<" not in view.facts
    assert json.loads(view.facts)[0] == [-2.0, -1.0, [["<b>", 0.5]], []]
