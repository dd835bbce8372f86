"""Synthetic records: the numbers are made up for the tests and never stand in reports/records."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memdec.results.record import Record, parse_record

Facts = dict[str, Any]

_FACTS: Facts = {
    "schema": 1,
    "experiment": "toy",
    "title": "Toy experiment",
    "table": "toy",
    "method": "base",
    "label": "",
    "scale": "small",
    "seed": 0,
    "config": {
        "seed": 0,
        "model": {"source": "toy-model"},
        "knn": {"k": 4},
        "memory_decoder": {"beta": 0.5},
    },
    "fingerprint": "0123456789abcdef",
    "metrics": {"test/perplexity": 20.0, "test/num_tokens": 900, "validation/perplexity": 21.0},
    "alpha": None,
    "tuned": {},
    "intervals": {},
    "curves": {},
    "examples": [],
    "generation": None,
    "budget": {"parameters": 1000, "seconds": 10.0},
    "stages": [{"name": "tokens", "seconds": 1.5, "bytes": 10, "reused": False, "fingerprint": ""}],
    "provenance": {
        "commit": "abcdef0123456789",
        "dirty": False,
        "command": "memdec run toy.yaml",
        "versions": {"python": "3.11"},
        "hardware": {"cpu": "Toy CPU", "cores": 2, "memory_gib": 4.0, "gpu": None},
        "started": "2026-01-01T00:00:00Z",
        "finished": "2026-01-01T00:01:00Z",
    },
    "status": "complete",
}


def build_facts(perplexity: float | None = None, **changes: Any) -> Facts:
    """Return the facts of a valid record; `config` and `metrics` are merged, others replaced."""
    facts = copy.deepcopy(_FACTS)
    for key in ("config", "metrics", "provenance"):
        facts[key].update(changes.pop(key, {}))
    facts.update(changes)
    facts["config"]["seed"] = facts["seed"]
    if perplexity is not None:
        facts["metrics"]["test/perplexity"] = perplexity
    if facts["status"] == "failed":
        facts.update(metrics={}, error=facts.get("error") or "out of memory")
    name = f"{facts['experiment']}-{facts['method']}-s{facts['seed']}-{facts['fingerprint'][:8]}"
    facts.setdefault("id", name)
    return facts


@pytest.fixture
def make_facts() -> Callable[..., Facts]:
    return build_facts


@pytest.fixture
def make_record() -> Callable[..., Record]:
    def make(perplexity: float | None = None, **changes: Any) -> Record:
        return parse_record(build_facts(perplexity, **changes), "synthetic")

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write facts as tmp_path/records/ID.json (or under another name) and return the path."""

    def write(facts: Facts, name: str = "") -> Path:
        path = tmp_path / "records" / (name or f"{facts['id']}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts))
        return path

    return write
