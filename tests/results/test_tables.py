import json
from dataclasses import replace
from statistics import stdev

import pytest

from memdec.results.aggregate import Cell, aggregate, split_variants
from memdec.results.paper import PaperTable
from memdec.results.printed import cell_text
from memdec.results.specs import Column, Selector, TableSpec
from memdec.results.tables import build_tables, generic_spec

PERPLEXITY = Column(metric="test/perplexity", digits=2)
WITH_INTERVAL = Column(metric="test/perplexity", digits=1, interval=True)
ROWS = [Selector(label=m, where={"method": m}) for m in ("base", "knn_lm", "memory_decoder")]


def spec(**changes):
    return TableSpec(**({"name": "toy", "title": "Toy", "rows": ROWS} | changes))


def grid(table):
    return [[row.label, *(cell.text for cell in row.cells), row.n] for row in table.rows]


def test_seeds_are_averaged_with_the_sample_deviation(make_record):
    numbers = [16.0, 16.5, 17.6]
    cell = aggregate([make_record(x, seed=i) for i, x in enumerate(numbers)], PERPLEXITY)
    assert cell.mean == pytest.approx(sum(numbers) / 3)
    assert cell.spread == pytest.approx(stdev(numbers))
    assert cell.spread == pytest.approx(0.8185, abs=1e-4)  # by hand, n - 1 below
    assert cell.n == 3


def test_one_seed_has_no_spread_but_its_interval(make_record):
    record = make_record(16.0, intervals={"test/perplexity": [15.0, 17.0]})
    assert cell_text(aggregate([record], WITH_INTERVAL), 1) == "16.0 [15.0, 17.0]"
    assert aggregate([record], PERPLEXITY).interval is None


@pytest.mark.parametrize(
    ("seed_1", "text"),
    [
        ((17.0, (15.6, 18.0)), "16.5 \u00b1 0.7 [15.3, 17.5]"),
        ((16.000001, (15.0, 17.0)), "16.0 [15.0, 17.0]"),  # another machine's rounding
        ((17.0, None), "16.5 \u00b1 0.7"),  # an interval of one seed is not that of both
    ],
)
def test_seeds_have_their_spread_and_the_mean_of_their_intervals(make_record, seed_1, text):
    seeds = enumerate([(16.0, (15.0, 17.0)), seed_1])
    records = [
        make_record(number, seed=seed, intervals={"test/perplexity": ends} if ends else {})
        for seed, (number, ends) in seeds
    ]
    cell = aggregate(records, WITH_INTERVAL)
    assert cell_text(cell, 1) == text
    assert cell.n == 2


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(), "-"),
        (Cell(failed=2), "failed"),
        (Cell(mean=1.234, n=1), "1.23"),
        (Cell(mean=1.234, spread=0.5, n=2), "1.23 \u00b1 0.50"),
        (Cell(mean=1.234, n=1, failed=1), "1.23, 1 failed"),
        (Cell(mean=12345.6, n=1), "12,345.60"),
    ],
)
def test_cells_are_printed(cell, text):
    assert cell_text(cell, 2) == text


def test_missing_is_a_dash_and_failed_says_so(make_record):
    records = [make_record(20.0), make_record(method="knn_lm", status="failed")]
    (table,) = build_tables(spec(), records, {})
    assert grid(table) == [
        ["base", "20.00", "1"],
        ["knn_lm", "failed", "-"],
        ["memory_decoder", "-", "-"],
    ]
    assert "Failed: toy-knn_lm-s0-01234567: out of memory" in table.notes


def test_a_failed_seed_is_left_out_of_the_mean_but_shown(make_record):
    records = [make_record(20.0), make_record(22.0, seed=1), make_record(seed=2, status="failed")]
    (table,) = build_tables(spec(), records, {})
    assert grid(table)[0] == ["base", "21.00 \u00b1 1.41, 1 failed", "2"]


def test_the_best_of_a_column_is_marked_with_ties_as_printed(make_record):
    records = [
        make_record(20.0),
        make_record(15.001, method="knn_lm"),
        make_record(15.004, method="memory_decoder"),
    ]
    (table,) = build_tables(spec(), records, {})
    assert [row.cells[0].best for row in table.rows] == [False, True, True]


def test_higher_can_be_better_and_none_marks_nothing(make_record):
    records = [make_record(20.0), make_record(15.0, method="knn_lm")]
    (table,) = build_tables(spec(better="higher"), records, {})
    assert [row.cells[0].best for row in table.rows] == [True, False, False]
    (table,) = build_tables(spec(better="none"), records, {})
    assert not any(row.cells[0].best for row in table.rows)


