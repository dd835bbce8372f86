"""What stands below a table: sources, warnings, and where each number was made."""

import math

from memdec.results.paper import PaperTable
from memdec.results.printed import Heading, Row
from memdec.results.record import Record
from memdec.results.specs import PERPLEXITY, field_of, last_part

_NUM_TOKENS = "test/num_tokens"
_GATE_RATIO = "test/perplexity_ratio_to_one_alpha"
_RIVALS = ("knn_lm", "in_context_rag", "dapt", "dapt_memory", "lora")
_ROUNDING = 1e-5
"""Between machines: 5e-8 was seen. Another copy of a model: 7e-5."""


def notes_of(
    records: list[Record],
    papers: list[PaperTable],
    has_intervals: bool = True,
    metric: str = PERPLEXITY,
) -> list[str]:
    """Return the remarks that a reader of the metric needs before comparing numbers."""
    notes = []
    if any(other.seed != record.seed for record in records for other in records[:1]):
        notes.append(
            "Mean and sample standard deviation over n seeds; no deviation where a seed changes "
            "nothing."
        )
    if has_intervals and any(record.intervals for record in records):
        notes.append(
            "Brackets hold the 95% interval by bootstrap over test documents, where there are 10 "
            "or more; over several seeds its ends' means."
        )
    notes += _test_documents(records)
    if any(record.alpha is not None and not _fixed_alpha(record) for record in records):
        notes.append("alpha (and kNN-LM's temperature) was chosen on validation text.")
    if any(_fixed_alpha(record) for record in records):
        notes.append("alpha was fixed in advance in runs that set it.")
    notes += _gates(records) if metric == PERPLEXITY else []
    notes += _unlike_tokens(records) + _unlike_bases(records) + _temperatures_at_the_end(records)
    notes += [f"Failed: {r.id}: {r.error}" for r in records if not r.complete]
    dirty = [record.id for record in records if record.provenance.dirty]
    if dirty:
        notes.append(f"Made from edited sources: {', '.join(dirty)}.")
    for paper in papers:
        notes.append(f"Paper: {paper.source}, {paper.title} [{paper.certainty}].")
        notes += paper.notes
    return notes


def rivals_ahead(rows: list[Row], headings: list[Heading]) -> list[str]:
    """Say for each memory which other methods have a lower perplexity, as printed, and where."""
    notes = []
    for row in rows:
        if row.method != "memory_decoder":
            continue
        rivals = [r for r in rows if r.method in _RIVALS and r.group == row.group]
        compared = [(r.name, c) for r in rivals if (c := _lower(r, row, headings)) is not None]
        if compared:
            ahead = [f"{name} ({', '.join(columns)})" for name, columns in compared if columns]
            none = f"none (compared: {', '.join(name for name, _ in compared)})"
            name = f"{row.name} ({row.group})" if len({r.group for r in rows}) > 1 else row.name
            notes.append(f"Ahead of {name}: {', '.join(ahead) or none}.")
    return notes


def _lower(rival: Row, row: Row, headings: list[Heading]) -> list[str] | None:
    """Return the columns where the rival's perplexity is lower; None where nothing compares."""
    found: list[tuple[str, bool]] = []
    for heading, theirs, ours in zip(headings, rival.cells, row.cells, strict=True):
        means = [one.cell.mean for one in (theirs, ours) if one.cell]
        printed = [round(mean, heading.column.digits) for mean in means if mean is not None]
        if heading.column.metric == PERPLEXITY and len(printed) == 2:
            found.append((heading.label, printed[0] < printed[1]))
    return [label for label, is_lower in found if is_lower] if found else None


def commits(records: list[Record]) -> list[str]:
    """Return the commits the records were made from, shortened."""
    return sorted({record.provenance.commit[:12] for record in records})


def hardware(record: Record) -> str:
    """Describe the machine of a run in a few words."""
    facts = record.provenance.hardware
    parts = [facts.get("gpu"), facts.get("cpu")]
    if facts.get("cores"):
        parts.append(f"{facts['cores']} cores")
    if facts.get("memory_gib"):
        parts.append(f"{facts['memory_gib']:g} GiB")
    return ", ".join(str(part) for part in parts if part) or "hardware not recorded"


def seconds(record: Record) -> float:
    """Return what the run took; 0 for one that failed."""
    return record.budget.get("seconds", 0.0)


def origin(record: Record) -> str:
    """Say in one line how a record came to be."""
    provenance = record.provenance
    state = " (edited)" if provenance.dirty else ""
    return (
        f"{record.id}: commit {provenance.commit[:12]}{state}, {seconds(record):,.0f} s on "
        f"{hardware(record)}; {provenance.command}"
    )


def _oldest_first(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.provenance.finished, record.id))


def _fixed_alpha(record: Record) -> bool:
    """Tell whether the run's settings name the alpha, instead of leaving it to validation."""
    section = record.config.get(record.method)
    return isinstance(section, dict) and isinstance(section.get("alpha"), int | float)


