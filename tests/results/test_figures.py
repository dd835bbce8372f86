import math
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from memdec.results.figures import figures_of
from memdec.results.specs import Column, Selector, TableSpec
from memdec.results.svg import CHARACTER, WIDTH, Axis, Chart, short, side_by_side, standalone
from memdec.results.tables import build_tables

ALPHA = {
    "alpha": [0.0, 0.5, 1.0],
    "test/perplexity": [20.0, 15.0, None],
    "validation/perplexity": [21.0, 16.0, 30.0],
}
TRAINING = {"step": [1, 2, 3], "train/loss": [3.0, 2.0, 1.5], "train/kl": [2.0, 1.5, 1.0]}


@pytest.fixture
def records(make_record):
    return [
        make_record(20.0),
        make_record(
            15.0,
            method="memory_decoder",
            label="Memory <Decoder>",
            alpha=0.5,
            intervals={"test/perplexity": [14.0, 16.0]},
            budget={"parameters": 2000, "seconds": 99.0},
            curves={"alpha": ALPHA, "training": TRAINING},
        ),
    ]


def figures(spec, records):
    (table,) = build_tables(spec, records, {})
    return {figure.name: figure for figure in figures_of(table)}


def plain(**changes):
    columns = [Column(label="Test perplexity", interval=True)]
    return TableSpec(**({"name": "toy", "title": "Toy", "columns": columns} | changes))


def test_a_table_gives_its_five_figures(records, make_record):
    third = make_record(17.0, method="lora", budget={"parameters": 1500, "seconds": 50.0})
    assert list(figures(plain(), [*records, third])) == [
        "toy-small-dots-test-perplexity",
        "toy-small-alpha-toy",
        "toy-small-training-toy",
        "toy-small-seconds-test-perplexity",
        "toy-small-parameters-test-perplexity",
    ]


def test_each_figure_is_well_formed_and_the_same_every_time(records):
    first, second = figures(plain(), records), figures(plain(), records)
    for name, figure in first.items():
        assert figure.svg == second[name].svg
        root = ElementTree.fromstring(standalone(figure.svg, "remark").split("\n", 1)[1])
        assert root.tag.endswith("svg")
        assert "nan" not in figure.svg.lower()
        assert "<Decoder>" not in figure.svg


def test_the_alpha_curve_marks_the_chosen_alpha_and_the_base(records):
    svg = figures(plain(), records)["toy-small-alpha-toy"].svg
    assert "alpha 0.50 gives 15.00" in svg
    assert "base 20.00" in svg
    test_line = re.search(r'<polyline class="s1 line" points="([^"]*)"', svg)
    assert test_line
    assert len(test_line[1].split()) == 2  # the infinite point is left out


def test_two_rows_of_one_method_are_drawn_apart_and_named_by_their_rows(records, make_record):
    """The variant with the lowest record id once stood for both."""
    gated, plain_loss = (
        make_record(
            value,
            method="memory_decoder",
            label="Memory Decoder",
            alpha=0.5,
            fingerprint=name,
            config={"memory_decoder": {"gating": gating}},
            budget={"parameters": 2000, "seconds": value},
            curves={"alpha": ALPHA, "training": TRAINING},
        )
        for name, gating, value in (("0" * 8, "none", 17.0), ("1" * 8, "gold", 13.0))
    )
    field = "config.memory_decoder.gating"
    rows = [
        Selector(label="Base", where={"method": "base"}),
        Selector(label="+ paper's loss", where={field: "none"}),
        Selector(label="+ gated", where={field: "gold"}),
    ]
    found = figures(plain(rows=rows), [records[0], gated, plain_loss])
    alpha = found["toy-small-alpha-toy"].svg
    assert "paper&#x27;s loss 17.00" in alpha
    assert "gated 13.00" in alpha
    assert len(set(re.findall(r'class="(s[1-8]) line"', alpha))) == 2
    assert found["toy-small-training-toy"].title == "Training of gated"
    seconds = found["toy-small-seconds-test-perplexity"].svg
    assert "gated: 13.00 at 13 seconds" in seconds
    assert "paper&#x27;s loss: 17.00 at 17 seconds" in seconds


