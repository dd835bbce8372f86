"""Split a stage's rows over processes or machines, and put the parts together.

`memdec run EXPERIMENT --shard 2/3` makes the second third of encoding, search and targets, as far
as the other thirds allow; whoever finds all parts there merges them. The bytes are those of a run
without shards.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from memdec.artifacts.artifact import Artifact, ArtifactWriter
from memdec.errors import ArtifactError, ConfigError


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def of(self, num_items: int, multiple: int = 1) -> range:
        """Return this part's items, cut at multiples so that batches are those of the whole.

        Raises:
            ConfigError: There are more shards than pieces.
        """
        num_groups = -(-num_items // multiple)
        edges = [num_groups * i // self.count * multiple for i in (self.index, self.index + 1)]
        part = range(min(edges[0], num_items), min(edges[1], num_items))
        if not part:
            raise ConfigError(
                f"--shard {self} is empty: the work has {num_groups:,} pieces; use fewer shards."
            )
        return part


WHOLE = Shard()
_COUNTS = ("rescued_rows", "sampled_rows")
Merge = Callable[[ArtifactWriter, list[Artifact]], None]


def parse_shard(text: str) -> Shard:
    """Read `i/n`, with i from 1 to n.

    Raises:
        ConfigError: It is of another form or out of range.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard is {text!r}; write i/n with i from 1 to n, such as 2/3.")
    return Shard(int(found[1]) - 1, int(found[2]))


def merge_rows(out: ArtifactWriter, parts: list[Artifact]) -> None:
    """Join arrays that have one entry a row.

    Raises:
        ArtifactError: The parts leave rows out or hold them twice.
    """
    check_coverage(parts)
    for name in parts[0].manifest["arrays"]:
        arrays = [part.array(name) for part in parts]
        shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
        joined = out.array(name, shape, arrays[0].dtype)
        _fill(joined, arrays)
    out.info(**_common(parts))


def merge_csr(out: ArtifactWriter, parts: list[Artifact]) -> None:
    """Join sparse rows: `starts` counts on, the entries follow each other.

    Raises:
        ArtifactError: The parts leave rows out or hold them twice.
    """
    check_coverage(parts)
    lengths = np.concatenate([np.diff(part.array("starts")) for part in parts])
    out.write_array("starts", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    for name in ("token_ids", "probs"):
        arrays = [part.array(name) for part in parts]
        joined = out.array(name, (sum(len(array) for array in arrays),), arrays[0].dtype)
        _fill(joined, arrays)
    num_pairs = sum(len(part.array("token_ids")) for part in parts)
    out.info(**_common(parts) | {"num_pairs": num_pairs, "num_rows": len(lengths)})


def check_coverage(parts: list[Artifact]) -> None:
    """Raise ArtifactError unless the parts' row ranges follow each other from 0 to the end."""
    ranges = [tuple(part.info["rows"]) for part in parts]
    edges = [0, *(stop for _, stop in ranges)]
    whole = all(start == edge for (start, _), edge in zip(ranges, edges, strict=False))
    if not whole or edges[-1] != parts[0].info["num_rows_in_all"]:
        raise ArtifactError(
            f"shards cover rows {ranges} of {parts[0].info['num_rows_in_all']:,}; delete "
            f"{parts[0].path.parent} and run the shards again."
        )


def _fill(joined: Any, arrays: list[Any]) -> None:
    first = 0
    for array in arrays:
        joined[first : first + len(array)] = array
        first += len(array)


def _common(parts: list[Artifact]) -> dict[str, Any]:
    """Join the parts' facts: counts add up, and one that differs, as a recall, becomes a list."""
    own = ("rows", "num_rows_in_all")
    facts = {}
    for key in parts[0].info:
        if key not in own:
            values = [part.info[key] for part in parts]
            if key in _COUNTS:
                facts[key] = sum(values)
            else:
                facts[key] = values if any(value != values[0] for value in values) else values[0]
    return facts | ({"num_rows": parts[0].info["num_rows_in_all"]} if "num_rows" in facts else {})
