# SPDX-License-Identifier: AGPL-3.0-or-later
"""A script of a combined file, and what it gave to Orthanc."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from combine.runtime.routes import SHARED


class Callback:
    """One callable that a script gave to Orthanc, with how often and how long it ran."""

    __slots__ = ("calls", "errors", "function", "kind", "script", "seconds")

    def __init__(self, script: Script, kind: str, function: Any) -> None:
        self.script, self.kind, self.function = script, kind, function
        self.calls = self.errors = 0
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        except BaseException:
            self.errors += 1
            raise
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - start


@dataclass(eq=False)
class Script:
    """A script of the combined file: what combine.py wrote of it, and what becomes of it while Orthanc runs."""

    module: str
    file: str
    folder: str
    version: str | None
    sha256: str
    aliases: dict[str, str]
    modules: dict[str, str]
    files: dict[str, str]
    state: str = "waiting"
    error: str | None = None
    orthanc: ModuleType = field(default_factory=lambda: ModuleType("orthanc"))
    asked: set[str] = field(default_factory=set)
    callbacks: list[Callback] = field(default_factory=list)
    pending: list[Callable[[], object]] = field(default_factory=list)
    explorer: dict[tuple[str, ...], str] = field(default_factory=dict)
    entries: list[Callable[[], list[dict[str, Any]]]] = field(default_factory=list)

    def when_loaded(self, action: Callable[[], object]) -> None:
        """Do `action` once the script has loaded: one that fails to load leaves nothing behind in Orthanc."""
        if self.state == "loaded":
            action()
        else:
            self.pending.append(action)

    def add_entries(self, ask: Callable[[], list[dict[str, Any]]]) -> None:
        """Take from the script what answers for it in `/scripts` (`src/common/status.py`)."""
        self.when_loaded(lambda: self.entries.append(ask))

    def ask_once(self, name: str) -> None:
        """Refuse, as the plugin does, a second callback of a kind."""
        if name in self.asked:
            raise RuntimeError(f"Can only register one {SHARED.get(name, name)}")
        self.asked.add(name)

    def callback(self, kind: str, function: Any) -> Callback:
        """Count what `function` does from now on, and keep it as long as the process lives."""
        self.callbacks.append(Callback(self, kind, function))
        return self.callbacks[-1]


def share_connections() -> None:
    """Let ORTHANC_STOPPED, which comes on a thread of its own, close the SQLite connections that other events opened."""
    try:
        import sqlite3
    except ImportError:  # a Python without it
        return
    plain = sqlite3.connect

    @functools.wraps(plain)
    def connect(*args: Any, **options: Any) -> Any:
        if len(args) < 5:  # of which the fifth is check_same_thread
            options.setdefault("check_same_thread", False)
        return plain(*args, **options)

    vars(sqlite3)["connect"] = vars(sqlite3.dbapi2)["connect"] = connect