def test_a_curve_over_alpha_shows_one_seed_that_most_rows_have(make_record):
    def run(method, value, seed):
        return make_record(value, method=method, seed=seed, alpha=0.5, curves={"alpha": ALPHA})

    runs = [run("knn_lm", 15.0, 0), run("knn_lm", 16.0, 1), run("memory_decoder", 18.0, 1)]
    figure = figures(plain(), [make_record(20.0), make_record(21.0, seed=1), *runs])[
        "toy-small-alpha-toy"
    ]
    assert figure.caption.endswith("Seed 1 alone.")
    for words in ("base 21.00", "knn_lm 16.00", "memory_decoder 18.00"):
        assert words in figure.svg
    assert "15.00" not in figure.svg


def test_of_many_curves_over_alpha_those_that_hardly_mix_are_left_out(make_record):
    alphas = [0.5] * 2 + [0.001] * 6 + [0.5] * 4
    runs = [
        make_record(
            10.0 + place,
            method="memory_decoder",
            alpha=alpha,
            fingerprint=f"{place:08d}",
            config={"memory_decoder": {"beta": place}},
            curves={"alpha": ALPHA},
        )
        for place, alpha in enumerate(alphas)
    ]
    field = "config.memory_decoder.beta"
    rows = [Selector(label=f"row {place}", where={field: place}) for place in range(len(alphas))]

    def drawn(count):
        figure = figures(plain(rows=rows), runs[:count]).get("toy-small-alpha-toy")
        if figure is None:
            return None
        marks = re.findall(r'class="(s\d+) dot"[^>]*><title>(row \d+):', figure.svg)
        assert len({style for style, _ in marks}) == len(marks)
        return [name for _, name in marks], "below 0.01 is left out" in figure.caption

    assert drawn(9) == ([f"row {place}" for place in range(9)], False)
    useful = [place for place, alpha in enumerate(alphas) if alpha > 0.01]
    assert drawn(12) == ([f"row {place}" for place in useful], True)
    runs = [replace(run, alpha=0.5) for run in runs]
    assert drawn(12) is None  # still too many


def test_a_row_has_one_style_in_every_figure(records, make_record):
    variants = [
        make_record(
            value,
            method="memory_decoder",
            alpha=0.5,
            fingerprint=f"{value:08.0f}",
            config={"memory_decoder": {"beta": value}},
            budget={"parameters": value, "seconds": value},
            curves={"alpha": ALPHA},
        )
        for value in (16.0, 17.0)
    ]
    field = "config.memory_decoder.beta"
    rows = [Selector(label="Base", where={"method": "base"})]
    rows += [
        Selector(label=f"beta {value}", where={"method": "memory_decoder", field: value})
        for value in (16.0, 17.0)
    ]
    found = figures(plain(rows=rows), [records[0], *variants])
    for kind in ("dots", "seconds", "parameters"):
        svg = found[f"toy-small-{kind}-test-perplexity"].svg
        assert re.findall(r'class="(s\d+) dot"[^>]*><title>beta 17', svg) == ["s2"], kind
    assert 's2 dot" transform' in found["toy-small-alpha-toy"].svg


def test_a_long_name_goes_on_in_a_second_line_inside_the_drawing(records):
    long = "Gated by gold, with targets of the whole kNN-LM, from: dapt"
    rows = [
        Selector(label="Base", where={"method": "base"}),
        Selector(label=long, where={"method": "memory_decoder"}),
    ]
    svg = figures(plain(rows=rows), records)["toy-small-dots-test-perplexity"].svg
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="end">([^<]*)<', svg)
    words = {float(y): text for _, y, text in found}
    base, top, bottom = sorted(words)
    assert words[base] == "Base"
    assert f"{words[top]} {words[bottom]}" == long
    assert bottom - top == 15
    assert all(float(x) - CHARACTER * len(text) > 0 for x, _, text in found)


