# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/http_threads.py: edit that, never this file.
"""Handlers of routes and Orthanc's HTTP threads: there are few of them, and their stack is small."""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from .loopback import close_connections
from .routes import Refused, RouteHandler

T = TypeVar("T")


class HttpTurns:
    """Lets at most a third of Orthanc's HTTP threads ask Orthanc: if all of them did, no thread were left to answer them.

    Parameters
    ----------
    configuration : Orthanc's, which has the number of threads.
    what : of what there are too many when one more is refused.
    """

    def __init__(self, configuration: Mapping[str, Any], what: str = "requests") -> None:
        self._turns = threading.BoundedSemaphore(max(1, int(configuration.get("HttpThreadsCount", 50)) // 3))
        self._what = what

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Ask Orthanc inside. Raises `Refused` (503) at once if too many do already."""
        if not self._turns.acquire(blocking=False):
            raise Refused(503, f"Too many {self._what} at a time; try again")
        try:
            yield
        finally:
            self._turns.release()

    def bound(self, handler: RouteHandler) -> RouteHandler:
        """Return a handler that has a turn while it answers."""

        @functools.wraps(handler)  # with what it takes
        def bounded(request: Any) -> Any:
            with self.turn():
                return handler(request)

        return bounded


def in_a_thread(work: Callable[[], T], name: str) -> T:
    """Return what `work` returns in a thread of this name, whose stack is larger than the 100 KB of an HTTP thread.

    Raises
    ------
    Exception : what `work` raises.
    """
    outcome: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            close_connections()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
