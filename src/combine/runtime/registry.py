# SPDX-License-Identifier: AGPL-3.0-or-later
"""Takes what scripts register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from combine.runtime.dispatcher import Dispatcher
from combine.runtime.log import Log
from combine.runtime.routes import SHARED, collide, single_owner
from combine.runtime.script import Callback, Script


class Registry:
    """What the scripts registered: what several may have is shared out, what one only can have is one script's."""

    def __init__(
        self,
        scripts: list[Script],
        functions: Mapping[str, Any],
        log: Log,
        dispatcher: Dispatcher,
        allow_conflict: bool,
    ) -> None:
        self.scripts, self.functions, self.log, self.dispatcher = scripts, functions, log, dispatcher
        self.allow_conflict = allow_conflict
        self.routes: list[tuple[Script, str]] = []
        self.single: dict[str, Script] = {}

    def register(self, script: Script, name: str, args: tuple[Any, ...]) -> None:
        """Take what a script registers; mistakes raise at once what the plugin raises, the rest waits for its load."""
        if name in SHARED:
            if len(args) != 1:
                raise ValueError(f"Expected a callback function to register one {SHARED[name]}")
            script.ask_once(name)
            callback = script.callback(name, args[0])
            script.when_loaded(lambda: self.dispatcher.share(name, callback))
        elif name == "RegisterRestCallback":
            if len(args) != 2 or not isinstance(args[0], str):
                raise ValueError("Expected a string (URI) and a callback function")
            handler = script.callback(f"{name} {args[0]}", args[1])
            script.when_loaded(lambda: self._add_route(script, args[0], handler))
        elif name.startswith("Extend"):
            script.when_loaded(lambda: self._extend(script, name, args))
        elif any(callable(arg) for arg in args):
            script.ask_once(name)
            wrapped = [
                script.callback(f"{name} {getattr(arg, '__name__', '')}".strip(), arg) if callable(arg) else arg
                for arg in args
            ]
            script.when_loaded(lambda: self._own(script, name, wrapped))
        else:  # a tag of the dictionary, an error code
            self.functions[name](*args)

    def _refuse(self, script: Script, other: Script, what: str) -> None:
        """Stop at a conflict, or say who has it where conflicts are allowed."""
        message = f"{script.module} and {other.module} both register {what}"
        if not self.allow_conflict:
            raise RuntimeError(f"{message}, and Orthanc takes one only (combine.py --allow-conflict: the first wins)")
        self.log.write("Warning", f"{message}: {other.module} has it, as it came first (--allow-conflict)")

    def _add_route(self, script: Script, pattern: str, handler: Callback) -> None:
        for other, taken in self.routes:
            if other is not script and collide(pattern, taken):
                what = pattern if pattern == taken else f"{pattern} and {taken}, which take the same paths,"
                self._refuse(script, other, f"the route {what}")
        self.routes.append((script, pattern))
        self.functions["RegisterRestCallback"](pattern, handler)

    def _own(self, script: Script, name: str, args: list[Any]) -> None:
        other = self.single.setdefault(single_owner(name), script)
        if other is script:
            self.functions[name](*args)
        else:
            self._refuse(script, other, name)

    def _extend(self, script: Script, name: str, args: tuple[Any, ...]) -> None:
        """Join what the scripts add to Orthanc Explorer; of one script the last counts, as in the plugin."""
        key = (name, *args[:-1])
        if args and isinstance(args[-1], str):
            script.explorer[key] = args[-1]
            parts = [f"// {one.module}\n{one.explorer[key]}\n;" for one in self.scripts if key in one.explorer]
            args = (*args[:-1], "\n".join(parts))
        self.functions[name](*args)
