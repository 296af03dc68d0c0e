# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gives each script an `orthanc` of its own."""

from __future__ import annotations

import builtins
import functools
import importlib
import itertools
import re
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType
from typing import Any

from combine.runtime.log import Log
from combine.runtime.registry import Registry
from combine.runtime.requests import OwnRequests
from combine.runtime.script import Script, share_connections


class Modules:
    """What is between a script and the module `orthanc`: its own functions that register and log."""

    def __init__(
        self, real: Any, functions: Mapping[str, Any], owners: Mapping[int, Script], log: Log, registry: Registry
    ) -> None:
        self.real, self.functions, self.owners, self.log, self.registry = real, functions, owners, log, registry
        self.requests = OwnRequests(log)

    def install(self, scripts: list[Script]) -> None:
        """Give each script its `orthanc`, and let whoever asks for it find the right one.

        The real module stays in `sys.modules`: the plugin reads its own state from what is there.
        """
        for script in scripts:
            vars(script.orthanc).update(self.functions)
            self._replace(script.orthanc, itertools.repeat(script).__next__)
            vars(script.orthanc)["add_script_entries"] = script.add_entries
            vars(script.orthanc)["report_request"] = functools.partial(self.requests.report, script)
            vars(script.orthanc)["listen_to_requests"] = functools.partial(self.requests.listen, script)
        self._replace(self.real, self.owner)
        special = {"orthanc"}.union(*(script.aliases for script in scripts))
        plain_import, plain_import_module, plain_start = (
            builtins.__import__,
            importlib.import_module,
            threading.Thread.start,
        )

        def find(name: str, script: Script | None) -> str | ModuleType:
            if script is None:
                return name
            head, dot, rest = name.partition(".")
            return script.orthanc if name == "orthanc" else script.aliases.get(head, head) + dot + rest

        def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: A002
            found: str | ModuleType = name
            if not level and name.partition(".")[0] in special:
                # A library that a script loads gets the script's `orthanc`, yet not the script's neighbours in its folder.
                whose = globals is None or name == "orthanc" or "__name__" not in globals
                found = find(name, self.owner() if whose else self.owners.get(id(globals)))
            return plain_import(found, globals, locals, fromlist, level) if isinstance(found, str) else found

        def import_module(name: str, package: str | None = None) -> ModuleType:
            found = find(name, self.owner() if name.partition(".")[0] in special else None)
            return plain_import_module(found, package) if isinstance(found, str) else found

        def start(thread: threading.Thread) -> None:
            script = self.owner()
            if script is not None and not thread.name.startswith(f"{script.module}: "):
                vars(thread)["combined_script"] = script
                thread.name = f"{script.module}: {thread.name}"
            plain_start(thread)

        share_connections()
        builtins.__import__ = import_
        importlib.import_module = import_module
        threading.Thread.start = start  # type: ignore[assignment, method-assign]

    def owner(self) -> Script | None:
        """Find the script whose code is running: the nearest on the stack, else the one whose thread this is."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if (script := self.owners.get(id(frame.f_globals))) is not None:
                return script
            frame = frame.f_back
        return getattr(threading.current_thread(), "combined_script", None)

    def _replace(self, module: ModuleType, who: Callable[[], Script | None]) -> None:
        """Put our own functions in the place of those of `orthanc` that register and log."""
        for name, function in self.functions.items():
            if re.match("Register|ExtendOrthancExplorer", name):
                action = self.registry.register
            elif re.match("Log(?!Category|Level)", name):
                action = self.log.write_for
            else:
                continue

            def call(*args: Any, name: str = name, action: Callable[..., Any] = action) -> Any:
                script = who()
                return self.functions[name](*args) if script is None else action(script, name, args)

            call.__name__ = call.__qualname__ = name
            call.__doc__ = function.__doc__
            setattr(module, name, call)