def test_the_best_is_found_within_each_group(make_record):
    records = [
        make_record(perplexity, method=method, experiment=experiment)
        for experiment, scores in (("one", (9.0, 8.0)), ("two", (5.0, 4.0)))
        for method, perplexity in zip(("base", "knn_lm"), scores, strict=True)
    ]
    groups, columns = [Selector(by="experiment")], [Column(label="ppl")]
    (table,) = build_tables(spec(groups=groups, columns=columns), records, {})
    assert [row.cells[0].best for row in table.rows] == [False, True, False] * 2


def test_scales_are_never_mixed(make_record):
    records = [make_record(20.0), make_record(10.0, scale="smoke", fingerprint="f" * 16)]
    small, smoke = build_tables(spec(), records, {})
    assert (small.scale, grid(small)[0][1]) == ("small", "20.00")
    assert (smoke.scale, grid(smoke)[0][1]) == ("smoke", "10.00")


PAPER = {
    "T99": PaperTable(
        id="T99",
        title="Made up",
        source="a made-up source",
        certainty="X",
        metric="test/perplexity",
        columns=["col"],
        rows={"base": [24.5], "knn_lm": [None]},
        notes=["a made-up note"],
    )
}
PAPER_COLUMNS = [
    Column(label="Big", where={"scale": "paper"}, paper="col"),
    Column(label="Small", where={"scale": "small"}),
]


def test_the_papers_numbers_stand_in_their_own_column_at_paper_scale_only(make_record):
    given = spec(paper="T99", columns=PAPER_COLUMNS)
    paper, small = build_tables(given, [make_record(20.0)], PAPER)
    assert [heading.label for heading in paper.headings] == ["Big", "paper: Big"]
    assert grid(paper)[:2] == [["base", "-", "24.50", "-"], ["knn_lm", "-", "-", "-"]]
    assert paper.rows[0].cells[1].cell is None  # no number of ours in the paper's column
    assert not any(cell.best for row in paper.rows for cell in row.cells)
    assert "Paper: a made-up source, Made up [X]." in paper.notes
    assert not paper.measured
    assert [heading.label for heading in small.headings] == ["Small"]
    assert grid(small)[0] == ["base", "20.00", "1"]


@pytest.mark.parametrize(
    ("value", "text"), [(4.2, "4.20"), (4.21, "4.21"), (4.119, "4.119"), (4.1194, "4.119")]
)
def test_no_digit_is_added_to_the_papers_numbers(make_record, value, text):
    given = spec(paper="T99", columns=[Column(label="Big", paper="col", digits=3)])
    paper = {"T99": replace(PAPER["T99"], rows={"base": [value]})}
    (table,) = build_tables(given, [make_record(scale="paper")], paper)
    assert grid(table)[0][2] == text


def test_a_column_of_every_scale_shows_the_papers_number_at_paper_scale_only(make_record):
    given = spec(paper="T99", columns=[Column(label="Any", paper="col")])
    paper, small = build_tables(given, [make_record(20.0)], PAPER)
    assert [heading.label for heading in paper.headings] == ["Any", "paper: Any"]
    assert [heading.label for heading in small.headings] == ["Any"]
    assert not any("Paper:" in note for note in small.notes)


def test_the_average_needs_every_column(make_record):
    columns = [Column(by="experiment"), Column(label="Average", average=True)]
    records = [
        make_record(10.0, experiment="one"),
        make_record(20.0, experiment="two"),
        make_record(12.0, experiment="one", method="knn_lm"),
    ]
    (table,) = build_tables(spec(columns=columns), records, {})
    assert [row.cells[-1].text for row in table.rows] == ["15.00", "-", "-"]


def test_columns_of_unlike_settings_make_one_row_beside_their_average(make_record):
    columns = [Column(by="experiment"), Column(label="Average", average=True)]
    records = [
        make_record(perplexity, experiment=name, config={"corpus": {"train": name}})
        for name, perplexity in {"one": 10.0, "two": 20.0}.items()
    ]
    (table,) = build_tables(spec(columns=columns), records, {})
    assert [row.label for row in table.rows if row.method == "base"] == ["base"]
    assert grid(table)[0] == ["base", "10.00", "20.00", "15.00", "1"]


