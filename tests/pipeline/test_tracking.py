import sys
from types import SimpleNamespace

import pytest

from memdec import cli
from memdec.pipeline.experiment import Experiment
from memdec.pipeline.tracking import tracked


@pytest.fixture
def opened(monkeypatch):
    """Replace wandb with a stand-in; return the list of the runs that it opens."""
    runs = []

    def init(**options):
        runs.append(options)
        return SimpleNamespace(
            define_metric=lambda *names, **options: None, finish=lambda **options: None
        )

    env = SimpleNamespace(get_project=lambda name: name)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, env=env))
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return runs


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 1),
        ({"RANK": "0", "LOCAL_RANK": "0"}, 1),
        ({"LOCAL_RANK": "1"}, 0),
        ({"RANK": "4", "LOCAL_RANK": "0"}, 0),  # the first process of the second machine
    ],
)
def test_only_the_leading_process_opens_a_run(opened, monkeypatch, tmp_path, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tiny.yaml").write_text("name: tiny\nlogger: wandb\n")
    ranks = []
    monkeypatch.setattr(
        "memdec.pipeline.runner.run_experiment", lambda *given: ranks.append(given[2])
    )
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(tmp_path / "tiny.yaml")])
    assert left.value.code == 0
    assert len(opened) == expected
    assert (ranks[0] == 0) == bool(expected)


def test_the_rank_that_is_given_decides(opened):
    with tracked(Experiment(name="tiny", logger="wandb"), 3):
        pass
    assert opened == []
