"""From the records of one cell to mean, spread and n, without mixing unlike runs."""

import math
import re
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from memdec.results.record import Record
from memdec.results.specs import Column, number_of

# Keys that change cost or presentation but no number, or that are averaged over (seed).
_HOUSEKEEPING = (
    "seed",
    "name",
    "title",
    "table",
    "methods",
    "logger",
    "model.batch_size",
    "search.min_recall",
    "search.sample_rows",
    "model.device",
    "trainer.accelerator",
    "trainer.checkpoint_every_steps",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.num_workers",
    "trainer.strategy",
)
_PRESENTATION = ("evaluation.",)
_FOLDERS_OF_MEMORIES = {
    "memory_decoder.init",
    "memory_decoder.trained",
    "memory_mixture.memories",
}
_ONE_METHODS_OWN = {"knn_lm", "lora", "in_context_rag", "dapt_memory", "memory_mixture"}
"""Sections that no other method's numbers depend on; their names are their methods'."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of ours with its spread, or why there is none."""

    mean: float | None = None
    spread: float | None = None
    """Sample standard deviation over seeds; None below two, or where no seed changes the number."""
    n: int = 0
    """Seeds that finished."""
    failed: int = 0
    interval: tuple[float, float] | None = None
    """95% interval over test documents, the mean of the seeds' ends."""
    ids: tuple[str, ...] = ()


def aggregate(records: list[Record], column: Column) -> Cell:
    """Average one metric over the seeds of one method and configuration."""
    runs = {
        record.seed: record
        for record in reversed(records)
        if record.complete and number_of(record, column.metric) is not None
    }
    values = [
        (number_of(runs[seed], column.metric) or 0.0) * column.factor for seed in sorted(runs)
    ]
    failed = sum(not record.complete for record in records)
    ends = [run.intervals.get(column.metric) for run in runs.values()] if column.interval else []
    known = [pair for pair in ends if pair]
    return Cell(
        mean=fmean(values) if values else None,
        spread=None if all(_same(values[0], value) for value in values) else stdev(values),
        n=len(values),
        failed=failed,
        interval=_mean_ends(known, column.factor) if known and len(known) == len(ends) else None,
        ids=tuple(record.id for record in records),
    )


def _mean_ends(pairs: list[tuple[float, float]], factor: float) -> tuple[float, float]:
    return fmean(low for low, _ in pairs) * factor, fmean(high for _, high in pairs) * factor


def split_variants(records: list[Record], metric: str) -> list[tuple[str, list[Record]]]:
    """Split the records of one cell by every setting that differs, seeds apart.

    Returns (words such as "knn.k=512", records); one entry with no words when nothing differs.
    Settings that change nothing, such as beta for the base model, make no variant.
    """
    flat = {record.id: _settings(record) for record in records}
    others = _ONE_METHODS_OWN - {record.method for record in records}
    keys = sorted(
        key
        for key in {key for facts in flat.values() for key in facts}
        if not _is_housekeeping(key) and key.partition(".")[0] not in others
    )
    varied = [k for k in keys if len({repr(flat[r.id].get(k)) for r in records}) > 1]
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(repr(flat[record.id].get(k)) for k in varied), []).append(record)
    merged: list[list[Record]] = []
    for members in groups.values():
        twin = next((kept for kept in merged if _same_numbers(kept, members, metric)), None)
        if twin is None:
            merged.append(list(members))
        else:
            twin.extend(members)
    if len(merged) < 2:
        return [("", records)]
    return [(_words(members, merged, varied, flat), members) for members in merged]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _settings(record: Record) -> dict[str, Any]:
    """Return the settings flat; memories in a folder named after the seed are alike but for it."""
    flat = flatten(record.config)
    own = re.compile(rf"(?<=/){record.seed}(?=/)")
    for key in _FOLDERS_OF_MEMORIES & flat.keys():
        if isinstance(flat[key], str):
            flat[key] = own.sub("SEED", flat[key])
        elif flat[key]:
            flat[key] = [own.sub("SEED", path) for path in flat[key]]
    return flat


def _same_numbers(first: list[Record], second: list[Record], metric: str) -> bool:
    one, two = _by_seed(first, metric), _by_seed(second, metric)
    shared = one.keys() & two.keys()
    return bool(shared) and all(_same(one[seed], two[seed]) for seed in shared)


def _same(one: float, two: float) -> bool:
    """Tell whether two numbers differ by no more than one machine's rounding from another's."""
    return math.isclose(one, two, rel_tol=1e-6, abs_tol=1e-5)  # a gain in nats can be near 0


def _by_seed(records: list[Record], metric: str) -> dict[int, float]:
    found = {r.seed: number_of(r, metric) for r in records if r.complete}
    return {seed: number for seed, number in found.items() if number is not None}


def _words(
    members: list[Record],
    variants: list[list[Record]],
    varied: list[str],
    flat: dict[str, dict[str, Any]],
) -> str:
    """Name a variant by the settings that set it apart from the other variants."""
    firsts = [flat[variant[0].id] for variant in variants]
    telling = [key for key in varied if len({repr(facts.get(key)) for facts in firsts}) > 1]
    return ", ".join(f"{key}={flat[members[0].id].get(key)}" for key in telling)


def _is_housekeeping(key: str) -> bool:
    return key in _HOUSEKEEPING or key.startswith(_PRESENTATION)
