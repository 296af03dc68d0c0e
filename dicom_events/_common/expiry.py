# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/expiry.py: edit that, never this file.
"""Whether what is kept for days may be deleted by what the clock says: a clock that is wrong deletes nothing."""

import time

import orthanc

from .ledger import Ledger

DAY = 86400.0  # seconds
MOST_AHEAD = 30 * DAY  # of the time that is to be expected; nobody knows how long the server was off
DOUBTED_FOR = 7 * DAY  # of running, until a clock that nobody has set right is believed
RECORD_EVERY = 3600.0  # seconds


class Expiry:
    """Compares the clock with the newest time that the ledger has, plus the seconds that have passed since.

    A time that is doubted is not recorded, so that a restart does not make it right.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger, self._name = ledger, name
        self._time, self._since = float(ledger.get_value("believed") or time.time()), time.monotonic()
        if not ledger.get_value(
            "believed"
        ):  # a clock that is set before the first look must not be believed after a restart
            ledger.set_value("believed", int(self._time))
        self._recorded: float | None = None  # monotonic
        self._doubted: float | None = None  # monotonic, since when
        self._said = 0.0

    def may_delete(self) -> bool:
        """Return whether the clock is believed; an ERROR each day says that it is not."""
        now, steady = time.time(), time.monotonic()
        ahead = now - (self._time + steady - self._since)
        if ahead > MOST_AHEAD and (self._doubted is None or steady - self._doubted < DOUBTED_FOR):
            if self._doubted is None or steady - self._said >= DAY:
                self._said = steady
                orthanc.LogError(
                    f"{self._name}: the clock is {ahead / DAY:.0f} days ahead of the time to be expected: nothing is deleted for "
                    "its age until it is set right, or has been so for a week"
                )
            self._doubted = steady if self._doubted is None else self._doubted
            return False
        self._time, self._since, self._doubted = now, steady, None
        if self._recorded is None or steady - self._recorded >= RECORD_EVERY:
            self._ledger.set_value("believed", int(now))
            self._recorded = steady
        return True