def test_names_of_many_lines_stand_clear_of_each_other(make_record):
    names = [f"{letter}{' and a word more' * 7}" for letter in "ABCDEFGHIJ"]
    records = [make_record(20.0 + i, method=name[0].lower()) for i, name in enumerate(names)]
    rows = [Selector(label=name, where={"method": name[0].lower()}) for name in names]
    svg = figures(plain(rows=rows), records)["toy-small-dots-test-perplexity"].svg
    found = re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="end">([A-Za-z ]+)<', svg)
    lines = sorted((float(y), text) for y, text in found)
    assert len(lines) == 40  # four lines a name
    assert " ".join(text for _, text in lines) == " ".join(names)
    assert min(b[0] - a[0] for a, b in pairwise(lines)) > 14.9


def test_a_long_legend_stands_above_the_axes():
    axis = Axis(low=0, high=1, label="")
    chart = Chart(title="t", x=axis, y=axis, legend=[("s1", "dot", "x" * 50)] * 5)
    top = re.search(r'viewBox="0 (-?\d+) ', chart.svg())
    rows = [int(y) for y in re.findall(r'<text x="34.0" y="(-?\d+)">x', chart.svg())]
    assert top
    assert len(rows) == 5
    assert int(top[1]) < rows[0] - 10
    assert rows[-1] < 44  # where the axes begin


def test_rows_of_a_setting_make_a_curve(make_record):
    records = [
        make_record(
            16 + beta,
            method="memory_decoder",
            fingerprint=f"{i:08x}",
            config={"memory_decoder": {"beta": beta}},
        )
        for i, beta in enumerate([1.0, 0.0, 0.5])
    ]
    field = "config.memory_decoder.beta"
    rows = [
        Selector(label=str(beta), where={"method": "memory_decoder", field: beta})
        for beta in (0.5, 0.0, 1.0)
    ]
    found = figures(plain(curve=field, rows=rows), records)
    (figure,) = found.values()
    line = re.search(r'<polyline class="s1 line" points="([^"]*)"', figure.svg)
    assert line
    xs = [float(point.split(",")[0]) for point in line[1].split()]
    assert xs == sorted(xs)
    assert len(xs) == 3


def test_a_curve_has_a_bar_where_seeds_differ(make_record):
    records = [
        make_record(
            value, method="memory_decoder", seed=seed, config={"memory_decoder": {"beta": b}}
        )
        for b, values in ((0.0, (15.0, 17.0)), (1.0, (18.0, 18.0)))
        for seed, value in enumerate(values)
    ]
    field = "config.memory_decoder.beta"
    rows = [Selector(where={"method": "memory_decoder", field: beta}) for beta in (0.0, 1.0)]
    (figure,) = figures(plain(curve=field, rows=rows), records).values()
    bars = re.findall(r'class="s1 span" x1="(\S+)" y1="(\S+)" x2="(\S+)" y2="(\S+)"', figure.svg)
    (x1, low, x2, high), flat = [[float(number) for number in bar] for bar in bars]
    assert x1 == x2
    assert flat[1] == flat[3]
    mean, other = map(float, re.findall(r"translate\(\S+ (\S+)\)\"><title>", figure.svg))
    assert low - mean == pytest.approx(mean - high, abs=0.2)  # 16 with 1.41 on either side
    assert (low - mean) / (mean - other) == pytest.approx(2**0.5 / 2, abs=0.02)
    assert figure.caption.startswith("Bars:")


def test_nothing_measured_gives_no_figure():
    assert figures(plain(), []) == {}


def test_a_point_lies_where_its_value_says():
    chart = Chart(title="t", x=Axis(low=0, high=10, label=""), y=Axis(low=0, high=2, label=""))
    left, bottom = chart.at((0, 0))
    right, top = chart.at((10, 2))
    middle = chart.at((5, 1))
    assert float(middle[0]) == pytest.approx((float(left) + float(right)) / 2, abs=0.1)
    assert float(middle[1]) == pytest.approx((float(bottom) + float(top)) / 2, abs=0.1)
    assert float(top) < float(bottom)


