# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs the scripts of a combined file."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from combine.runtime.dispatcher import Dispatcher
from combine.runtime.files import unpack
from combine.runtime.health import ScriptList
from combine.runtime.loader import Loader
from combine.runtime.log import Log
from combine.runtime.modules import Modules
from combine.runtime.registry import Registry
from combine.runtime.routes import collide
from combine.runtime.script import Script


def read_settings(functions: Mapping[str, Any]) -> dict[str, Any]:
    """Read the section CombinedScripts; a wrong value is an ERROR line and the default."""
    allowed: dict[str, list[Any]] = {"OnLoadError": ["stop", "skip"], "LogPrefix": [True, False]}
    section = json.loads(functions["GetConfiguration"]()).get("CombinedScripts", {})
    if not isinstance(section, dict):
        functions["LogError"]("CombinedScripts must be an object: the defaults are used")
        section = {}
    settings = {key: values[0] for key, values in allowed.items()}
    for key, value in section.items():
        if value in ("true", "false"):  # an environment variable is a text
            value = value == "true"
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1, 0)
            functions["LogError"](f"CombinedScripts has no key {key!r}: did you mean {near[0]!r}?")
        elif json.dumps(value) not in map(json.dumps, allowed[key]):
            choice = " or ".join(json.dumps(one) for one in allowed[key])
            functions["LogError"](
                f"CombinedScripts: {key} is {json.dumps(value)}, allowed is {choice}: "
                f"{json.dumps(settings[key])} is used"
            )
        else:
            settings[key] = value
    return settings


class Runtime:
    """What is between Orthanc and the scripts of a combined file."""

    def __init__(self, real: Any, scripts: list[Script], allow_conflict: bool) -> None:
        self.scripts = scripts
        # The functions as they are now: what scripts get in their place is in `real` too (see Modules.install).
        self.functions: dict[str, Any] = dict(vars(real))
        self.owners: dict[int, Script] = {}
        self.kept: list[Any] = []
        self.settings = read_settings(self.functions)
        self.log = Log(self.functions, self.owners)
        self.log.prefix = self.settings["LogPrefix"]
        dispatcher = Dispatcher(real, self.functions, self.log)
        self.changes = dispatcher.changes
        registry = self.registry = Registry(scripts, self.functions, self.log, dispatcher, allow_conflict)
        self.modules = Modules(real, self.functions, self.owners, self.log, registry)

    def start(self, combined: str, file: Path) -> None:
        """Load every script, in the order of the command line."""
        loader = Loader(self.scripts, self.owners, self.log, file.absolute().parent, unpack(file.read_text("utf-8")))
        sys.meta_path.insert(0, loader)
        self.modules.install(self.scripts)
        # What abc keeps of a first isinstance(), made in a received-instance callback, crashes plugin 7.1 with Python 3.14
        # when it ends: here, where it does no harm, is the one that formatting an error makes.
        self.log.trace(ImportError())
        self.kept.append(self.answer_status)
        self.functions["RegisterRestCallback"]("/combined-scripts", self.kept[-1])
        if combined in loader.scripts:  # the combined file bears the name of one of its scripts
            self.kept.append(sys.modules.pop(combined))
        for script in self.scripts:
            try:
                if script.state == "failed":  # when another script imported it
                    raise ImportError(f"the script {script.module} failed to load")
                importlib.import_module(script.module)
            except BaseException:
                if self.settings["OnLoadError"] == "stop":
                    raise
                self.log.write("Error", f"Orthanc goes on without {script.module}")
        self.speak_for_all()

    def speak_for_all(self) -> None:
        """Register `/scripts` and `/scripts/health`, unless a script has such a route of its own."""
        for path, answer in ScriptList(self.scripts, self.log).routes.items():
            if owners := [script.module for script, pattern in self.registry.routes if collide(pattern, path)]:
                self.log.write("Warning", f"{owners[0]} has the route {path}: it does not speak for all scripts")
            else:
                self.kept.append(answer)
                self.functions["RegisterRestCallback"](path, answer)

    def answer_status(self, output: Any, uri: str, **request: Any) -> None:
        """Answer `GET /combined-scripts`."""
        if request["method"] != "GET":
            output.SendMethodNotAllowed("GET")
            return
        output.AnswerBuffer(json.dumps([self.status(script) for script in self.scripts], indent=2), "application/json")

    def status(self, script: Script) -> dict[str, Any]:
        return {
            "Name": script.module,
            "File": script.file,
            "Version": script.version,
            "SHA256": script.sha256,
            "State": script.state,
            "Error": script.error,
            "Callbacks": [
                {"Name": one.kind, "Calls": one.calls, "Errors": one.errors, "Seconds": round(one.seconds, 6)}
                for one in script.callbacks
            ],
        }


def run(name: str, file: str, scripts: list[dict[str, Any]], allow_conflict: bool) -> Runtime:
    """Start the combined file `file`, which Orthanc knows as the module `name`."""
    import orthanc

    runtime = Runtime(orthanc, [Script(**script) for script in scripts], allow_conflict)
    runtime.start(name, Path(file))
    return runtime
