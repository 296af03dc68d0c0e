# SPDX-License-Identifier: AGPL-3.0-or-later
"""Handlers of routes and Orthanc's HTTP threads: there are few of them, and their stack is small."""

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from common.loopback import close_connections
from common.routes import Refused, RouteHandler

T = TypeVar("T")


def at_most(turns: threading.BoundedSemaphore, handler: RouteHandler) -> RouteHandler:
    """Return a handler that answers 503 at once to more requests at a time than there are turns.

    Each of them asks Orthanc over loopback: if they had all its HTTP threads, no thread were left to answer them.
    """

    @functools.wraps(handler)  # with what it takes
    def bounded(request: Any) -> Any:
        if not turns.acquire(blocking=False):
            raise Refused(503, "Too many requests at a time; try again")
        try:
            return handler(request)
        finally:
            turns.release()

    return bounded


def in_a_thread(work: Callable[[], T]) -> T:
    """Return what `work` returns in a thread of its own: a user's code may need, and import, more than 100 KB of stack take."""
    outcome: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            close_connections()

    thread = threading.Thread(target=run, name="rules/test", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
