# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the runtime and the scripts write into Orthanc's log, and how an error is logged there."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from combine.runtime.routes import SHARED
from combine.runtime.script import Callback, Script


def begins_with_name(text: str, name: str) -> bool:
    """Return whether a line of the log begins with the script's name, with `-` or `_`: it needs no other."""
    first = re.match(r"([\w-]+)[: ]", text)
    return first is not None and first[1].replace("-", "_") == name.replace("-", "_")


class Log:
    """Orthanc's log. `functions` are those of the real module `orthanc`, `owners` the scripts by the id of their globals."""

    def __init__(self, functions: Mapping[str, Any], owners: Mapping[int, Script]) -> None:
        self._functions, self._owners = functions, owners
        self.prefix = (
            True  # whether `[name]` is put before what a script logs, where its line does not begin with the name
        )

    def write(self, level: str, message: str) -> None:
        """Write a line of our own; what the plugin refuses in a text (NUL, half a surrogate) is spelled out."""
        self._functions[f"Log{level}"](message.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0"))

    def write_for(self, script: Script, name: str, args: tuple[Any, ...]) -> Any:
        """Write what a script logs by the function `name` of its `orthanc`."""
        if self.prefix and args and isinstance(args[0], str) and not begins_with_name(args[0], script.module):
            args = (f"[{script.module}] {args[0]}", *args[1:])
        return self._functions[name](*args)

    def trace(self, error: BaseException) -> str:
        """Format the traceback of `error` from the first line on that is a script's."""
        step = error.__traceback__
        while step is not None and id(step.tb_frame.f_globals) not in self._owners:
            step = step.tb_next
        return "".join(traceback.format_exception(type(error), error, step or error.__traceback__))

    def describe(self, error: BaseException) -> str:
        """Name an error and where it left the scripts' code; its message may hold secrets and stays in the log."""
        steps = traceback.walk_tb(error.__traceback__)
        places = [
            f" at {Path(frame.f_code.co_filename).name}, line {line}"
            for frame, line in steps
            if id(frame.f_globals) in self._owners
        ]
        return type(error).__name__ + "".join(places[-1:])

    def report(self, callback: Callback, error: BaseException) -> None:
        """Tell that a callback of a script raised `error`."""
        details = SHARED.get(callback.kind, callback.kind)
        self.write("Error", f"[{callback.script.module}] Error in the {details}, traceback:\n{self.trace(error)}")

    def guard(self, callback: Callback, *args: Any) -> None:
        """Call `callback`; what it raises is reported, and is nobody else's."""
        try:
            callback(*args)
        except BaseException as error:  # noqa: BLE001 (also a SystemExit)
            self.report(callback, error)
