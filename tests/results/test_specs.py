import pytest
import yaml

from memdec.errors import DataError
from memdec.results.paper import load_paper
from memdec.results.specs import Selector, expand, field_of, load_specs, matches, number_of

_SPEC = {"name": "toy", "title": "Toy", "rows": [{"label": "Base", "where": {"method": "base"}}]}
_PAPER = {
    "id": "T99",
    "title": "Made up",
    "source": "nowhere",
    "certainty": "X",
    "metric": "test/perplexity",
    "columns": ["a", "b"],
    "rows": {"base": [1.5, None]},
}


def write(folder, name, facts):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(facts if isinstance(facts, str) else yaml.safe_dump(facts))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "Toy"}, r"toy\.yaml: titel is an unknown key; did you mean 'title'\?"),
        ({"name": "other"}, r"name is 'other'; it must be the file's, 'toy'"),
        ({"better": "smaller"}, r"better is 'smaller'; allowed: lower, higher, none"),
        ({"digits": "two"}, r"digits must be a whole number, got 'two'"),
        ({"rows": [{"where": {"methods": "a"}}]}, r"unknown field 'methods'; allowed: experiment"),
        ({"rows": [{"where": {"config": 1}}]}, r"unknown field 'config'"),
        ({"columns": [{"label": "a", "metrik": "b"}]}, r"columns\[0\]\.metrik is an unknown key"),
        ({"paper": "T1"}, r"paper is 'T1'; known tables: T99"),
        ({"rows": [{"paper": "T7:base"}]}, r"paper is 'T7'; known tables: T99"),
        ({"curve": "beta"}, r"unknown field 'beta'"),
    ],
)
def test_a_wrong_spec_is_refused(tmp_path, change, message):
    folder = write(tmp_path / "specs", "toy.yaml", _SPEC | change)
    paper = load_paper(write(tmp_path / "paper", "T99.yaml", _PAPER))
    with pytest.raises(DataError, match=message):
        load_specs(folder, paper)


def test_broken_yaml_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"toy\.yaml: not a readable YAML file") as caught:
        load_specs(write(tmp_path / "specs", "toy.yaml", "a: [1"), {})
    assert "\n" not in str(caught.value)


def test_a_paper_table_with_a_short_row_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"rows\.base has 1 numbers for 2 columns"):
        load_paper(write(tmp_path / "paper", "T99.yaml", _PAPER | {"rows": {"base": [1.0]}}))


def test_where_takes_values_lists_and_patterns(make_record):
    record = make_record(config={"model": {"source": "hub/gpt2-medium"}})
    assert matches(record, {"method": "base", "config.model.source": "*gpt2-medium"})
    assert not matches(record, {"config.model.source": "*gpt2"})
    assert matches(record, {"method": ["knn_lm", "base"]})
    assert matches(record, {"config.memory_decoder.beta": 0.5, "seed": 0})
    assert not matches(record, {"config.memory_decoder.gamma": 0.5})


def test_numbers_come_from_metrics_alpha_budget_and_tuned(make_record):
    record = make_record(alpha=0.25, tuned={"temperature": 2.0})
    assert number_of(record, "test/perplexity") == 20.0
    assert number_of(record, "alpha") == 0.25
    assert number_of(record, "budget.parameters") == 1000
    assert number_of(record, "tuned.temperature") == 2.0
    assert number_of(record, "budget.flops") is None
    assert field_of(record, "config.knn.k") == 4


def test_by_gives_one_selector_per_value_in_numeric_order(make_record):
    records = [make_record(seed=i, config={"knn": {"k": k}}) for i, k in enumerate([16, 4, 128, 4])]
    selector = Selector(by="config.knn.k", label="k = {value}", where={"method": "base"})
    rows = expand([selector], records, "small")
    assert [row.label for row in rows] == ["k = 4", "k = 16", "k = 128"]
    assert rows[1].where == {"method": "base", "config.knn.k": 16}


def test_records_without_the_field_make_no_row_of_their_own(make_record):
    records = [make_record(alpha=0.5), make_record(seed=1)]
    assert [row.label for row in expand([Selector(by="alpha")], records, "small")] == ["0.5"]


def test_selectors_of_another_scale_are_dropped(make_record):
    selectors = [Selector(label="a", where={"scale": "paper"}), Selector(label="b")]
    assert [row.label for row in expand(selectors, [make_record()], "small")] == ["b"]


def test_a_model_folder_is_labelled_by_its_last_part(make_record):
    record = make_record(config={"model": {"source": "/data/models/toy-1b/"}})
    (row,) = expand([Selector(by="config.model.source")], [record], "small")
    assert row.label == "toy-1b"
