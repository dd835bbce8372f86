import subprocess
import sys
import xml.etree.ElementTree

import pytest
import yaml

from memdec.errors import ConfigError, DataError
from memdec.results.report import build_report, headlines
from memdec.results.specs import Column, Selector, TableSpec
from memdec.results.table_formats import GENERATED
from memdec.results.tables import build_tables

TOKENS = [
    {
        "text": "<script>alert(1)</script>",
        "lm": -2.0,
        "mixture": -0.4,
        "lm_top": [["</script><b>", 0.5], [" a", 0.1]],
        "memory_top": [[" b", 0.9]],
    },
    {"text": " b\n", "lm": -1.0, "mixture": -1.2, "lm_top": [], "memory_top": []},
]


@pytest.fixture
def records(make_facts, save):
    save(make_facts(20.0))
    path = save(
        make_facts(
            15.0,
            method="memory_decoder",
            label="Memory & Decoder",
            alpha=0.5,
            examples=[{"document": 0, "tokens": TOKENS}],
            generation={"prompt": "<i>It", "base": " was", "adapted": " is <u>"},
            curves={"alpha": {"alpha": [0.0, 0.5], "test/perplexity": [20.0, 15.0]}},
        )
    )
    return path.parent


@pytest.fixture
def build(records, tmp_path):
    """Build with no specs at all, as an installed copy does on a user's own text."""

    def run(output="out", **options):
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        options = {"specs_dir": empty, "paper_dir": empty} | options
        return build_report(records, tmp_path / output, **options)

    return run


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_report_without_specs_has_table_figures_page_and_index(build, tmp_path):
    report = build()
    assert report.problems == []
    assert sorted(contents(tmp_path / "out")) == [
        "README.md",
        "figures/toy-small-alpha-toy.svg",
        "figures/toy-small-dots-test-perplexity.svg",
        "index.html",
        "tables/toy.csv",
        "tables/toy.md",
        "tables/toy.tex",
        "toy.md",
    ]
    assert "| Memory &amp; Decoder | **15.00** |" in (tmp_path / "out/toy.md").read_text()
    assert "figures/toy-small-alpha-toy.svg" in (tmp_path / "out/toy.md").read_text()
    assert "`toy-base-s0-01234567`: complete" in (tmp_path / "out/README.md").read_text()


def test_curves_of_several_tables_are_drawn_as_one_figure_too(build, make_facts, save, tmp_path):
    for k in (2, 8):
        for table in ("one", "two", "three"):
            save(
                make_facts(
                    10.0 + k, table=table, experiment=f"{table}-{k}", config={"knn": {"k": k}}
                )
            )
    specs = tmp_path / "specs"
    specs.mkdir()
    for number, name in enumerate(("one", "two", "three")):
        facts = {
            "name": name,
            "title": name.upper(),
            "order": number,
            "curve": "config.knn.k",
            "rows": [{"by": "config.knn.k"}],
            "columns": [{"label": "Test"}],
            "panels": ["three", "plain", "one", "two"] if name == "two" else [],
        }
        (specs / f"{name}.yaml").write_text(yaml.safe_dump(facts))
    dots = {
        "name": "plain",
        "title": "PLAIN",
        "where": {"table": "one"},
        "columns": [{"label": "Test"}],
    }
    (specs / "plain.yaml").write_text(yaml.safe_dump(dots | {"rows": [{"by": "config.knn.k"}]}))
    assert build(specs_dir=specs).problems == []
    drawn = (tmp_path / "out/figures/two-panels.svg").read_text()
    whole = xml.etree.ElementTree.fromstring(drawn)
    svg = "{http://www.w3.org/2000/svg}"
    inner = whole.findall(f"{svg}svg")
    places = [(part.get("x"), part.get("y")) for part in inner]
    assert places == [("0", "0"), ("560", "0"), ("0", "340")]
    assert whole.get("viewBox") == "0 0 1120 680"
    alone = xml.etree.ElementTree.parse(tmp_path / "out/figures/three-small-curve-test.svg")
    for shape in ("polyline", "text"):
        found = [part.attrib for part in inner[0].findall(f".//{svg}{shape}")]
        assert found
        assert found == [part.attrib for part in alone.findall(f".//{svg}{shape}")]
    assert (tmp_path / "out/figures/plain-small-dots-test.svg").is_file()
    assert '<figure class="panels">' in (tmp_path / "out/index.html").read_text()
    (specs / "one.yaml").unlink()
    with pytest.raises(ConfigError, match=r"two: panels is 'one'; .*allowed: plain, three, two"):
        build(specs_dir=specs)


def test_a_rebuild_gives_the_same_bytes(build, tmp_path):
    build("one")
    build("two")
    first = contents(tmp_path / "one")
    assert first == contents(tmp_path / "two")
    build("one")
    assert first == contents(tmp_path / "one")


