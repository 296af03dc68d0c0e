# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether what a destination took is there: asked of it, beside the work of sending."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from common.loopback import Loopback
from common.routes import one_line
from common.work import Work
from forwarding.archive import still_here
from forwarding.context import Context
from forwarding.destinations import Destinations
from forwarding.rows import Rows
from forwarding.settings import may_overwrite
from forwarding.tasks import is_changed
from forwarding.transports import Has

ROWS_PER_QUESTION = 100
NAMED_PER_QUESTION = 1000  # instances by name, from which on no further row joins
LARGEST_WHOLE = (
    2000  # instances of a resource that is asked for by its series; more would hold up the peer's other work
)
SHARE_SECONDS = 0.25  # between two questions: rows that end meanwhile share one, for each takes a connection of its own


class Asked(NamedTuple):
    """What a row asks for: instances by name, or all that a resource of this level has here (`whole`)."""

    instances: tuple[str, ...]
    whole: str = ""
    level: str = ""


class Verified(NamedTuple):
    """What came of a row: the instances that are missing there, or why it could not be asked."""

    row: int
    asked: tuple[str, ...]
    missing: tuple[str, ...]
    error: str


class Verifier:
    """Asks each destination in a thread of its own, as long as there is something to ask; `answers` wait for the worker."""

    def __init__(self, has: Has, loopback: Loopback, wake: threading.Event) -> None:
        self.answers: deque[Verified] = deque()
        self._has, self._loopback, self._wake, self._lock = has, loopback, wake, threading.Lock()
        self._rows: dict[int, str] = {}  # that were added and not taken out, with their destinations
        self._waiting: dict[str, dict[int, Asked]] = {}
        self._alone: set[int] = set()  # rows that share no question any more
        self._asking: set[str] = set()  # destinations that have a thread

    def add(self, destination: str, row: int, asked: Asked) -> None:
        """Ask for a row; one that is being asked for is not asked for again."""
        with self._lock:
            if row in self._rows:
                return
            self._rows[row] = destination
            self._waiting.setdefault(destination, {})[row] = asked
            if destination not in self._asking:
                threading.Thread(target=self._ask, args=(destination,), name=f"asks {destination}", daemon=True).start()
                self._asking.add(destination)

    def is_under_way(self, row: int) -> bool:
        """Return whether a row is being asked for."""
        return row in self._rows

    def number(self, destination: str) -> int:
        """Return the number of rows of a destination that are being asked for: their jobs have ended."""
        with self._lock:
            return sum(each == destination for each in self._rows.values())

    def first(self) -> Verified | None:
        """Return the next answer, which stays until it is taken: what it means is written down first."""
        return self.answers[0] if self.answers else None

    def take(self) -> Verified | None:
        """Return the next answer, or None."""
        if not self.answers:
            return None
        answer = self.answers.popleft()
        with self._lock:
            self._rows.pop(answer.row, None)
        return answer

    def _ask(self, destination: str) -> None:
        time.sleep(SHARE_SECONDS)
        while rows := self._next(destination):
            wanted, there, error = dict[int, tuple[str, ...]](), set[str](), ""
            try:
                wanted = self._instances_of(rows)
                whole = [one.whole for row, one in rows.items() if one.whole and len(wanted[row]) <= LARGEST_WHOLE]
                there = self._has(destination, sorted({one for some in wanted.values() for one in some}), whole)
            except Exception as found:  # noqa: BLE001 - whatever it is, it is no proof
                if isinstance(found, ValueError) and len(rows) > 1:  # it may be about one of them alone
                    self._ask_one_by_one(destination, rows)
                    continue
                error = one_line(found) or repr(found)
            for row in rows:
                some = wanted.get(row, ())
                missing = () if error else tuple(one for one in some if one not in there)
                self.answers.append(Verified(row, some, missing, error))
            self._wake.set()
            time.sleep(SHARE_SECONDS)

    def _instances_of(self, rows: Mapping[int, Asked]) -> dict[int, tuple[str, ...]]:
        """Return the instances of each row, by the lists of the series that are here."""
        listed: dict[str, list[str]] = {asked.whole: [] for asked in rows.values() if asked.whole}
        patients = {asked.whole for asked in rows.values() if asked.level == "Patient"}
        # A series names itself and its study, and no patient.
        for resources in filter(None, (listed.keys() - patients, *({patient} for patient in patients))):
            # A series lists its instances: their own content would cost as much as what is asked of the destination.
            body = {"Resources": list(resources), "Level": "Series", "Short": True, "Metadata": False}
            for series in self._loopback.post("/tools/bulk-content", body):
                for parent in resources & ({series["ID"], series["ParentStudy"]} | patients):
                    listed[parent] += series["Instances"]
        return {row: tuple(listed[asked.whole]) if asked.whole else asked.instances for row, asked in rows.items()}

    def _next(self, destination: str) -> dict[int, Asked]:
        """Return rows for one question; without any, the thread ends."""
        with self._lock:
            waiting, rows, number = self._waiting[destination], dict[int, Asked](), 0
            while waiting and number < NAMED_PER_QUESTION and len(rows) < ROWS_PER_QUESTION:
                row = next(iter(waiting))
                if rows and row in self._alone:
                    break
                rows[row] = waiting.pop(row)
                number += len(rows[row].instances)
                if row in self._alone:
                    self._alone.discard(row)
                    break
            if not rows:
                self._asking.discard(destination)
            return rows

    def _ask_one_by_one(self, destination: str, rows: Mapping[int, Asked]) -> None:
        """Put rows back, each for a question of its own."""
        with self._lock:
            self._alone.update(rows)
            self._waiting[destination] = {**rows, **self._waiting[destination]}


