"""`memdec bench`: run benchmarks one after another and keep each result as soon as it is there."""

from collections.abc import Sequence
from pathlib import Path

from memdec.bench.config import BenchConfig
from memdec.bench.load import Load
from memdec.bench.record import is_correct, make_entry, record_file, update_record
from memdec.bench.registry import check_names, run_benchmark

EXIT_WRONG = 1


def run_bench(names: Sequence[str], config: BenchConfig, output: Path | None = None) -> int:
    """Run the benchmarks named, or all; print them, and record them in the folder `output`.

    Returns 1 when a fast way gave a wrong number, else 0; a goal that is missed is no error.

    Raises:
        ConfigError: A name, a size or the output is no good; nothing has been run then.
    """
    names = check_names(names)
    file = record_file(output) if output else None
    from memdec.bench.clock import ceiling
    from memdec.bench.show import show_entry, write_page
    from memdec.models.loading import pick_device

    pick_device(config.device)
    wrong = False
    for name in names:
        limits, load = ceiling(config.device), Load()
        outcome = run_benchmark(name, config)
        entry = make_entry(config, outcome, limits, load.others_share())
        show_entry(name, entry)
        wrong = wrong or not is_correct(entry)
        if file:
            update_record(file, {name: entry})
            write_page(file.parent)
            print(f"recorded: {file}")
    return EXIT_WRONG if wrong else 0
