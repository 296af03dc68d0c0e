# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether what answers at a destination is what it should be: what takes everything and keeps nothing looks well otherwise."""

import threading
import time
from collections.abc import Callable

from common.backoff import Pauses
from common.ledger import Ledger
from common.routes import one_line
from common.work import Work
from forwarding.misconfigured import MisconfiguredError

CHECK_SECONDS = 60.0  # between two checks, while it is sent to
CHECK_WRONG_SECONDS = 10.0  # between two checks, while it is not what it should be
CHECK_COUNTS_SECONDS = 2 * CHECK_SECONDS  # after which a check says nothing any more
KEPT_UNTIL_CHECKED_DAYS = (
    1 / 24
)  # at least, so that what was delivered can be sent again if the next check finds it wrong


class Identity:
    """What is known of one destination. `wrong` says why nothing may be sent there, `silent` why it could not be asked.

    It is checked before anything is sent, every minute while something is, and once more after that. The check runs in a
    thread of its own and wakes the worker. Without a `check` it is always right.
    """

    def __init__(self, name: str, check: Callable[[str], None] | None, wake: threading.Event) -> None:
        self.wrong = self.silent = ""
        self.right_at = 0.0  # Unix time at which the last check that found it right began
        self._name, self._check, self._wake = name, check, wake
        self._thread = threading.Thread()
        self._counts_until = self._next = self._doubted = 0.0  # monotonic
        self._pauses = Pauses(1.0, CHECK_SECONDS)  # while it can't be asked
        self._used = False  # since the last check began

    def is_right(self) -> bool:
        """Return whether a check of late has found it right; start one if that is due."""
        if self._check is None:
            return True
        self._start_if_due()
        return not self.wrong and time.monotonic() < self._counts_until

    def used(self) -> None:
        """Say that something has arrived there, which another check has to confirm."""
        self._used = True

    def doubt(self) -> None:
        """Forget what is known: its settings have changed, or it has failed."""
        self._doubted = time.monotonic()
        self._counts_until = self._next = 0.0
        self.silent = ""

    def look(self) -> None:
        """Start a check, if one is due and there is a reason for it."""
        if self._used or self.wrong:
            self._start_if_due()

    def _start_if_due(self) -> None:
        if self._check and not self._thread.is_alive() and time.monotonic() >= self._next:
            self._thread = threading.Thread(
                target=self._ask, args=(self._check,), name=f"checks {self._name}", daemon=True
            )
            self._thread.start()

    def _ask(self, check: Callable[[str], None]) -> None:
        begun, at = time.monotonic(), time.time()
        used, self._used = self._used, False
        wait = CHECK_SECONDS
        try:
            check(self._name)
        except MisconfiguredError as error:
            self.wrong, self.silent, wait = one_line(error), "", CHECK_WRONG_SECONDS
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say what is there
            self.silent, self._used = one_line(error) or repr(error), used or self._used
            wait = self._pauses.next()
        else:
            self.wrong = self.silent = ""
            self.right_at, self._counts_until = at, begun + CHECK_COUNTS_SECONDS
        if not self.silent:
            self._pauses.reset()
        self._next = time.monotonic() + wait
        if begun < self._doubted:  # it was about what it was before
            self._counts_until = self._next = 0.0
        self._wake.set()


class Misconfigured:
    """What the ledger has to do with destinations that are not what they should be: their rows wait, and say why."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._work = ledger, Work(ledger)
        self._noted: dict[str, tuple[str, float, int]] = {}  # by name: wrong, right at, the last row that says why

    def note(self, name: str, identity: Identity) -> bool | None:
        """Write down what a check has found; return True: it is wrong now, False: it is right again, None: it is as it was.

        What counts as delivered since the last check that found it right may be lost, and waits again.
        """
        was, right_at, marked = self._noted.get(name, ("", 0.0, 0))
        wrong = identity.wrong
        if not wrong and not was and identity.right_at <= right_at:
            return None
        with self._ledger.transaction():
            if identity.right_at > right_at:
                self._ledger.set_value(f"right {name}", int(identity.right_at))
            if wrong and not was:
                self._take_back(name)
            if wrong:
                marked = self._work.explain_waiting(name, wrong, 0 if wrong != was else marked)
        self._noted[name] = wrong, identity.right_at, marked
        return bool(wrong) if bool(wrong) != bool(was) else None

    def names(self) -> list[str]:
        """Return the destinations that were found right once: what was delivered after that has still to be confirmed."""
        return [
            row["name"].removeprefix("right ")
            for row in self._ledger.rows("SELECT name FROM state WHERE name LIKE 'right %'")
        ]

    def _take_back(self, name: str) -> None:
        since = self._ledger.get_value(f"right {name}", -1)
        if since >= 0:
            self._work.reopen_done(name, since)