class Verification:
    """What a row has to do with the question whether its destination has what it took (`Verify`)."""

    def __init__(self, context: Context, destinations: Destinations, rows: Rows, verifier: Verifier | None) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._settings, self._destinations, self._rows, self._verifier = context.settings, destinations, rows, verifier
        # Where an image may come again with another content, that it is there does not say which.
        self._asks_after_failure = context.transport.asks_after_failure and not may_overwrite(context.configuration)
        # Rows whose job has failed and that are being asked for: the destination, and why.
        self._failed: dict[int, tuple[str, str]] = {}

    def begin(self, row: Mapping[str, Any], failed: str = "") -> bool:
        """Ask the destination of a row, if that is wanted of it; return whether it is. The row stays `sending` meanwhile.

        Parameters
        ----------
        failed : why its job has failed, if it has: some of it may have arrived all the same.
        """
        if is_changed(row):  # it may have another identifier there; who took it has said of each image that it has it
            return False
        options = self._settings.destination_options.get(row["queue"])
        is_wanted = self._asks_after_failure if failed else options and options.is_verified
        if self._verifier is None or not is_wanted:
            return False
        if failed:
            self._failed[row["id"]] = row["queue"], failed
        data = json.loads(row["data"])
        if data["Instances"] is not None:
            asked = Asked(tuple(data["Instances"]))
        elif data["Level"] == "Instance":
            asked = Asked((row["subject"],))
        else:
            asked = Asked((), row["subject"], data["Level"])
        self._verifier.add(row["queue"], row["id"], asked)
        return True

    def is_under_way(self, row: int) -> bool:
        """Return whether a row is being asked for: its job has ended."""
        return self._verifier is not None and self._verifier.is_under_way(row)

    def number(self, destination: str) -> int:
        """Return the number of rows of a destination that are being asked for, and whose job has succeeded."""
        if self._verifier is None:
            return 0
        failed = sum(
            name == destination for name, _ in self._failed.values()
        )  # what else waits is held back until then
        return self._verifier.number(destination) - failed

    def settle(self, fail: Callable[[Mapping[str, Any], str], None]) -> None:
        """Write down the answers that have come.

        Parameters
        ----------
        fail : lets a row fail whose job has failed, for a reason.
        """
        while self._verifier and (answer := self._verifier.first()):
            row = self._work.get(answer.row)
            if row and row["state"] == "sending":  # else a person has dropped it
                if answer.row in self._failed:
                    self._settle_failed(row, answer, fail)
                else:
                    self._settle_one(row, answer)
            self._verifier.take()
            self._failed.pop(answer.row, None)

    def _settle_one(self, row: Mapping[str, Any], answer: Verified) -> None:
        if answer.error:
            data = {**json.loads(row["data"]), "Sent": True}
            why = f"{row['queue']} took it, and can't be asked whether it has it: {answer.error}"
            self._rows.fail({**row, "data": json.dumps(data)}, why)
        elif answer.missing:
            self._send_missing(row, answer)
        else:
            self._rows.end_delivered(row)

    def _settle_failed(
        self, row: Mapping[str, Any], answer: Verified, fail: Callable[[Mapping[str, Any], str], None]
    ) -> None:
        """End what has arrived although the job has failed; let only the rest fail."""
        arrived = sorted({*answer.asked} - {*answer.missing}) if not answer.error else []
        if arrived and not answer.missing:
            self._rows.end_delivered(row)
            return
        if arrived:
            data = json.loads(row["data"])
            delivered, rest = ({**data, "Instances": some} for some in (arrived, [*answer.missing]))
            with self._ledger.transaction():
                self._work.change(row["id"], data=delivered)
                self._rows.end_delivered({**row, "data": json.dumps(delivered)})
                row = {**row, "data": json.dumps(rest)}
                row["id"] = self._ledger.add(row["queue"], row["subject"], rest, row["priority"])
                self._work.claim(row["id"])  # what a person sends now gets a row of its own
                self._work.change(row["id"], attempts=row["attempts"])
        fail(row, self._failed[answer.row][1])

    def _send_missing(self, row: Mapping[str, Any], answer: Verified) -> None:
        """Send what the destination took and does not have again, in a row of its own, for which the rest does not wait."""
        found = json.loads(row["data"])
        data = {key: value for key, value in found.items() if key not in ("Sent", "Gone")}
        here = still_here(self._loopback, answer.missing)
        why = f"{row['queue']} took {len(answer.asked)} instances and does not have {len(answer.missing)} of them (Verify)"
        with self._ledger.transaction():
            gone = len(answer.missing) - len(here) - found.get("Gone", 0)
            if gone > 0 and (here or len(answer.missing) < len(answer.asked)):
                self._rows.note_gone(row, gone)
            if len(answer.missing) < len(answer.asked):
                arrived = {**data, "Instances": sorted({*answer.asked} - {*answer.missing})}
                self._work.change(row["id"], data=arrived)
                self._rows.end_delivered({**row, "data": json.dumps(arrived)})
                if not here:
                    return
                row = {**row, "id": self._ledger.add(row["queue"], here[0], data, row["priority"])}
                self._work.change(row["id"], attempts=row["attempts"])
            elif not here:
                self._rows.end_gone(row)
                return
            whole = {"Of": data.get("Of", row["subject"]), "OfLevel": data.get("OfLevel", data["Level"])}
            alone = {**data, **whole, "Refused": True, "Level": "Instance", "Instances": here}
            self._work.change(row["id"], subject=here[0])
            self._rows.fail({**row, "subject": here[0], "data": json.dumps(alone)}, why)
            self._destinations.health_of(row["queue"]).succeeded()
