# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/health.py: edit that, never this file.
"""What the log and the status say of one broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ._common.routes import one_line

from .events import Event

RATE_HALVES_AFTER_SECONDS = 7  # without an event: about the rate over the last ten seconds
SAY_DEAD_EVERY_SECONDS = 60.0
LONGEST_ERROR = 2000  # characters


class Health:
    """Whether a broker is connected, how fast it takes events, and its last error. `secrets` are never shown."""

    def __init__(self, name: str, say: Callable[[str, str], None], secrets: Sequence[str]) -> None:
        self._name, self._say, self._secrets = name, say, [each for each in secrets if each]
        self.is_connected, self.last_error, self._away_since = False, "", 0.0
        self._rate, self._rated_at = 0.0, time.monotonic()
        self._unsaid, self._say_dead_at = 0, 0.0  # events that became dead letters

    def hidden(self, error: object) -> str:
        """Return the text of an error in one line, without secrets."""
        text = str(error) or repr(error)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return one_line(text)[:LONGEST_ERROR]

    def on_disconnected(self, why: str, *, is_ending: bool) -> None:
        """Log, once, that the broker is away, unless Orthanc ends."""
        if not self._away_since and not is_ending:
            self._away_since = time.monotonic()
            self._say("error", f"dicom_events: broker {self._name} is away, what happens meanwhile is kept: {why}")
        self.last_error = why

    def on_connected(self) -> None:
        """Log that the broker is back, if it was away."""
        if not self.is_connected:
            self.is_connected = True
            if self._away_since:
                seconds, self._away_since = time.monotonic() - self._away_since, 0.0
                self._say("warning", f"dicom_events: broker {self._name} is back after {seconds:.0f} s")

    def on_dead_letter(self, event: Event, error: str) -> None:
        """Log it, at most once a minute: when a server refuses all, the log is not flooded."""
        self._unsaid += 1
        if time.monotonic() < self._say_dead_at:
            return
        others = f", and {self._unsaid - 1} others since the last such line" if self._unsaid > 1 else ""
        self._say(
            "error",
            f"dicom_events: broker {self._name} does not take {event.type[:300]} {event.id}{others}; see the dead letters "
            f"(GET /dicom-events/dead-letters): {error}",
        )
        self._unsaid, self._say_dead_at = 0, time.monotonic() + SAY_DEAD_EVERY_SECONDS

    def count(self, number: int) -> None:
        """Count events that the broker has confirmed."""
        self._rate, self._rated_at = self.rate + number / 10, time.monotonic()

    @property
    def rate(self) -> float:
        """Events a second, over the last ten or so."""
        return float(self._rate * 0.5 ** ((time.monotonic() - self._rated_at) / RATE_HALVES_AFTER_SECONDS))
