"""Records as a data frame, and the report's cells computed once more from it."""

from pathlib import Path

import pandas as pd
import pytest

from memdec.errors import DataError
from memdec.results.frame import records_frame
from memdec.results.record import write_plain

REPORTS = Path(__file__).parents[2] / "reports"


def test_one_row_a_record_with_dotted_columns(make_facts, tmp_path):
    for seed, perplexity in enumerate((20.0, 21.0)):
        curves = {"alpha": {"alpha": [0.0, 1.0]}}
        memories = {"a/folder": {"hash": "1f", "trained_with": {"knn.k": 4}}}
        facts = make_facts(perplexity, seed=seed, curves=curves, memories=memories)
        write_plain(facts, tmp_path / f"{seed}.json")
    frame = records_frame(tmp_path)
    assert frame.index.tolist() == [f"toy-base-s{seed}-01234567" for seed in (0, 1)]
    assert frame["seed"].tolist() == [0, 1]
    assert frame["metrics.test/perplexity"].tolist() == [20.0, 21.0]
    assert frame["config.memory_decoder.beta"].tolist() == [0.5, 0.5]
    assert frame["provenance.hardware.cores"].tolist() == [2, 2]
    left_out = {"curves", "examples", "generation", "memories", "stages"}
    assert not left_out & {column.split(".")[0] for column in frame.columns}


def test_a_folder_without_sound_records_is_refused(tmp_path):
    with pytest.raises(DataError, match="no records; run an experiment"):
        records_frame(tmp_path)
    with pytest.raises(DataError, match="is not there"):
        records_frame(tmp_path / "absent")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json"):
        records_frame(tmp_path)


def test_pandas_finds_the_means_spreads_and_seeds_of_every_printed_perplexity():
    frame = records_frame(REPORTS / "records")
    checked = several = 0
    for path in sorted((REPORTS / "tables").glob("*.csv")):
        cells = pd.read_csv(path)
        ours = cells[(cells["metric"] == "test/perplexity") & cells["mean"].notna()]
        ours = ours[ours["records"].notna()]  # not the averages over columns
        for cell in ours.itertuples():
            where = (path.name, cell.row, cell.column)
            seeds = frame.loc[cell.records.split()].groupby("seed")["metrics.test/perplexity"]
            # a run that stands in two tables counts once, and must not have two numbers
            assert (seeds.max() / seeds.min() - 1).max() < 1e-5, where
            runs = seeds.first()
            assert runs.mean() == pytest.approx(cell.mean), where
            assert runs.count() == cell.n, where
            checked += 1
            if pd.notna(cell.spread):
                assert runs.std() == pytest.approx(cell.spread), where
                several += 1
            else:
                assert cell.n == 1 or runs.max() / runs.min() - 1 < 1e-5, where
    assert checked > 150
    assert several > 80
