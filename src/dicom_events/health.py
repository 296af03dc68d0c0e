# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the log and the status say of one broker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from common.routes import one_line

from .events import Event

RATE_HALVES_AFTER_SECONDS = 7  # without an event: about the rate over the last ten seconds
AWAY_LINES, AWAY_LINES_WITHIN_SECONDS = 5, 600.0  # at most so many say that a broker is away
SAY_DEAD_EVERY_SECONDS = 60.0
SAY_KEPT_EVERY_SECONDS = 600.0
TYPES_SAID = 100  # of which each is said once
LONGEST_ERROR = 2000  # characters


class Health:
    """Whether a broker is connected, how fast it takes events, and its last error. `secrets` are never shown."""

    def __init__(self, name: str, say: Callable[[str, str], None], secrets: Sequence[str]) -> None:
        self._name, self._say, self._secrets = name, say, [each for each in secrets if each]
        self.is_connected, self.last_error, self._away_since = False, "", 0.0
        self._says_away, self._said_away = False, deque[float](maxlen=AWAY_LINES)
        self._rate, self._rated_at = 0.0, time.monotonic()
        self._unsaid, self._say_dead_at = 0, 0.0  # events that became dead letters
        self._says_kept, self._say_kept_at, self._given_up = False, 0.0, set[str]()

    def hidden(self, error: object) -> str:
        """Return the text of an error in one line, without secrets."""
        text = str(error) or repr(error)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return one_line(text)[:LONGEST_ERROR]

    def on_disconnected(self, why: str, *, is_ending: bool) -> None:
        """Log, once, that the broker is away, unless Orthanc ends.

        One that comes and goes all the time is not logged each time; if it stays away, it is.
        """
        self.last_error = why
        if is_ending:
            return
        self._away_since = self._away_since or time.monotonic()
        if not self._says_away and self._may_say_away():
            self._says_away = True
            self._say("error", f"dicom_events: broker {self._name} is away, what happens meanwhile is kept: {why}")

    def _may_say_away(self) -> bool:
        now, said = time.monotonic(), self._said_away
        if len(said) == AWAY_LINES and now - said[0] < AWAY_LINES_WITHIN_SECONDS:
            return False
        said.append(now)
        return True

    def on_connected(self) -> None:
        """Log that the broker is back, if it was logged that it is away."""
        if not self.is_connected:
            self.is_connected = True
            seconds, self._away_since = time.monotonic() - self._away_since, 0.0
            if self._says_away:
                self._says_away = False
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

    def on_kept(self, kind: str) -> None:
        """Log that nobody has a queue for what is kept: once until nothing is."""
        if not self._says_kept and time.monotonic() >= self._say_kept_at:
            self._says_kept, self._say_kept_at = True, time.monotonic() + SAY_KEPT_EVERY_SECONDS
            self._say(
                "warning",
                f"dicom_events: nobody has a queue for {kind[:300]} at the broker {self._name}: such events are kept, and "
                "published again (Unroutable)",
            )

    def on_nothing_kept(self) -> None:
        """Log that what was kept has left, if it was logged that it was kept."""
        if self._says_kept:
            self._says_kept = False
            self._say("warning", f"dicom_events: no event waits any more for a queue at the broker {self._name}")

    def on_given_up(self, kind: str) -> None:
        """Log, once for each type, that nobody has a queue for it, and that its events are not kept."""
        if kind not in self._given_up and len(self._given_up) < TYPES_SAID:
            self._given_up.add(kind)
            self._say(
                "warning",
                f"dicom_events: nobody has a queue for {kind[:300]} at the broker {self._name}: such events are counted as "
                "Returned in the status, and are not kept (Unroutable)",
            )

    def count(self, number: int) -> None:
        """Count events that the broker has confirmed."""
        self._rate, self._rated_at = self.rate + number / 10, time.monotonic()

    @property
    def rate(self) -> float:
        """Events a second, over the last ten or so."""
        return float(self._rate * 0.5 ** ((time.monotonic() - self._rated_at) / RATE_HALVES_AFTER_SECONDS))
