"""The command line: verbs to functions. User errors are one line and exit code 2."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from memdec import __version__
from memdec.errors import ConfigError, MemdecError

EXIT_USER = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and leave with its exit code."""
    # One line each, without the place in the code that gave it.
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    parser = _parser()
    for word in sys.argv[1:] if arguments is None else arguments:
        if word != word.encode(errors="replace").decode():
            _refuse(f"{word!r} is not UTF-8; set the terminal to it.")
    known, rest = parser.parse_known_args(arguments)
    if rest and not known.takes_settings:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    known.settings = [*getattr(known, "settings", []), *rest]
    try:
        sys.exit(known.verb(known))
    except MemdecError as error:
        _refuse(" ".join(str(error).split()))
    except OSError as error:  # a folder that cannot be written, a disk that ran full
        _refuse(str(error))
    except KeyboardInterrupt:
        print("memdec: interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _refuse(reason: str) -> NoReturn:
    print(f"memdec: {reason}", file=sys.stderr)
    sys.exit(EXIT_USER)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memdec",
        description="Train a small decoder to imitate kNN retrieval; plug it into a frozen LM.",
    )
    parser.add_argument("--version", action="version", version=f"memdec {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    run = _experiment_verb(verbs, "run", _run, "all stages, one record a method, the result table")
    run.add_argument(
        "--shard", metavar="i/n", help="only part i of n of encoding, search and targets"
    )
    text = "stages, what is complete, rows, bytes, FLOPs, time"
    plan = _experiment_verb(verbs, "plan", _plan, text)
    plan.add_argument(
        "--train-tokens", type=_count, metavar="N", help="plan for a training text of this size"
    )
    plan.add_argument(
        "--gflops", type=float, metavar="G", help="speed to reckon with; measured when left out"
    )
    _sweep_verb(verbs)
    _records_verbs(verbs)
    _generate_verb(verbs)
    _bench_verb(verbs)
    return parser


def _verb(
    verbs: Any, name: str, function: Callable[[Any], int], text: str, takes_settings: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(verb=function, takes_settings=takes_settings)
    return parser


def _experiment_verb(
    verbs: Any, name: str, function: Callable[[Any], int], text: str
) -> argparse.ArgumentParser:
    parser = _verb(verbs, name, function, text, takes_settings=True)
    parser.add_argument("experiment", type=Path, help="the experiment's YAML file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings to change")
    return parser


def _run(options: Any) -> int:
    from memdec.pipeline.experiment import load_experiment
    from memdec.pipeline.job import artifacts_root
    from memdec.pipeline.runner import run_experiment, run_shard
    from memdec.pipeline.shards import parse_shard
    from memdec.pipeline.show import show_result
    from memdec.pipeline.tracking import tracked
    from memdec.results.report import build_report

    experiment = load_experiment(options.experiment, [*_sweep_logger(), *options.settings])
    if options.shard:
        print("\n".join(run_shard(experiment, artifacts_root(), parse_shard(options.shard))))
        return 0
    with tracked(experiment, _rank()) as report_record:
        result = run_experiment(experiment, artifacts_root(), _rank())
        for record in result.records if result else []:
            report_record(record)
    if result is not None:
        show_result(result)
        report = build_report(result.folder, result.folder / "report", only_measured=True)
        print(f"report: {result.folder / 'report' / 'index.html'}")
        return _say_problems(report.problems)
    return 0


def _sweep_logger() -> list[str]:
    """Send a run's numbers to W&B below `wandb agent`, unless the command names another logger."""
    return ["logger=wandb"] if "WANDB_SWEEP_ID" in os.environ else []


def _rank() -> int:
    """Return this process's rank, as torchrun or Lightning tells it."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def _plan(options: Any) -> int:
    from memdec.methods.registry import METHODS
    from memdec.pipeline.experiment import load_experiment
    from memdec.pipeline.job import Job, artifacts_root
    from memdec.pipeline.plan import check_room, make_plan, measured_gflops
    from memdec.pipeline.preflight import check_models
    from memdec.pipeline.show import show_plan
    from memdec.pipeline.stages import stages_of

    experiment = load_experiment(options.experiment, options.settings)
    job = Job(experiment, artifacts_root())
    stages = stages_of(experiment, [METHODS[name] for name in experiment.methods])
    if options.gflops is not None and not options.gflops > 0:
        raise ConfigError(f"--gflops must be above 0, got {options.gflops}.")
    plans = make_plan(job, stages, options.train_tokens)
    # A plan makes nothing, not even the model that these checks read.
    if job.is_given("model") or job.made("model"):
        check_models(job, job.required(stages))
    if options.gflops is None:
        show_plan(plans, measured_gflops(), "this CPU's speed in float32 (a GPU's: --gflops)")
    else:
        show_plan(plans, options.gflops, "as given")
    if options.train_tokens is None:
        check_room(job, plans)
    return 0


def _count(text: str) -> int:
    """Read a number of tokens, such as 500000 or 117e6."""
    try:
        count = float(text)
    except ValueError:
        count = 0.0
    if not (count >= 2 and count.is_integer()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens, such as 117e6")
    return int(count)


def _sweep_verb(verbs: Any) -> None:
    text = "the grid of a W&B sweep file on this machine, no account"
    parser = _verb(verbs, "sweep", _sweep, text)
    parser.add_argument("sweep", type=Path, help="the sweep's YAML file")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time; default: 1")


def _sweep(options: Any) -> int:
    from memdec.pipeline.job import artifacts_root
    from memdec.pipeline.sweep import run_sweep

    return run_sweep(options.sweep, options.jobs, artifacts_root())


def _records_verbs(verbs: Any) -> None:
    text = "copy finished records into reports/records"
    parser = _verb(verbs, "collect", _collect, text)
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run folders or records; default: all of this machine"
    )
    parser.add_argument("--to", type=Path, default=Path("reports/records"), metavar="FOLDER")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="take records made by edited sources, too"
    )
    text = "rebuild tables, figures and index.html from records"
    parser = _verb(verbs, "report", _report, text)
    parser.add_argument("--records", type=Path, default=Path("reports/records"), metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("reports"), metavar="FOLDER")


def _collect(options: Any) -> int:
    from memdec.pipeline.job import artifacts_root
    from memdec.results.collect import collect

    done = collect(options.runs or [artifacts_root() / "runs"], options.to, options.allow_dirty)
    print(f"{len(done.copied)} records copied to {options.to}, {len(done.unchanged)} already there")
    return _say_problems(done.problems)


def _report(options: Any) -> int:
    from memdec.results.report import build_report

    report = build_report(options.records, options.output)
    print(f"{len(report.files)} files written; open {options.output / 'index.html'}")
    return _say_problems(report.problems)


def _say_problems(problems: list[str]) -> int:
    for problem in problems:
        print(f"memdec: {problem}", file=sys.stderr)
    return EXIT_USER if problems else 0


def _generate_verb(verbs: Any) -> None:
    text = "continue a prompt with the base, and with base + memory, side by side"
    parser = _verb(verbs, "generate", _generate, text)
    parser.add_argument("--base", required=True, help="model directory, .gguf file or hub name")
    parser.add_argument("--memory", required=True, help="export folder of a memory")
    parser.add_argument("--alpha", required=True, type=float, help="the memory's share, 0 to 1")
    parser.add_argument("--prompt", required=True, help="text to continue")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="default: 64")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda; default: auto")
    parser.add_argument("--dtype", default="float32", help="default: float32")


def _generate(options: Any) -> int:
    from memdec.checks import check_at_least, check_choice, check_share
    from memdec.models.config import DTYPES
    from memdec.models.exports import read_memory_facts
    from memdec.pipeline.job import artifacts_root, find_export, model_directory
    from memdec.pipeline.show import show_pair

    check_share("--alpha", options.alpha)
    check_at_least("--max-new-tokens", options.max_new_tokens, 1)
    check_choice("--dtype", options.dtype, DTYPES)
    memory = find_export("--memory", options.memory)
    trained_with = read_memory_facts(memory).get("trained_with", {})
    base = model_directory(options.base, artifacts_root())
    from memdec.models.side_by_side import continue_both

    texts = continue_both(
        base,
        memory,
        options.alpha,
        options.prompt,
        options.max_new_tokens,
        options.device,
        options.dtype,
        *(trained_with.get(key, "auto") for key in ("model.bos", "model.separator")),
    )
    show_pair(options.prompt, *texts)
    return 0


def _bench_verb(verbs: Any) -> None:
    from memdec.bench.config import BenchConfig
    from memdec.bench.registry import BENCHMARKS

    sizes = BenchConfig()
    text = f"measure against plain alternatives: {', '.join(BENCHMARKS)}"
    parser = _verb(verbs, "bench", _bench, text)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; default: all")
    rows = f"keys to search; default: {sizes.rows}"
    parser.add_argument("--rows", type=int, default=sizes.rows, help=rows)
    repeats = f"timings of each side; default: {sizes.repeats}"
    parser.add_argument("--repeats", type=int, default=sizes.repeats, help=repeats)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; default: cpu")
    parser.add_argument("--keys", default="", help=".npy file of keys; default: made up")
    parser.add_argument("--model", default="", help="model directory; default: random weights")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="record the figures there")


def _bench(options: Any) -> int:
    from memdec.bench.command import run_bench
    from memdec.bench.config import BenchConfig

    settings = ("rows", "repeats", "device", "keys", "model")
    config = BenchConfig(**{name: getattr(options, name) for name in settings})
    return run_bench(options.names, config, options.output)
