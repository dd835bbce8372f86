"""A warm process that forks one `memdec` command after another; importing torch takes seconds.

Reads one JSON object a line: {"wait": PID} answers the exit code (-9 after SIGKILL); anything else
starts a command and answers its process id. Its "kill" is
{"at": "module:Class.method", "call": 2, "stage": "tokens", "after": true}: the process sends itself
SIGKILL at the second call (of that stage's ArtifactWriter), after the call or else before it; with
"raises": TEXT it raises RuntimeError(TEXT) there instead. Its "patch" is {"free": BYTES}, what
shutil.disk_usage then reports.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PRELOAD = (
    "memdec.cli",
    "lightning.pytorch.loggers",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.tokenization_utils_tokenizers",
    "memdec.pipeline.runner",
    "memdec.pipeline.evaluate",
    "memdec.training.fit",
    "memdec.evaluation.scores",
    "memdec.evaluation.settle",
)


def main() -> None:
    sys.path.insert(0, str(Path.cwd()))
    for name in PRELOAD:
        importlib.import_module(name)
    gc.freeze()  # what is shared with the children stays shared
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(run(request))  # an orderly end of the interpreter takes two seconds
        print(answer, flush=True)


def run(request: dict[str, Any]) -> int:
    """Run the command and return its exit code."""
    folder = Path(request["folder"])
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    if request["kill"]:
        arm(**request["kill"])
    if request["patch"]:
        usage = SimpleNamespace(free=request["patch"]["free"])
        shutil.disk_usage = lambda path: usage  # type: ignore[assignment,return-value]
    sys.argv = ["memdec", *request["arguments"]]
    from memdec.cli import main as memdec_main

    try:
        memdec_main(request["arguments"])
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    raise AssertionError("memdec leaves by SystemExit")


def arm(at: str, call: int = 1, stage: str = "", after: bool = False, raises: str = "") -> None:
    """Make the process kill itself at a call of a function, so that tests hit the exact moment."""
    module, _, path = at.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        here = not stage or arguments[0].path.parent.name == stage
        calls += here
        if here and calls == call and raises:
            raise RuntimeError(raises)
        if here and calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if here and calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


if __name__ == "__main__":
    main()
