# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tells one script of a combined file what the others ask their own Orthanc for: no filter of requests is shown that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from combine.runtime.log import Log
from combine.runtime.script import Callback, Script


class OwnRequests:
    """Hands each request of a script, before it is sent, to the other scripts that listen."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.listeners: tuple[Callback, ...] = ()

    def listen(self, script: Script, function: Callable[..., Any]) -> None:
        """Call a function of a script with the name of each other one, and what that reports."""
        callback = script.callback("listen_to_requests", function)
        script.when_loaded(lambda: self._add(callback))

    def _add(self, callback: Callback) -> None:
        self.listeners = (*self.listeners, callback)

    def report(self, script: Script, *request: Any) -> None:
        """Take what a script says of a request that it is about to send."""
        for callback in self.listeners:
            if callback.script is not script:
                self.log.guard(callback, script.module, *request)
