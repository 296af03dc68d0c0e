# SPDX-License-Identifier: AGPL-3.0-or-later
"""Deliveries whose images are changed on the way: each image is changed and sent alone, by no job, in a thread for each row."""

import dataclasses
import http.client
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.archive import instances_of
from common.loopback import LoopbackError
from common.work import Work
from common.worker import repr_of
from forwarding.archive import still_here
from forwarding.context import Context
from forwarding.destinations import Destinations
from forwarding.failures import is_duplicate
from forwarding.image_changes import Changes, UnchangedError
from forwarding.outcomes import Outcomes
from forwarding.rows import Rows
from forwarding.verification import Verification

IMAGES_PER_TURN = 50  # of a row, until others may come: what a person holds back ends here, and a kill repeats no more
# Until Orthanc has changed an image, or a node has taken it: the largest, over a slow line. Orthanc's own timeouts end it before.
LONGEST_STEP_SECONDS = 900.0


@dataclasses.dataclass
class Progress:
    """What became of the instances of a row.

    Attributes
    ----------
    instances : what it holds, in the order in which they are sent.
    finished : what the destination has acknowledged.
    gone : what was deleted here.
    unchanged : what can't be changed, and so was not sent; `why_unchanged` of the first.
    why : what stopped it; "": nothing.
    is_own_fault : this Orthanc did, not the destination.
    """

    row: int
    instances: list[str] = dataclasses.field(default_factory=list)
    finished: list[str] = dataclasses.field(default_factory=list)
    gone: list[str] = dataclasses.field(default_factory=list)
    unchanged: list[str] = dataclasses.field(default_factory=list)
    why_unchanged: str = ""
    why: str = ""
    is_own_fault: bool = False
    seconds: float = 0.0