def test_axes_have_round_ticks_inside_their_range():
    assert Axis(low=0, high=1, label="").ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Axis(low=1, high=100, label="", log=True).ticks() == [1, 2, 5, 10, 20, 50, 100]
    narrow = Axis.around([1.0, 2.0, 4.0], "", log=True)
    assert narrow.ticks() == [1, 2, 3, 4]  # none of the points without its number
    assert Axis(low=10, high=1000, label="", log=True).share(100) == pytest.approx(0.5)
    for low, high in ((14.2, 14.9), (3e5, 9e8), (1e-3, 2e-3)):
        ticks = Axis.around([low, high], "", log=high / low > 10).ticks()
        assert 2 <= len(ticks) <= 12
        assert all(math.isfinite(tick) for tick in ticks)


def test_one_value_alone_still_has_an_axis():
    for value in (5.0, 0.0):
        axis = Axis.around([value], "")
        assert axis.low < value < axis.high


def test_ticks_are_short():
    assert [short(x) for x in (0.4, 16.0, 1500, 20000, 135e6, 2e9)] == [
        "0.4",
        "16",
        "1500",
        "20k",
        "135M",
        "2B",
    ]


def test_a_long_legend_goes_on_in_a_row_of_its_own():
    chart = Chart(title="t", x=Axis(low=0, high=1, label="x"), y=Axis(low=0, high=1, label="y"))
    chart.legend = [(f"s{i}", "dot", "a name of some length") for i in range(4)]
    texts = re.findall(r'<text x="([\d.]+)" y="(\d+)">a name', chart.svg())
    assert len({y for _, y in texts}) == 2
    assert max(float(x) for x, _ in texts) + 8 * len("a name of some length") <= WIDTH


def test_lines_of_one_method_are_told_apart(make_record):
    field = "config.knn.k"
    records = [
        make_record(
            15.0 + k + share,
            method="memory_decoder",
            fingerprint=f"{k}{int(share * 10):07d}",
            config={"knn": {"k": k, "lm_share": share}},
        )
        for k in (1, 2)
        for share in (0.0, 0.5)
    ]
    groups = [
        Selector(label=f"share {share}", where={"config.knn.lm_share": share})
        for share in (0.0, 0.5)
    ]
    rows = [Selector(by=field, label="k = {value}", where={"method": "memory_decoder"})]
    (drawn,) = figures(plain(curve=field, rows=rows, groups=groups), records).values()
    assert len(set(re.findall(r'<polyline class="(\w+) line"', drawn.svg))) == 2


def test_a_row_without_the_setting_is_a_line_across(make_record):
    field = "config.knn.k"
    records = [
        make_record(15.0 + k, method="memory_decoder", fingerprint=f"{k:08x}", config=config)
        for k, config in enumerate([{"knn": {}}, {"knn": {"k": 1}}, {"knn": {"k": 4}}])
    ]
    rows = [
        Selector(label="plain", where={"method": "memory_decoder", field: None}),
        Selector(by=field, where={"method": "memory_decoder"}),
    ]
    (drawn,) = figures(plain(curve=field, rows=rows), records).values()
    across = re.search(r'<polyline class="s0 dash" points="([\d.]+),([\d.]+) ([\d.]+),', drawn.svg)
    assert across
    assert float(across[1]) == 58  # from the left end of the axes ...
    assert float(across[3]) == 560 - 18  # ... to the right
    marks = [float(y) for y in re.findall(r"translate\([\d.]+ ([\d.]+)\)\"><title>", drawn.svg)]
    assert float(across[2]) > max(marks)  # 15 is below 16 and 17
    assert ">plain: 15.00<" in drawn.svg


@pytest.mark.parametrize(
    ("field", "lengths"),
    [("config.trainer.max_epochs", [4, 4]), ("config.knn.k", [2, 2, 4, 4])],
)
def test_where_rows_are_epochs_the_longest_validation_of_each_group_is_drawn(
    make_record, field, lengths
):
    heights = [20.0, 18.0, 19.0, 21.0]
    records = [
        make_record(
            15.0 + epochs,
            method="memory_decoder",
            fingerprint=f"{epochs}{beta:07d}",
            config={
                "trainer": {"max_epochs": epochs},
                "memory_decoder": {"beta": beta},
                "knn": {"k": epochs},
            },
            curves={
                "validation": {
                    "step": [10.0 * n for n in range(1, epochs + 1)],
                    "validation/perplexity": heights[:epochs],
                }
            },
        )
        for epochs in (1, 2, 4)
        for beta in (0, 1)
    ]
    groups = [
        Selector(label=f"beta {beta}", where={"config.memory_decoder.beta": beta})
        for beta in (0, 1)
    ]
    rows = [  # the longest is neither first nor last
        Selector(label=f"row {value}", where={"method": "memory_decoder", field: value})
        for value in (2, 4, 1)
    ]
    found = figures(plain(curve=field, rows=rows, groups=groups), records)
    (drawn,) = [figure for name, figure in found.items() if "-validation-" in name]
    lines = re.findall(r'<polyline class="\w+ line" points="([^"]*)"', drawn.svg)
    assert sorted(len(line.split()) for line in lines) == lengths
    assert "21.00 after 40 steps" in drawn.svg
    assert ("Of each group the longest run." in drawn.caption) == (len(lengths) == 2)


