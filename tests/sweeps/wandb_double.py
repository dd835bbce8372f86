"""A loopback double of the W&B server: enough GraphQL for `wandb sweep`, agents and runs.

It stands in for the network only; the `wandb` binaries that talk to it are the real ones. Protocol
as measured with wandb 0.31. By hand: `python tests/sweeps/wandb_double.py` prints what to export.
"""

import base64
import contextlib
import gzip
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY, PROJECT = "tester", "memdec"
OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
Json = dict[str, Any]


@dataclass
class Run:
    """What the server knows of one run."""

    name: str
    sweep: str = ""
    agent: str = ""
    arguments: Json = field(default_factory=dict)
    """Parameters that the sweep gave it."""
    config: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    state: str = "pending"
    """pending, running, finished, failed or crashed (process gone without a last word)."""


@dataclass
class Sweep:
    """A grid and what is left of it."""

    name: str
    config: Json
    waiting: list[Json]
    state: str = "RUNNING"


def grid(config: Json) -> list[Json]:
    """Expand `parameters` as the server does: names sorted, the first varies slowest."""
    names = sorted(config["parameters"])
    specs = [config["parameters"][name] for name in names]
    values = [spec["values"] if "values" in spec else [spec["value"]] for spec in specs]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]


class WandbDouble:
    """The server's state and its answers; use as a context manager."""

    def __init__(self) -> None:
        self.sweeps: dict[str, Sweep] = {}
        self.runs: dict[str, Run] = {}
        self.operations: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self._agents: dict[str, str] = {}
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"double": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "WandbDouble":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Variables that point the wandb binaries here."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ENTITY": ENTITY,
            "WANDB_PROJECT": PROJECT,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_DISABLE_GIT": "true",
            "WANDB_CONSOLE": "off",
            "NO_PROXY": "127.0.0.1",
        }

    def answer(self, operation: str, variables: Json) -> Json | None:
        """Answer one GraphQL operation; None for one that the server does not know."""
        with self._lock:
            self.operations.append(operation)
            method = getattr(self, f"_on_{operation}", None)
            return None if method is None else method(variables)

    def stream(self, name: str, body: Json) -> None:
        """Take what a run streams: history, summary and its last word."""
        with self._lock:
            run = self.runs.setdefault(name, Run(name))
            for file, part in body.get("files", {}).items():
                lines = [json.loads(line) for line in part["content"] if line.startswith("{")]
                if file == "wandb-history.jsonl":
                    run.history += lines
                if file == "wandb-summary.json" and lines:
                    run.summary = lines[-1]
            if body.get("complete"):
                run.state = "failed" if body.get("exitcode") else "finished"

    def _on_Viewer(self, variables: Json) -> Json:
        viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "admin": False}
        return {
            "viewer": viewer | {"email": "", "teams": {"edges": []}},
            "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}},
        }

    def _on_ServerFeaturesQuery(self, variables: Json) -> Json:
        return {"serverInfo": {"features": []}}

    def _on_UpsertSweep(self, variables: Json) -> Json:
        name = variables.get("id")
        if name:
            self.sweeps[name].state = variables["state"]
        else:
            name = f"sweep{len(self.sweeps)}"
            config = yaml.safe_load(variables["config"])
            self.sweeps[name] = Sweep(name, config, grid(config))
        project = {"id": "p", "name": PROJECT, "entity": {"id": "e", "name": ENTITY}}
        sweep = {"name": name, "project": project}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _on_SweepWithRuns(self, variables: Json) -> Json:
        sweep = self.sweeps.get(variables["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        facts = {
            "id": sweep.name,
            "name": sweep.name,
            "method": "grid",
            "state": sweep.state,
            "config": yaml.safe_dump(sweep.config),
            "runs": {"edges": []},
        }
        return {"project": {"sweep": facts}}

    def _on_CreateAgent(self, variables: Json) -> Json:
        agent = f"agent{len(self._agents)}"
        self._agents[agent] = variables["sweep"]
        return {"createAgent": {"agent": {"id": agent}}}

    def _on_Heartbeat(self, variables: Json) -> Json:
        agent = variables["id"]
        alive = json.loads(variables["runState"])
        self._mark_crashed(agent, alive)
        commands = [] if alive else [self._next_command(agent)]
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(commands)}}

    def _mark_crashed(self, agent: str, alive: Json) -> None:
        for run in self.runs.values():
            gone = run.agent == agent and run.name not in alive
            if gone and run.state in ("pending", "running"):
                run.state = "crashed"

    def _next_command(self, agent: str) -> Json:
        sweep = self.sweeps[self._agents[agent]]
        if not sweep.waiting or sweep.state != "RUNNING":
            return {"type": "exit"}
        arguments = sweep.waiting.pop(0)
        name = f"run{len(self.runs)}"
        self.runs[name] = Run(name, sweep=sweep.name, agent=agent, arguments=arguments)
        return {
            "type": "run",
            "run_id": name,
            "program": sweep.config.get("program"),
            "args": {key: {"value": value} for key, value in arguments.items()},
        }

    def _on_RunResumeStatus(self, variables: Json) -> Json:
        return {"model": {"id": "p", "name": PROJECT, "entity": {"name": ENTITY}, "bucket": None}}

    def _on_UpsertBucket(self, variables: Json) -> Json:
        name = variables["name"]
        run = self.runs.setdefault(name, Run(name))
        run.state = "running"
        if variables.get("config"):
            values = json.loads(variables["config"])
            run.config |= {key: value["value"] for key, value in values.items()}
        project = {"id": "p", "name": PROJECT, "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": base64.b64encode(name.encode()).decode(),
            "name": name,
            "displayName": name,
            "description": "",
            "config": json.dumps({}),
            "sweepName": run.sweep or None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _on_CreateRunFiles(self, variables: Json) -> Json:
        name = variables["run"]
        files = [
            {"name": file, "uploadUrl": f"{self.url}/upload/{name}/{file}"}
            for file in variables["files"]
        ]
        return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": files}}


class _Handler(BaseHTTPRequestHandler):
    double: WandbDouble
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # a client that left is no error here
            super().handle()

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            request = json.loads(body)
            found = OPERATION.search(request["query"])
            operation = request.get("operationName") or (found[1] if found else "")
            answer = self.double.answer(operation, request.get("variables") or {})
            if answer is None:
                return self._reply(200, {"data": None, "errors": [{"message": operation}]})
            return self._reply(200, {"data": answer})
        if self.path.endswith("/file_stream"):
            self.double.stream(self.path.split("/")[-2], json.loads(body))
            return self._reply(200, {"exitcode": None, "limits": {}})
        return self._reply(404, {})

    def do_PUT(self) -> None:
        self.double.uploads[self.path.removeprefix("/upload/")] = self._body()
        self._reply(200, {})

    def do_GET(self) -> None:
        self._reply(404, {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return self._inflate(b"".join(parts))
        return self._inflate(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _inflate(self, body: bytes) -> bytes:
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, status: int, answer: Json) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


if __name__ == "__main__":
    with WandbDouble() as served:
        for name, value in served.environment().items():
            print(f"export {name}={value}")
        threading.Event().wait()