class ChangedDeliveries:
    """Sends rows with a `Modify`, each in a thread; what has come of them waits for the worker.

    No such row ever becomes a job: that would send its images as they are in the archive.
    """

    def __init__(self, context: Context, destinations: Destinations, rows: Rows, verification: Verification) -> None:
        self._work, self._ledger, self._loopback = Work(context.ledger), context.ledger, context.loopback
        self._deliver, self._wake, self._stopping = context.transport.deliver, context.wake, context.stopping
        self._destinations, self._rows = destinations, rows
        self._outcomes = Outcomes(context, destinations, rows, verification)
        self._ended: deque[Progress] = deque()
        self._under_way: dict[
            int, str
        ] = {}  # rows that have a thread, or whose end was not settled, and their destinations

    def is_under_way(self, row: int) -> bool:
        """Return whether a row is being sent."""
        return row in self._under_way

    def number(self, destination: str) -> int:
        """Return the number of rows of a destination that are being sent."""
        return sum(each == destination for each in self._under_way.values())

    def submit(self, row: Mapping[str, Any]) -> None:
        """Begin to send a row that is `sending`; return at once."""
        data = json.loads(row["data"])
        try:
            changes = Changes.of(data["Modify"])
        except UnchangedError as error:
            self._rows.fail(row, str(error))
            return
        self._under_way[row["id"]] = row["queue"]
        arguments = (row["id"], row["queue"], data["Level"], row["subject"], data["Instances"], changes)
        threading.Thread(target=self._run, args=arguments, name=f"changes for {row['queue']}", daemon=True).start()

    # The thread of a row

    def _run(
        self, row: int, destination: str, level: str, resource: str, instances: list[str] | None, changes: Changes
    ) -> None:
        begun, progress = time.monotonic(), Progress(row)
        try:
            self._loopback.wait_longer(LONGEST_STEP_SECONDS)
            progress.instances = instances_of(self._loopback, level, resource) if instances is None else instances
            self._send_all(progress, destination, changes)
        except LoopbackError as error:
            progress.why, progress.is_own_fault = str(error), True
        except Exception as error:  # noqa: BLE001 - whatever it is, the row is not to wait for ever
            progress.why, progress.is_own_fault = repr_of(error), True
        finally:
            self._loopback.close()
        progress.seconds = time.monotonic() - begun
        self._ended.append(progress)
        self._wake.set()

    def _send_all(self, progress: Progress, destination: str, changes: Changes) -> None:
        for instance in progress.instances[:IMAGES_PER_TURN]:
            if self._stopping.is_set():
                return
            content = self._changed(progress, instance, changes)
            if content is None:
                continue
            progress.why = self._why_not_taken(destination, content)
            del content  # before the next one is there: of large ones, two are too many
            if progress.why:
                return
            progress.finished.append(instance)

    def _changed(self, progress: Progress, instance: str, changes: Changes) -> bytes | None:
        """Return the changed file of an instance; None: there is none, and it is noted why."""
        try:
            return changes.apply(self._loopback, instance)
        except LoopbackError as error:
            if error.status == 0:
                raise
            if error.status == 404 and not still_here(self._loopback, [instance]):
                progress.gone.append(instance)
                return None
            why = str(error)
        except UnchangedError as error:
            why = str(error)
        progress.unchanged.append(instance)
        progress.why_unchanged = progress.why_unchanged or f"it can't be changed on the way, and is not sent: {why}"
        return None

    def _why_not_taken(self, destination: str, content: bytes) -> str:
        """Send a changed file; return why its destination has not taken it, or ""."""
        try:
            if self._deliver is None:
                raise ValueError("nothing can be changed on the way to it")
            self._deliver(self._loopback, destination, content)
        except LoopbackError as error:
            # Without the route, in which a destination's name may look like a reason.
            why = str(error).partition(": ")[2] if error.status else f"Orthanc does not answer for {destination}"
            return "" if is_duplicate(why) else why
        except (OSError, http.client.HTTPException) as error:
            return f"can't connect to {destination}, or it broke off: {error}"
        except ValueError as error:
            return str(error)
        return ""

    # The worker

    def settle(self, cancel_pending: Callable[[str], None]) -> None:
        """Settle the rows whose threads have ended.

        Parameters
        ----------
        cancel_pending : calls back what else waits in Orthanc for a destination that has failed.
        """
        while self._ended:
            progress = self._ended[0]
            row = self._work.get(progress.row)
            if row and row["state"] == "sending":
                self._settle(row, progress, cancel_pending)
            self._ended.popleft()
            self._under_way.pop(progress.row, None)

    def _settle(self, row: Mapping[str, Any], progress: Progress, cancel_pending: Callable[[str], None]) -> None:
        named = json.loads(row["data"])["Instances"]
        held = progress.instances if named is None else named
        what_became = dict.fromkeys(progress.finished, "finished")
        what_became |= dict.fromkeys(progress.gone, "gone") | dict.fromkeys(progress.unchanged, "unchanged")
        groups: dict[str, list[str]] = {"left": [], "finished": [], "unchanged": [], "gone": []}
        for one in held:
            groups[what_became.get(one, "left")].append(one)
        gone = groups.pop("gone")
        if not any(groups.values()):
            if progress.why:  # it could not even be asked what the row holds
                self._rows.fail(row, progress.why)
            else:
                self._rows.end_gone(row)
            return
        parts = self._divide(row, {kind: some for kind, some in groups.items() if some}, len(gone))
        if delivered := parts.get("finished"):
            self._outcomes.settle_delivered(delivered)
            self._destinations.health_of(row["queue"]).seconds_of_job = progress.seconds
        if aside := parts.get("unchanged"):
            self._rows.set_aside(aside, groups["unchanged"], progress.why_unchanged)
        if left := parts.get("left"):
            self._settle_left(left, progress, cancel_pending)

    def _divide(
        self, row: Mapping[str, Any], groups: Mapping[str, Sequence[str]], gone: int
    ) -> dict[str, Mapping[str, Any]]:
        """Give each group of instances a row that is `sending`, the first of them this one; return the rows by group."""
        with self._ledger.transaction():
            rows = self._rows.divide(row, *groups.values())
            for other in rows[1:]:
                self._work.claim(other["id"])
            self._rows.note_gone(row, gone)
            found = [self._work.get(each["id"]) for each in rows]
        return {kind: each for kind, each in zip(groups, found, strict=True) if each}

    def _settle_left(self, row: Mapping[str, Any], progress: Progress, cancel_pending: Callable[[str], None]) -> None:
        if not progress.why:  # its turn is over
            self._work.take_back(row["id"])
        elif progress.is_own_fault:
            self._rows.fail(row, progress.why)
        elif self._outcomes.settle_left(row, progress.why, has_advanced=bool(progress.finished)):
            cancel_pending(row["queue"])
