# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's log of changes read once more, from a time on: what a new or an older ledger has not seen."""

import datetime
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from common.ledger import Ledger
from common.loopback import Loopback
from common.parameters import Flag, Moment
from common.routes import Refused
from common.times import orthanc_time, utc

CATCH_UP_PARAMETERS: Mapping[str, Any] = {"Since": Moment(), "DryRun": Flag()}
CATCH_UP_PAGE = 500  # changes a request
COUNTED_CHANGES = 50_000  # by a dry run, which a person waits for


class Span(NamedTuple):
    """A part of the log: after the change with the number `place`, up to the one with the number `end`."""

    place: int
    end: int

    @property
    def changes(self) -> int:
        """Return how many numbers there are in it; deleted resources have left the log."""
        return max(0, self.end - self.place)


class ChangesPage(NamedTuple):
    """Some changes of a span, in their order, and the rest of the span."""

    changes: list[Mapping[str, Any]]
    rest: Span

    @property
    def instances(self) -> list[str]:
        """Return the instances that were new."""
        return list(dict.fromkeys(each["ID"] for each in self.changes if each["ChangeType"] == "NewInstance"))


class ChangeLogReader:
    """Reads a span of the log of changes. What is left of it is in the ledger: a restart goes on.

    Parameters
    ----------
    get : asks Orthanc.
    """

    def __init__(self, ledger: Ledger, get: Callable[[str], Any]) -> None:
        self._ledger, self._get = ledger, get

    def find(self, since: datetime.datetime) -> Span:
        """Return what the log has since a time, up to now: by the time at which Orthanc noted each change.

        Raises
        ------
        LoopbackError : Orthanc can't answer now.
        """
        newest = int(self._get("/changes?last")["Last"])
        return Span(self._last_before(orthanc_time(since), newest), newest)

    def _last_before(self, date: str, newest: int) -> int:
        low, high = 0, newest
        while low < high:
            middle = (low + high) // 2
            first = self._get(f"/changes?since={middle}&limit=1")["Changes"]
            if first and first[0]["Date"] < date:
                low = int(first[0]["Seq"])
            else:
                high = middle
        return low

    def read(self, span: Span) -> ChangesPage:
        """Return the first changes of a span."""
        page = self._get(f"/changes?since={span.place}&limit={CATCH_UP_PAGE}")
        changes = [each for each in page["Changes"] if each["Seq"] <= span.end]
        is_last = page["Done"] or page["Last"] >= span.end
        return ChangesPage(changes, Span(span.end if is_last else int(page["Last"]), span.end))

    @property
    def left(self) -> Span | None:
        """What is left to read, or None: nobody has asked, or it is done."""
        span = Span(self._ledger.get_value("catch_up_place"), self._ledger.get_value("catch_up_end"))
        return span if span.changes else None

    def state(self) -> dict[str, Any]:
        """Return whether a catch-up is under way, and how many changes are left to read."""
        left = self.left
        return {"UnderWay": left is not None, "ChangesLeft": left.changes if left else 0}

    def begin(self, span: Span) -> None:
        """Let a span be read. Raises `Refused` (409): another one is not done yet."""
        with self._ledger.transaction():
            if self.left:
                raise Refused(409, "A catch-up is under way; ask for another one when it is done")
            self.note(span)

    def note(self, span: Span) -> None:
        """Note what is left to read, in the transaction that notes what was read."""
        with self._ledger.transaction():
            self._ledger.set_value("catch_up_place", span.place)
            self._ledger.set_value("catch_up_end", span.end)


def since_of(parameters: Mapping[str, Any]) -> datetime.datetime:
    """Return from when on to catch up. Raises `Refused` (400): nobody said so, or it is yet to come."""
    if "Since" not in parameters:
        raise Refused(400, f"Since is missing, allowed: {Moment().allowed}")
    found: datetime.datetime = parameters["Since"]
    if found.timestamp() > time.time():
        raise Refused(400, f"Since is {utc(found.timestamp())}, a time yet to come; allowed: up to now, {utc()}")
    return found


def series_of(loopback: Loopback, instances: list[str]) -> list[dict[str, Any]]:
    """Return the series of some instances that are here: `ID`, `ParentStudy`, `Instances`."""
    body = {"Resources": instances, "Level": "Series", "Short": True, "Metadata": False}
    found: list[dict[str, Any]] = loopback.post("/tools/bulk-content", body) if instances else []
    return found