def test_seconds_of_two_machines_are_not_compared(make_record):
    provenance = make_record(16.0).provenance
    other = replace(provenance, hardware={**provenance.hardware, "cpu": "Another"})
    records = [
        make_record(16.0, budget={"seconds": 10.0, "parameters": 1.0}),
        make_record(15.0, method="knn_lm", budget={"seconds": 20.0, "parameters": 2.0}),
        make_record(14.0, method="lora", budget={"seconds": 30.0, "parameters": 3.0}),
    ]
    assert [name for name in figures(plain(), records) if "-seconds-" in name]
    records[1] = replace(records[1], provenance=other)
    found = figures(plain(), records)
    assert not [name for name in found if "-seconds-" in name]
    assert [name for name in found if "-parameters-" in name]


def test_a_figure_of_costs_needs_three_that_differ(make_record):
    records = [
        make_record(16.0, method=method, budget={"seconds": seconds, "parameters": parameters})
        for method, seconds, parameters in (
            ("base", 10.0, 134_515_008),
            ("lora", 20.0, 268_792_128),
            ("memory_decoder", 30.0, 269_030_016),
        )
    ]
    found = figures(plain(), records)
    assert "toy-small-seconds-test-perplexity" in found
    assert "toy-small-parameters-test-perplexity" not in found


@pytest.mark.parametrize(("rows", "drawn"), [(10, True), (11, False)])
def test_costs_of_more_rows_than_marks_are_not_drawn(make_record, rows, drawn):
    records = [
        make_record(16.0, method=f"m{n}", budget={"seconds": n + 10.0, "parameters": 1.0})
        for n in range(rows)
    ]
    assert ("toy-small-seconds-test-perplexity" in figures(plain(), records)) == drawn


def test_one_validation_is_no_curve(make_record):
    curves = {"validation": {"step": [10.0], "validation/perplexity": [20.0]}}
    found = figures(plain(), [make_record(15.0, method="memory_decoder", curves=curves)])
    assert not [name for name in found if "-validation-" in name]


def test_one_step_of_training_is_no_curve(make_record):
    for steps in ([0, 0], [0, 1]):  # two parts of a batch, or two batches
        curves = {"training": {"step": steps, "train/loss": [3.0, 2.0]}}
        found = figures(plain(), [make_record(15.0, method="memory_decoder", curves=curves)])
        assert any("-training-" in name for name in found) == (steps == [0, 1])


def test_drawings_side_by_side_stand_on_one_line():
    def drawn(num_words):
        axis = Axis(low=0, high=1, label="")
        legend = [("s1", "dot", "w" * 60)] * num_words  # a row each
        return Chart(title="<a>", x=axis, y=axis, legend=legend).svg()

    whole = ElementTree.fromstring(side_by_side([drawn(1), drawn(4), drawn(3)], "<both>"))
    inner = [part for part in whole if part.tag.endswith("}svg")]
    boxes = [[part.get(key) for key in ("x", "y", "width", "height", "viewBox")] for part in inner]
    assert boxes == [
        ["0", "40", "560", "340", "0 0 560 340"],
        ["560", "0", "560", "380", "0 -40 560 380"],
        ["0", "380", "560", "360", "0 -20 560 360"],
    ]
    assert (whole.get("viewBox"), whole.get("aria-label")) == ("0 0 1120 740", "<both>")