def test_bits_per_byte_stand_beside_perplexity_when_asked(make_record):
    (table,) = build_tables(
        spec(bits_per_byte=True), [make_record(20.0, metrics={"test/bits_per_byte": 1.25})], {}
    )
    assert [heading.label for heading in table.headings] == [
        "Toy experiment",
        "Toy experiment bits/byte",
    ]
    assert grid(table)[0] == ["base", "20.00", "1.250", "1"]


def test_unlike_settings_are_never_averaged(make_record):
    records = [
        make_record(
            perplexity,
            method="memory_decoder",
            fingerprint=f"{i:08x}",
            seed=i % 2,
            config={"memory_decoder": {"beta": beta}},
        )
        for i, (perplexity, beta) in enumerate([(16.0, 0.3), (16.2, 0.3), (17.0, 0.5), (17.2, 0.5)])
    ]
    (table,) = build_tables(spec(rows=ROWS[2:]), records, {})
    assert grid(table) == [
        ["memory_decoder (memory_decoder.beta=0.3)", "16.10 \u00b1 0.14", "2"],
        ["memory_decoder (memory_decoder.beta=0.5)", "17.10 \u00b1 0.14", "2"],
    ]


def test_settings_that_change_no_number_make_no_variant(make_record):
    records = [
        make_record(20.0, fingerprint=f"{i:08x}", config={"memory_decoder": {"beta": i / 10}})
        for i in range(4)
    ]
    assert len(split_variants(records, "test/perplexity")) == 1
    (table,) = build_tables(spec(), records, {})
    assert grid(table)[0] == ["base", "20.00", "1"]  # one seed, whatever the number of runs


@pytest.mark.parametrize(("method", "rows"), [("memory_decoder", 1), ("knn_lm", 2)])
def test_another_methods_settings_make_no_variant(make_record, method, rows):
    records = [
        make_record(
            20.0 + seed, method=method, seed=seed, config={"knn_lm": {"temperatures": [seed]}}
        )
        for seed in (1, 2)
    ]
    assert len(split_variants(records, "test/perplexity")) == rows


@pytest.mark.parametrize(("other", "variants"), [(20.0000003, 1), (20.001, 2)])
def test_two_machines_rounding_makes_no_variant(make_record, other, variants):
    records = [
        make_record(number, fingerprint=f"{i:08x}", config={"memory_decoder": {"beta": i / 10}})
        for i, number in enumerate((20.0, other))
    ]
    assert len(split_variants(records, "test/perplexity")) == variants


def test_runs_without_the_number_are_no_proof_of_being_the_same(make_record):
    records = [
        make_record(20.0, fingerprint=f"{i:08x}", config={"memory_decoder": {"beta": i / 10}})
        for i in range(2)
    ]
    assert len(split_variants(records, "test/gain/seen_0")) == 2


@pytest.mark.parametrize(
    ("folders", "variants"),
    [
        (["memories/0/law", "memories/1/law"], 1),
        (["memories/0/law", "memories/1/tax"], 2),
        (["memories/1/law", "memories/0/law"], 2),
        (["a/export", "b/export"], 2),
    ],
)
def test_memories_in_folders_of_the_runs_seed_are_one_row(make_record, folders, variants):
    for config in (
        {"memory_decoder": {"init": "{}"}},
        {"memory_decoder": {"trained": "{}"}},
        {"memory_mixture": {"memories": ["x/pubmed", "{}"]}},
    ):
        records = [
            make_record(
                20.0 + seed,
                method="memory_mixture",
                seed=seed,
                config=json.loads(json.dumps(config).replace("{}", folder)),
            )
            for seed, folder in enumerate(folders)
        ]
        assert len(split_variants(records, "test/perplexity")) == variants


def test_where_and_how_a_run_was_made_is_no_setting(make_record):
    records = [
        make_record(20.0 + i, seed=i, config={"logger": "csv" if i else "none"}) for i in range(2)
    ]
    assert len(split_variants(records, "test/perplexity")) == 1


def test_a_table_has_the_records_that_its_rows_pick(make_record):
    (table,) = build_tables(spec(), [make_record(20.0), make_record(18.0, method="novelty")], {})
    assert [record.method for record in table.records] == ["base"]


def test_methods_that_scored_different_tokens_raise_a_warning(make_record):
    records = [make_record(), make_record(method="knn_lm", metrics={"test/num_tokens": 901})]
    (table,) = build_tables(spec(), records, {})
    assert any("different numbers of test tokens (900, 901)" in note for note in table.notes)


