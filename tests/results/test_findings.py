"""What reports/FINDINGS.md says stands in the tables that it links and in the records."""

import re
from pathlib import Path

import pandas as pd
import pytest

from memdec.results.frame import records_frame

REPORTS = Path(__file__).parents[2] / "reports"
FINDINGS = (REPORTS / "FINDINGS.md").read_text(encoding="utf-8")
PROSE = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", " ".join(FINDINGS.split()))

GATED = "+ Memory Decoder, gated by gold"
PAPER = "+ Memory Decoder, paper's loss"
GATED_SHORT = "+ Memory Decoder, gated"
FINE_TUNED_KEYS = [f"{row}, fine-tuned keys" for row in (PAPER, GATED)]

MEMORY_OF_CE = "+ DAPT as memory"
GIVEN = r"([\d.]+)(?: (?:to|and) ([\d.]+))?%"
CE = "cross-entropy alone (beta 0)"
ALL, LATEST, OLDEST = ("Bio", "Fin", "Law"), ("Minutes of 2017",), ("Minutes of 1996",)
SMOLLM = ("SmolLM2",)
MIXED = "SmolLM2-135M-Instruct with three memories on"
WHOLE = "Targets of the whole kNN-LM, from"

# A phrase, its table, two rows ("group | row" where rows stand in groups; the start of a name will
# do for the group and the column; the second may be several), the columns, and by how many percent
# the first is ahead of the second: least and most over columns and seeds, or a mean over seeds
# where the two are equal. Negative: behind.
CLAIMS = [
    ("is 20 to 26% below the base", "domains", GATED, "Base", ALL, 20, 26),
    ("is 14% below the base on biomedical text", "domains", PAPER, "Base", ("Bio",), 14, 14),
    ("20 to 22% on the others", "domains", PAPER, "Base", ("Fin", "Law"), 20, 22),
    ("in finance (by 6%", "domains", GATED, "+ LoRA", ("Fin",), 6, 6),
    ("and 3%)", "domains", GATED, "+ DAPT", ("Fin",), 3, 3),
    ("on law (2%", "domains", GATED, "+ LoRA", ("Law",), 2, 2),
    ("and 1%)", "domains", GATED, "+ DAPT", ("Law",), 1, 1),
    ("on biomedical text LoRA is 0.5% ahead", "domains", GATED, "+ LoRA", ("Bio",), -0.5, -0.5),
    ("4 to 9% behind both", "domains", PAPER, "+ LoRA", ("Bio", "Law"), -9, -4),
    ("of LoRA by 3 to 5%", "domains", PAPER, "+ LoRA", ("Fin",), 3, 5),
    ("of DAPT by 0.1 to 1.3%", "domains", PAPER, "+ DAPT", ("Fin",), 0.1, 1.3),
    ("0.3 to 0.7% ahead of it", "domains", GATED, MEMORY_OF_CE, ("Bio", "Law"), -0.7, -0.3),
    ("0.1 to 0.5% behind in finance", "domains", GATED, MEMORY_OF_CE, ("Fin",), 0.1, 0.5),
    ("gains 0.5 to 0.7%", "domains", f"{PAPER}, adaptive alpha", PAPER, ALL, 0.5, 0.7),
    (
        "but 0.2% at most",
        "domains",
        f"{GATED_SHORT}, adaptive alpha",
        GATED,
        ALL,
        0.0,
        0.2,
    ),
    *(
        (text, table, f"{row}, adaptive alpha", one, columns, low, high)
        for text, table, row, one, columns, low, high in (
            ("on WikiText 0.9%", "wikitext103", PAPER, PAPER, SMOLLM, 0.9, 0.9),
            ("and 0.1%,", "wikitext103", GATED_SHORT, GATED, SMOLLM, 0.1, 0.1),
            ("minutes 1.0 to 1.2%", "finance-age", PAPER, PAPER, LATEST, 1.0, 1.2),
            ("and 0.4 to 0.5%)", "finance-age", GATED_SHORT, GATED, LATEST, 0.4, 0.5),
        )
    ),
    ("is 8% below the base", "domains", "+ In-context RAG", "Base", ("Fin", "Law"), 8, 8),
    ("kNN-LM is 30% below the base", "finance-age", "+ kNN-LM", "Base", LATEST, 30, 30),
    ("kNN-LM is 11% below", "finance-age", "+ kNN-LM", "Base", OLDEST, 11, 11),
    ("1.3 to 1.5% ahead", "finance-age", GATED, MEMORY_OF_CE, LATEST, 1.3, 1.5),
    ("the lead is 0.1 to 0.5%", "finance-age", GATED, MEMORY_OF_CE, OLDEST, 0.1, 0.5),
    ("The paper's loss is 1.5 to 2.2%", "finance-age", PAPER, MEMORY_OF_CE, LATEST, -2.2, -1.5),
    ("and 2.0 to 2.8% behind", "finance-age", PAPER, MEMORY_OF_CE, OLDEST, -2.8, -2.0),
    ("0.0 to 0.2% ahead)", "finance-age", FINE_TUNED_KEYS[0], MEMORY_OF_CE, LATEST, 0.0, 0.2),
    ("gets 0.2 to 0.4% worse", "finance-age", FINE_TUNED_KEYS[1], GATED, LATEST, -0.4, -0.2),
    ("on WikiText kNN-LM is 19% below", "wikitext103", "+ kNN-LM", "Base", SMOLLM, 19, 19),
    ("still 0.6 to 0.8% behind", "wikitext103", GATED, MEMORY_OF_CE, SMOLLM, -0.8, -0.6),
    (
        "it is 1.8 to 3.2% ahead on test text",
        "ablation-epochs",
        "hybrid, 15,000 tokens, last | epochs at most: 4",
        "cross-entropy, 15,000 tokens, last | epochs at most: 4",
        SMOLLM,
        1.8,
        3.2,
    ),
    (
        "it 2.7 to 3.2% behind",
        "ablation-epochs",
        "hybrid, 15,000 | epochs at most: 2",
        "cross-entropy, 15,000 | epochs at most: 2",
        SMOLLM,
        -3.2,
        -2.7,
    ),
    ("gain 2 to 3%", "ablation-lm-share", "share = 0.5", "share = 0", SMOLLM, 2, 3),
    *(
        (text, "ablation-corpus-size", f"hybrid | {size}", f"cross | {size}", SMOLLM, low, high)
        for text, size, low, high in (
            ("4 to 5% behind in one pass over 15,000", "15,000 training tokens", -5, -4),
            ("6 to 7% over 30,000", "30,000 training tokens", -7, -6),
            ("6 to 7% over 30,000 and over 60,000", "60,000 training tokens", -7, -6),
            ("6% over 120,000", "120,000 training tokens", -6, -6),
        )
    ),
    *(
        (
            text,
            "ablation-epochs",
            f"hybrid, {size} | {at}",
            f"cross-entropy, {size} | {at}",
            SMOLLM,
            by,
            by,
        )
        for text, size, at, by in (
            ("is 3 and 5% behind cross-entropy at its best", "15,000", "epochs at most: 2", -3),
            ("is 3 and 5% behind cross-entropy at its best", "30,000", "epochs at most: 2", -5),
        )
    ),
    (
        "2 gains 0.4 to 0.5%",
        "ablation-temperature",
        "temperature = 1",
        "temperature = 2",
        SMOLLM,
        0.4,
        0.5,
    ),
    (
        "k of 4 in place of 1,024 gains 0.4 to 0.5%",
        "ablation-k",
        "Memory | k = 4",
        "Memory | k = 1,024",
        SMOLLM,
        0.4,
        0.5,
    ),
    (
        "gain 1 to 2%",
        "ablation-target-source",
        "Targets from: dapt",
        "Targets from: base",
        SMOLLM,
        1,
        2,
    ),
    ("is still 1% behind", "ablation-target-source", f"{WHOLE}: dapt", CE, SMOLLM, -1, -1),
    *(
        (
            text,
            "memory-mixture",
            f"{MIXED} {name} | + three memories",
            f"{MIXED} {name} | + its own memory",
            ("Test",),
            *bounds,
        )
        for text, name, bounds in (
            ("by 2.8 to 3.1% in finance", "fomc", (2.8, 3.1)),
            ("0.7 to 0.8% on law", "cuad", (0.7, 0.8)),
            ("0.3 to 0.4% on biomedical text", "pubmed", (0.3, 0.4)),
        )
    ),
    (
        "0.4 to 1.2% behind them",
        "wikitext103",
        GATED,
        (MEMORY_OF_CE, "+ DAPT", "+ LoRA"),
        SMOLLM,
        -1.2,
        -0.4,
    ),
]


