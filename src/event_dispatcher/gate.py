# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls of the plugin: none is under way when Orthanc has stopped."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class StoppedError(Exception):
    """Orthanc has stopped: a call now would abort it."""


class Gate:
    """Lets our calls of the plugin through until Orthanc stops: one under way after ORTHANC_STOPPED aborts the server."""

    def __init__(self) -> None:
        self._changed, self._inside, self.is_open = threading.Condition(), 0, True

    def open(self) -> None:
        self.is_open = True

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        with self._changed:
            if not self.is_open:
                raise StoppedError("Orthanc has stopped")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wait until all are out."""
        with self._changed:
            self.is_open = False
            self._changed.wait_for(lambda: not self._inside)


SDK = Gate()
