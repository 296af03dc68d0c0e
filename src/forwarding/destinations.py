# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a destination can be sent to now: paused, outside its hours, away and probed, or well."""

import threading
import time
from collections.abc import Callable
from typing import Any

from common.answers import one_line
from forwarding.identity import Identity

PROBE_LONGEST = 60.0  # seconds between two probes of a destination that does not answer


class Destination:
    """One destination's health. After a failure nothing is sent until a probe answers.

    The probe runs in a thread of its own, outside Orthanc's job slots, which a node that never answers would hold. As
    some nodes know no C-ECHO, one job is tried all the same each time `trial_delay` has passed, which doubles.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[str], None],
        wake: threading.Event,
        first: float,
        longest: float,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.away, self.error = name, False, ""
        self.identity = Identity(name, check, wake)
        self.answered = False  # since the last failure
        self.was_silent = False  # a probe since then had no answer
        self._probe, self._wake, self._first, self._longest = probe, wake, first, longest
        self._probing: threading.Thread | None = None
        self._delay, self._next_probe = 1.0, 0.0
        self._trial_delay, self._next_trial = first, 0.0

    def failed(self, error: str) -> None:
        """A job to it has failed: hold all others back, and ask whether it is there."""
        if not self.away:
            self._delay, self._next_probe, self._trial_delay = 1.0, 0.0, self._first
            self._next_trial = time.monotonic() + self._trial_delay
            self.was_silent = False
        self.away, self.error, self.answered = True, error, False
        self.identity.doubt()

    def succeeded(self) -> None:
        self.away, self.error = False, ""

    def may_send(self) -> bool:
        """Whether a job may be submitted; where it is away, one as a trial when it is time for it."""
        return not self.away or time.monotonic() >= self._next_trial

    def sent(self) -> None:
        """A job was submitted; if that was the trial, the next one is later."""
        if self.away:
            self._trial_delay = min(self._longest, self._trial_delay * 2)
            self._next_trial = time.monotonic() + self._trial_delay

    def look(self) -> None:
        """Start a probe if one is due. The answer wakes the worker."""
        self.identity.look()
        running = self._probing is not None and self._probing.is_alive()
        if self.away and not running and time.monotonic() >= self._next_probe:
            self._probing = threading.Thread(target=self._ask, name=f"probes {self.name}", daemon=True)
            self._probing.start()

    def _ask(self) -> None:
        try:
            self._probe(self.name)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            self.error, self.was_silent = one_line(error), True
            self._next_probe = time.monotonic() + self._delay
            self._delay = min(PROBE_LONGEST, self._delay * 2)
        else:
            self.answered = True
        self._wake.set()

    def shown(self) -> dict[str, Any]:
        wrong = self.identity.wrong
        return {"Away": self.away, "Misconfigured": bool(wrong), "Error": wrong or self.error or self.identity.silent}