def _test_documents(records: list[Record]) -> list[str]:
    """Say how many texts the numbers rest on, and how many of them training saw.

    A cut at so many tokens takes other documents where a model tokenizes otherwise: the models of
    a topic are then named. Of training texts of several sizes the least and the most are given.
    """
    trained: dict[tuple[str, str], list[float]] = {}
    newest: dict[tuple[str, str], tuple[str, str, float]] = {}
    for record in _oldest_first(records):
        metrics = record.metrics
        if "test/num_documents" not in metrics:
            continue
        count = f"{metrics['test/num_documents']:g}"
        model = last_part(field_of(record, "config.model.source"))
        if "train/num_documents" in metrics:
            train = trained.setdefault((record.experiment, model), [])
            train.append(metrics["train/num_documents"])
            ends = " to ".join(dict.fromkeys(f"{end:g}" for end in (min(train), max(train))))
            count += f" (train {ends}, validation {metrics['validation/num_documents']:g})"
        newest[record.experiment, model] = record.topic, count, metrics["test/documents_in_train"]
    if not newest:
        return []
    words, seen = [], []
    for (_, model), (topic, count, repeated) in sorted(
        newest.items(), key=lambda pair: (pair[1][0], pair[0])
    ):
        models = {m for (_, m), (t, *_) in newest.items() if t == topic}
        unlike = {tuple(facts) for t, *facts in newest.values() if t == topic}
        name = f"{topic} ({model})" if min(len(models), len(unlike)) > 1 else topic
        words.append(f"{name} {count}")
        if repeated:
            seen.append(f"{name} {repeated:g}")
    counts = ", ".join(dict.fromkeys(words))
    tail = f"In train too, whole or nearly: {', '.join(dict.fromkeys(seen))}." if seen else ""
    return [f"Test documents: {counts}. {tail or 'None is in train too, or nearly.'}"]


def _gates(records: list[Record]) -> list[str]:
    """Say where a gate beats one alpha beyond doubt, and where that is not shown."""
    highest: dict[str, float] = {}
    names = {}
    for record in _oldest_first(records):
        if _GATE_RATIO in record.metrics:
            high = record.intervals.get(_GATE_RATIO, (0.0, math.inf))[1]
            highest[record.experiment] = max(high, highest.get(record.experiment, 0.0))
            names[record.experiment] = record.topic
    if not highest:
        return []
    shown = ", ".join(sorted(names[key] for key, high in highest.items() if high < 1))
    rest = ", ".join(sorted(names[key] for key, high in highest.items() if high >= 1))
    words = f"Adaptive alpha beats one alpha, by the interval of their ratio: {shown or 'nowhere'}."
    return [f"{words} Not shown for {rest}." if rest else words]


def _unlike_tokens(records: list[Record]) -> list[str]:
    """Warn when methods of one experiment did not score the same test tokens."""
    notes = []
    for experiment in sorted({record.experiment for record in records}):
        counts = {
            record.metrics[_NUM_TOKENS]
            for record in records
            if record.experiment == experiment and _NUM_TOKENS in record.metrics
        }
        if len(counts) > 1:
            words = ", ".join(f"{count:,.0f}" for count in sorted(counts))
            notes.append(
                f"Warning: runs of {experiment} scored different numbers of test tokens ({words}); "
                "do not compare them."
            )
    return notes


def _unlike_bases(records: list[Record]) -> list[str]:
    """Warn when one model of one experiment scored the test text differently: two copies of it."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        ratio = record.metrics.get("test/perplexity_ratio_to_base")
        if ratio:
            model = last_part(field_of(record, "config.model.source"))
            base = record.metrics[PERPLEXITY] / ratio
            found.setdefault((record.experiment, model), []).append(base)
    return [
        f"Warning: {model} alone has {min(bases):.4f} in some runs of {experiment} and "
        f"{max(bases):.4f} in others; they are not quite comparable."
        for (experiment, model), bases in sorted(found.items())
        if max(bases) / min(bases) > 1 + _ROUNDING
    ]


def _temperatures_at_the_end(records: list[Record]) -> list[str]:
    """Warn where the best temperature is the highest or the lowest that was tried."""
    tried = [
        (record, record.config.get("knn_lm", {}).get("temperatures", [])) for record in records
    ]
    # a single neighbor has all the weight at any temperature, and at alpha 0 none counts
    matters = [
        (record, found)
        for record, found in tried
        if len(found) > 1 and record.alpha and record.config.get("knn", {}).get("k") != 1
    ]
    notes = []
    for end, words, wanted in ((max, "highest", "higher"), (min, "lowest", "lower")):
        ids = [r.id for r, found in matters if r.tuned.get("temperature") == end(found)]
        if ids:
            notes.append(
                f"Warning: the {words} temperature tried was the best for {', '.join(ids)}; "
                f"try {wanted} ones."
            )
    return notes
