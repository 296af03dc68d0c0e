# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is done while nobody waits for a picture."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable

import orthanc

from common.loopback import LoopbackError
from common.routes import Refused, one_line

from .pictures import Picture

YIELD_SECONDS = 1.0  # that it waits for those who ask, at most, before each piece of work


class Background:
    """One thread that draws what became stable, and keeps what was drawn.

    Parameters
    ----------
    draw : draws the picture of a series.
    keep : writes a picture to its series.
    nobody_waits : set while no request waits for a picture.
    """

    def __init__(
        self, draw: Callable[[str], None], keep: Callable[[str, Picture], None], nobody_waits: threading.Event
    ) -> None:
        self._draw, self._keep, self._nobody_waits = draw, keep, nobody_waits
        self._queue: queue.SimpleQueue[tuple[str, Picture | None] | None] = queue.SimpleQueue()
        self._stopping = False
        self._last_error = ""
        self.thread = threading.Thread(target=self._work, name="series-thumbnail-aside", daemon=True)

    def __len__(self) -> int:
        return self._queue.qsize()

    def add(self, series: str, picture: Picture | None = None) -> None:
        """Keep this picture of a series; without one, draw it."""
        self._queue.put((series, picture))

    def end(self) -> None:
        """End after what is under way; return at once."""
        self._stopping = True
        self._queue.put(None)

    def _work(self) -> None:
        while item := self._queue.get():
            series, picture = item
            self._nobody_waits.wait(YIELD_SECONDS)  # who asks is first, yet not for ever
            if self._stopping:
                continue
            try:
                if picture is None:
                    self._draw(series)
                else:
                    self._keep(series, picture)
                self._last_error = ""
            except Refused:
                pass  # what can't be drawn now is reported to who asks for it
            except LoopbackError as error:
                if error.status != 404:  # 404: deleted meanwhile
                    self._log_once(f"series_thumbnail could not keep the picture of series {series}: {one_line(error)}")
            except Exception:  # noqa: BLE001 - one bad series never ends the thread that serves all
                self._log_once(f"series_thumbnail met an error, please report it:\n{traceback.format_exc()}")

    def _log_once(self, text: str) -> None:
        if text != self._last_error and not self._stopping:
            orthanc.LogError(text)
        self._last_error = text