def test_no_record_gets_lost(build, save, make_facts, tmp_path):
    for method in ("knn_lm", "novelty"):
        save(make_facts(18.0, method=method, label=method.title()))
    save(make_facts(17.0, method="apart", table="undescribed"))
    specs = tmp_path / "specs"
    specs.mkdir()
    for name, method, metric in (
        ("toy", "base", "test/perplexity"),
        ("borrower", "knn_lm", "validation/perplexity"),
        ("costs", "novelty", "budget.seconds"),  # where its perplexity is not
    ):
        facts = {
            "name": name,
            "title": name.title(),
            "where": {"table": "toy"},
            "metric": metric,
            "rows": [{"where": {"method": method}}],
        }
        (specs / f"{name}.yaml").write_text(yaml.safe_dump(facts))
    build(specs_dir=specs)
    other = (tmp_path / "out/tables/toy-other.md").read_text()
    assert "Toy: other records" in other
    assert "| Novelty | 18.00 |" in other
    for shown in ("-base-", "-knn_lm-"):  # in toy, in borrower
        assert shown not in other
    assert "-memory_decoder-" in other
    assert sorted(p.stem for p in (tmp_path / "out/tables").glob("*.md")) == [
        "borrower",
        "costs",
        "toy",
        "toy-other",
        "undescribed",
    ]


def test_stale_files_go_and_files_of_others_stay(build, records, tmp_path):
    build()
    for name in ("tables/mine.md", "mine.md"):
        (tmp_path / "out" / name).write_text("my own notes")
    (tmp_path / "out/was-a-page.md").write_text(f"<!-- {GENERATED} -->\n")
    for path in records.glob("*memory*"):
        path.unlink()
    build()
    left = contents(tmp_path / "out")
    assert {"tables/mine.md", "mine.md"} < {*left}
    assert "was-a-page.md" not in left
    assert not any(name.startswith("figures/") for name in left)


def test_bad_records_are_named_in_the_report_and_in_the_page(build, records, tmp_path):
    (records / "broken.json").write_text("{")
    report = build()
    assert len(report.problems) == 1
    assert "broken.json" in report.problems[0]
    page = (tmp_path / "out/index.html").read_text()
    assert "Records left out" in page
    assert "broken.json" in page


def test_all_text_is_escaped(build, tmp_path):
    build()
    page = (tmp_path / "out/index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("</script>") == page.count("<script")  # only ours
    assert "<i>It" not in page
    assert "<u>" not in page
    assert "Memory &amp; Decoder" in page
    assert "&lt;i&gt;It" in page


def test_the_page_needs_no_network_and_no_clock(build, tmp_path):
    build()
    page = (tmp_path / "out/index.html").read_text()
    links = page.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in links
    assert "https://" not in links
    assert str(tmp_path) not in page


def test_only_measured_leaves_out_tables_without_a_record(build, records, tmp_path):
    specs = tmp_path / "specs"
    specs.mkdir()
    for name in ("toy", "other"):
        facts = {"name": name, "title": name.title(), "rows": [{"by": "method"}]}
        (specs / f"{name}.yaml").write_text(yaml.safe_dump(facts))
    build("all", specs_dir=specs)
    assert (tmp_path / "all/tables/other.md").exists()
    assert "Not run yet" in (tmp_path / "all/index.html").read_text()
    build("measured", specs_dir=specs, only_measured=True)
    assert not (tmp_path / "measured/tables/other.md").exists()
    assert "Not run yet" not in (tmp_path / "measured/index.html").read_text()


def test_no_records_still_give_a_page(tmp_path):
    for name in ("records", "empty"):
        (tmp_path / name).mkdir()
    empty = tmp_path / "empty"
    build_report(tmp_path / "records", tmp_path / "out", empty, empty)
    assert "Nothing measured yet" in (tmp_path / "out/index.html").read_text()


def test_a_records_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        build_report(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_headlines_compare_the_best_with_the_base(make_record):
    labels = {"base": "Base", "knn_lm": "+ kNN", "lora": ""}
    rows = [Selector(label=label, where={"method": name}) for name, label in labels.items()]
    spec = TableSpec(name="toy", title="Toy", rows=rows, columns=[Column(label="ppl")])
    records = [make_record(20.0), make_record(15.0, method="knn_lm")]
    (table,) = build_tables(spec, records, {})
    assert headlines(table) == ["kNN 15.00 against 20.00 for the base (-25%)"]
    (table,) = build_tables(spec, [*records, make_record(15.001, method="lora")], {})
    assert headlines(table) == ["kNN and lora 15.00 against 20.00 for the base (-25%)"]
    (table,) = build_tables(spec, [make_record(20.0), make_record(25.0, method="knn_lm")], {})
    assert headlines(table) == ["no method improved on the base (20.00)"]
    (table,) = build_tables(spec, [make_record(20.0), make_record(19.999, method="knn_lm")], {})
    assert headlines(table) == ["no method improved on the base (20.00)"]
    (table,) = build_tables(spec, records[1:], {})
    assert headlines(table) == []


def test_the_report_imports_nothing_heavy():
    code = (
        "import sys, memdec.results.report, memdec.results.collect, jinja2\n"
        "heavy = {'torch', 'pandas', 'numpy', 'matplotlib', 'transformers', 'wandb'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
