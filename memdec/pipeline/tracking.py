"""Mirror a run to Weights & Biases when `logger: wandb` asks for it; the record stays the truth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from memdec.pipeline.experiment import Experiment
from memdec.results.aggregate import flatten

PROJECT = "memdec"  # unless WANDB_PROJECT, or the sweep, names another

Report = Callable[[dict[str, Any]], None]


@contextmanager
def tracked(experiment: Experiment, rank: int = 0) -> Iterator[Report]:
    """Open a W&B run around a whole experiment; yield what takes each finished record.

    The run is there also when every stage is reused and nothing trains; Lightning's WandbLogger
    logs its curves into it. An exception inside marks the run failed. Only rank 0 opens one, and
    without `logger: wandb` nothing of W&B is imported.
    """
    if experiment.logger != "wandb" or rank != 0:
        yield lambda record: None
        return
    import wandb

    run = wandb.init(
        project=wandb.env.get_project(PROJECT),
        group=experiment.name,
        config=flatten(experiment.facts()),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step")  # DAPT's and LoRA's have a prefix
    try:
        yield lambda record: run.summary.update(summary(record))
    except BaseException:
        run.finish(exit_code=1)  # `with run:` would print a traceback above the one clear line
        raise
    run.finish()


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's numbers, named METHOD/test/perplexity, and for a sweep's metric without it.

    With several methods the plain names hold those of the last one in `methods`.
    """
    numbers = dict(record["metrics"])
    if record["alpha"] is not None:
        numbers["alpha"] = record["alpha"]
    named = {f"{record['method']}/{key}": value for key, value in numbers.items()}
    return numbers | named | {"record": record["id"]}