@pytest.mark.parametrize(("base", "warned"), [(20.0004, True), (20.00004, False)])
def test_two_copies_of_a_base_raise_a_warning(make_record, base, warned):
    mixed = {"test/perplexity": 0.8 * base, "test/perplexity_ratio_to_base": 0.8}
    plain = make_record(metrics={"test/perplexity_ratio_to_base": 1.0})
    (table,) = build_tables(spec(), [plain, make_record(method="knn_lm", metrics=mixed)], {})
    words = "Warning: toy-model alone has 20.0000 in some runs of toy and 20.0004 in others"
    assert any(note.startswith(words) for note in table.notes) == warned


@pytest.mark.parametrize(
    ("best", "k", "alpha", "end"),
    [
        (8.0, 4, 0.3, "highest"),
        (4.0, 4, 0.3, ""),
        (2.0, 4, 0.3, "lowest"),
        (2.0, 1, 0.3, ""),
        (2.0, 4, 0.0, ""),
    ],
)
def test_a_temperature_at_an_end_of_those_tried_raises_a_warning(make_record, best, k, alpha, end):
    config = {"knn_lm": {"temperatures": [4.0, 2.0, 8.0]}, "knn": {"k": k}}
    tuned = {"temperature": best}
    record = make_record(method="knn_lm", config=config, tuned=tuned, alpha=alpha)
    (table,) = build_tables(spec(), [record], {})
    found = [note for note in table.notes if note.startswith("Warning: the")]
    assert len(found) == bool(end)
    assert all(f"the {end} temperature tried was the best for {record.id};" in n for n in found)


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ([(0.9, 0.99)], ": Toy experiment."),
        ([(0.9, 1.01)], ": nowhere. Not shown for Toy experiment."),
        ([(0.9, 0.99), (0.9, 1.0)], ": nowhere. Not shown for Toy experiment."),
        ([None], ": nowhere. Not shown for Toy experiment."),
    ],
)
def test_a_table_says_whether_the_gate_is_better(make_record, intervals, words):
    name = "test/perplexity_ratio_to_one_alpha"
    records = [
        make_record(
            method="adaptive_alpha",
            seed=seed,
            metrics={name: 0.95},
            intervals={} if interval is None else {name: interval},
        )
        for seed, interval in enumerate(intervals)
    ]
    (table,) = build_tables(generic_spec(records), records, {})
    note = next(note for note in table.notes if note.startswith("Adaptive alpha"))
    assert note.endswith(words)


def test_a_table_says_which_other_methods_are_ahead_of_the_memory(make_record):
    numbers = {
        "a": {"base": 30, "dapt": 11, "lora": 12.0, "knn_lm": 19, "memory_decoder": 12.004},
        "b": {"base": 9, "dapt": 5, "memory_decoder": 4},
        "c": {"base": 9, "memory_decoder": 4},
    }
    records = [
        make_record(number, method=method, experiment=name, title=name)
        for name, row in numbers.items()
        for method, number in row.items()
    ]
    plain = spec(rows=[Selector(by="method")])
    apart = replace(plain, groups=[Selector(by="experiment")], columns=[Column(label="Test")])
    (together,), (in_groups,) = (build_tables(s, records, {}) for s in (plain, apart))
    assert "Ahead of memory_decoder: dapt (a)." in together.notes
    found = [note for note in in_groups.notes if note.startswith("Ahead")]
    assert found == [
        "Ahead of memory_decoder (a): dapt (Test).",
        "Ahead of memory_decoder (b): none (compared: dapt).",
    ]
    (other,) = build_tables(replace(plain, metric="test/bits_per_byte"), records, {})
    assert not [note for note in other.notes if note.startswith("Ahead")]


def test_a_rivals_lower_bits_are_no_column_of_their_own(make_record):
    def made(method, perplexity, bits):
        return make_record(perplexity, method=method, metrics={"test/bits_per_byte": bits})

    records = [made("memory_decoder", 9.0, 0.9), made("dapt", 8.0, 0.8), made("lora", 9.5, 0.5)]
    both = spec(rows=[Selector(by="method")], bits_per_byte=True, columns=[Column(label="Test")])
    (table,) = build_tables(both, records, {})
    assert len(table.headings) == 2
    assert "Ahead of memory_decoder: dapt (Test)." in table.notes


def test_a_table_nobody_described_lists_the_methods(make_record):
    records = [make_record(20.0, label="Base"), make_record(15.0, method="knn_lm", label="kNN-LM")]
    (table,) = build_tables(generic_spec(records), records, {})
    assert [row.label for row in table.rows] == ["Base", "kNN-LM"]
    assert table.rows[1].cells[0].best
    assert table.spec.title == "Toy experiment"