@pytest.fixture(scope="module")
def perplexities():
    return records_frame(REPORTS / "records").set_index("seed", append=True)[
        "metrics.test/perplexity"
    ]


def _of_seeds(perplexities, table, name, column):
    group, _, row = name.rpartition(" | ")
    cells = pd.read_csv(REPORTS / "tables" / f"{table}.csv", keep_default_na=False)
    (ids,) = cells["records"][
        (cells["scale"] == "small")
        & (cells["metric"] == "test/perplexity")
        & (cells["row"] == row)
        & cells["column"].str.startswith(column)
        & cells["group"].str.startswith(group)
    ]
    return perplexities.loc[ids.split()].groupby("seed").first()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim[1]}: {claim[0]}")
def test_a_difference_in_percent_is_that_of_the_records(perplexities, claim):
    text, table, first, second, columns, low, high = claim
    assert text in PROSE
    said = {float(number) for numbers in re.findall(GIVEN, text) for number in numbers if number}
    assert said >= {abs(low), abs(high)} - ({0.0} if "at most" in text else set())
    pairs = [
        [_of_seeds(perplexities, table, row, column) for row in (first, other)]
        for column in columns
        for other in ((second,) if isinstance(second, str) else second)
    ]
    if low == high:
        found = [_percent(ours.mean(), other.mean()) for ours, other in pairs]
    else:
        found = [
            _percent(ours[seed], other[seed])
            for ours, other in pairs
            for seed in ours.index & other.index
        ]
        assert len(found) >= 3 * len(pairs)
    digits = 1 if "." in text else 0
    assert (round(min(found), digits), round(max(found), digits)) == (low, high)


