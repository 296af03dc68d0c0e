# SPDX-License-Identifier: AGPL-3.0-or-later
"""Loads scripts against the stand-in, each in a process of its own, and writes down all that they did.

It reads one JSON object a line from standard input ({"script": path, "plugin": version}) and answers one a line.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testing.standin import StandIn

REQUESTS = [("GET", path) for path in ("/open", "/closed", "/odd", "/broken")]
PATIENTS = ["GOOD", "BAD", "BROKEN"]


def attempt(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a call gives, or the error that it ends with."""
    try:
        return function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001
        return f"raised {type(error).__name__}: {error}"


def drive(standin: StandIn) -> dict[str, Any]:
    """Send every script the same day of work."""
    module = standin.module
    seen: dict[str, Any] = {}
    change, registered = module.ChangeType, standin.registered

    def callbacks(name: str) -> list[Any]:
        return [arguments[0] for arguments in registered.get(name, [])]

    for kind in (
        change.ORTHANC_STARTED,
        change.NEW_INSTANCE,
        change.STABLE_STUDY,
        change.DELETED,
    ):
        for on_change in callbacks("RegisterOnChangeCallback"):
            attempt(on_change, kind, module.ResourceType.STUDY, f"id-{kind}")
    for on_stored in callbacks("RegisterOnStoredInstanceCallback"):
        attempt(on_stored, standin.object("DicomInstance", GetInstanceSize=7), "stored")
    for accept in callbacks("RegisterIncomingHttpRequestFilter"):
        seen["requests"] = [
            attempt(accept, uri, method=method, ip="::1", headers={"a": "b"}, get={}) for method, uri in REQUESTS
        ]
    for accept in callbacks("RegisterIncomingCStoreInstanceFilter"):
        instances = [standin.object("DicomInstance", GetInstanceRemoteAet=patient) for patient in PATIENTS]
        seen["instances"] = [attempt(accept, instance) for instance in instances]
    for receive in callbacks("RegisterReceivedInstanceCallback"):
        answer = attempt(receive, b"x", module.InstanceOrigin.DICOM_PROTOCOL)
        seen["received"] = [answer[0], (answer[1] or b"").decode()] if isinstance(answer, tuple) else answer
    routes = seen["routes"] = {}
    for pattern, _handler in registered.get("RegisterRestCallback", []):
        if pattern.startswith("/route"):
            path = pattern.replace("(.*)", "tail")
            answers = [attempt(standin.http, method, path, body=b"body") for method in ("GET", "POST", "DELETE")]
            routes[pattern] = [getattr(answer, "text", answer) for answer in answers]
    for on_change in callbacks("RegisterOnChangeCallback"):
        attempt(on_change, change.ORTHANC_STOPPED, module.ResourceType.NONE, "")
    return seen


def observe(script: Path, plugin: str) -> dict[str, Any]:
    standin = StandIn(plugin)
    sys.path.insert(0, str(script.parent))
    with standin.installed():
        failure = attempt(importlib.import_module, script.stem)
        seen = drive(standin) if not isinstance(failure, str) else {"failure": failure}
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join(10)
    return {**seen, "logs": standin.logs, "unexpected": standin.unexpected}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what scripts print is no answer
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(20)
            seen = attempt(observe, Path(task["script"]), task["plugin"])
            print(json.dumps(seen, default=repr), file=answers, flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(json.dumps("the process died"), file=answers, flush=True)


class Observer:
    """Asks a process that runs this file what a script does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, script: Path, plugin: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"script": str(script), "plugin": plugin}) + "\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert isinstance(seen, dict), seen
        assert not seen["unexpected"], seen
        assert "failure" not in seen, seen
        return seen


@contextmanager
def observing() -> Iterator[Observer]:
    command = [sys.executable, __file__]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Observer(process)
        assert process.stdin
        process.stdin.close()


if __name__ == "__main__":
    main()
