# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the archive has changed since pictures were drawn."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from common.loopback import Loopback, LoopbackError

from .pictures import Picture

BELIEVED_SECONDS = 1.0  # that a picture in memory is believed without asking Orthanc whether its series is as it was
QUICK_SECONDS = 0.005  # in which Orthanc gives the counts of the archive; it counts, so of millions of instances not
SLOW_FOR_SECONDS = 60.0  # for which it is not asked again when it was slower


class Archive:
    """Whether anything was stored or deleted since, asked once for all pictures.

    `state` is another object as soon as something was. Whatever is stored is a later change, and what is deleted without
    that leaves fewer instances: so equal counts between two equal changes are an archive as it was.
    """

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback
        self._last_answers: tuple[Any, Any] | None = None
        self._lock = threading.Lock()
        self._slow_until = -math.inf
        self.state, self.checked = object(), -math.inf

    def get_state(self) -> object:
        """Return the state, at most `BELIEVED_SECONDS` old; one that is equal to no other where asking would take long."""
        with self._lock:
            begun = time.monotonic()
            if begun - self.checked <= BELIEVED_SECONDS:
                return self.state
            if begun < self._slow_until:
                return object()
            try:
                counts, last = self._loopback.get("/statistics"), self._loopback.get("/changes?last")["Last"]
                if (last, counts) != self._last_answers:
                    self._last_answers, self.state = (last, self._loopback.get("/statistics")), object()
            except LoopbackError:
                return object()  # then each picture asks for itself, and the error reaches whoever waits for it
            if time.monotonic() - begun > QUICK_SECONDS:
                self._slow_until = begun + SLOW_FOR_SECONDS
            self.checked = begun
            return self.state

    def is_believed(self, picture: Picture) -> bool:
        """Return whether a picture may be given without asking Orthanc."""
        checked = self.checked  # before the state, which changes first
        if picture.archive is not self.state:
            checked = -math.inf
        return time.monotonic() - max(checked, picture.checked) <= BELIEVED_SECONDS