def _percent(ours, other):
    """By how much less than `other`, in percent of it."""
    return 100 * (1 - ours / other)


def test_every_percentage_is_held_against_the_records():
    rest = PROSE.replace("95% interval", "")
    for text, *_ in CLAIMS:
        rest = rest.replace(text, "")
    assert "%" not in rest, re.findall(r".{0,60}%", rest)


README = {
    "20 to 26% below the base": "is 20 to 26% below the base",
    "loss 14% below the base on biomedical text": "is 14% below the base on biomedical text",
    "on biomedical text LoRA is 0.5% ahead": "on biomedical text LoRA is 0.5% ahead",
    "within 0.7% of it": "0.3 to 0.7% ahead of it",
    "0.1 to 0.5% here": "the lead is 0.1 to 0.5%",
    "1.3 to 1.5% on its latest minutes": "1.3 to 1.5% ahead",
    "1 to 2% better with the paper's loss": "gain 1 to 2%",
}
"""What README.md says of percentages, and the claim that holds it."""


def test_a_percentage_in_the_readme_is_one_of_the_findings():
    readme = (REPORTS.parent / "README.md").read_text(encoding="utf-8")
    text = " ".join(line for line in readme.split("\n") if not line.startswith(("    ", "|")))
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", " ".join(text.split()))
    claims = {claim for claim, *_ in CLAIMS}
    for phrase, claim in README.items():
        assert phrase in text
        assert claim in claims
        assert set(re.findall(r"[\d.]+", phrase)) <= set(re.findall(r"[\d.]+", claim))
        text = text.replace(phrase, "")
    assert re.findall(r".{0,60}\d%", text) == []


@pytest.mark.parametrize(
    "block", re.findall(r"(?:[^\n]|\n(?!\n|- ))+", FINDINGS), ids=lambda b: b[:40]
)
def test_a_perplexity_stands_in_a_table_that_the_text_links(block):
    files = re.findall(r"\]\((tables/.+?\.md)\)", block)
    linked = "\n".join((REPORTS / file).read_text(encoding="utf-8") for file in files)
    for number in re.findall(r"\d\d\.\d{2,3}(?: ± \d\.\d\d)?", " ".join(block.split())):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", linked), number
