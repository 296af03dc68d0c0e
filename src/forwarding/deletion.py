# SPDX-License-Identifier: AGPL-3.0-or-later
"""DeleteAfterForward: what was forwarded is deleted here, once every destination has proved to have every instance."""

import http.client
import json
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orthanc

from common.answers import one_line
from common.feed import PAGE, PLURALS
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.worker import Trouble

TO_DELETE = "/delete"  # the queue of what is to be deleted; no destination is called so
PROVE_AGAIN = 2.0  # seconds between looks at a proof under way
BLOCKED = 20.0  # seconds until the next look at what is not delivered yet, if no delivery ends before
DELETE_AT_ONCE = 100  # instances a request: others want Orthanc too

# Of a destination, and instances as `/tools/bulk-content` gives them, by identifier: which of them it has now; None: not
# known yet. What was asked may be noted in the dictionary. Raises ValueError, OSError or LoopbackError where it can't tell.
Prove = Callable[[str, Mapping[str, Mapping[str, Any]], dict[str, Any]], set[str] | None]


class Deleter:
    """Rows of the ledger in a queue of their own, and one thread that asks for proofs, which may take long.

    Only instances that were proved are deleted, one by one, never a study with what came meanwhile. Nothing goes while
    any of it still arrives, is routed, waits, is sent, or was given up for some destination, by a rule of any level.
    """

    def __init__(self, name: str, ledger: Ledger, loopback: Loopback, prove: Prove, retry: Any) -> None:
        self._name, self._ledger, self._loopback, self._prove, self._retry = name, ledger, loopback, prove, retry
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"{name} deletes", daemon=True)
        self._thread.start()

    def note(self, level: str, resource: str, destinations: Iterable[str]) -> None:
        """It goes to these: inside the transaction that adds the rows for them."""
        sql = "SELECT id, data FROM work WHERE queue=? AND subject=? AND state IN ('waiting', 'dead')"
        kept = self._ledger.rows(sql, TO_DELETE, resource)
        names = sorted({*destinations, *(json.loads(kept[0]["data"])["Destinations"] if kept else ())})
        data = {"Level": level, "Instances": None, "Destinations": names}
        if not kept:
            self._ledger.add(TO_DELETE, resource, data)
            return
        again = "UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=?, data=? WHERE id=?"
        self._ledger.run(again, time.time(), json.dumps(data), kept[0]["id"])

    def delivered(self, resource: str) -> None:
        """A delivery of it has ended, or all that arrived of it has been routed: look at it now."""
        sql = "UPDATE work SET next_attempt=0 WHERE queue=? AND subject=? AND state='waiting' AND attempts=0"
        if self._ledger.run(sql, TO_DELETE, resource):
            self._wake.set()

    def stop(self, seconds: float) -> bool:
        """Whether it has ended within this time."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _work(self) -> None:
        trouble = Trouble(f"{self._name} (deletion)")
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                for row in self._ledger.due(TO_DELETE, PAGE, max(self._retry.longest, BLOCKED)):
                    if not self._stopping.is_set():
                        self._look_at(row)
                if not self._stopping.is_set():
                    trouble.is_over()
                wait = 1.0
            except Exception as error:  # noqa: BLE001 - nothing is deleted, and looked at again
                expected = isinstance(error, (LoopbackError, sqlite3.Error, OSError))
                why = one_line(error) if expected else "an error, please report it"
                text = f"{self._name} deletes nothing now: {why}"
                if not self._stopping.is_set():
                    trouble.begins(text if expected else f"{text}:\n{traceback.format_exc()}", why)
                wait = 5.0
            self._wake.wait(wait)

    def _look_at(self, row: Mapping[str, Any]) -> None:
        data, resource = json.loads(row["data"]), row["subject"]
        if self._is_unfinished([resource]):  # without a question to Orthanc: there may be thousands
            self._later(row, data, BLOCKED)
            return
        instances = self._content(resource, "Instance")
        if not instances:
            self._ledger.end(row["id"], "gone")
        elif self._is_under_way(resource, instances):
            self._later(row, data, BLOCKED)
        elif any(self._is_protected(patient) for patient in self._content(resource, "Patient")):
            self._ledger.end(row["id"], "done")
            orthanc.LogWarning(f"{self._name}: {data['Level'].lower()} {resource} stays, its patient is protected")
        else:
            try:
                if self._all_have(data, instances):
                    self._delete(row, data, list(instances))
                else:
                    self._later(row, data, PROVE_AGAIN)
            except (LoopbackError, ValueError, OSError, http.client.HTTPException) as error:
                if isinstance(error, LoopbackError) and error.status == 0:
                    raise
                self._fail(row, data, str(error))

    def _content(self, resource: str, level: str) -> dict[str, Mapping[str, Any]]:
        body = {"Resources": [resource], "Level": level, "Metadata": level == "Instance"}
        return {found["ID"]: found for found in self._loopback.post("/tools/bulk-content", body)}

    def _is_protected(self, patient: str) -> bool:
        return bool(int(self._loopback.get(f"/patients/{patient}/protected")))

    def _is_under_way(self, resource: str, instances: Mapping[str, Any]) -> bool:
        """Whether a rule, of whatever level, has still to do with any of it."""
        family = {resource, *instances, *(key for level in PLURALS for key in self._content(resource, level))}
        return self._is_unfinished(sorted(family)) or self._arrives(instances)

    def _is_unfinished(self, resources: list[str]) -> bool:
        sql = "SELECT 1 FROM work WHERE subject IN (SELECT value FROM json_each(?)) AND queue<>? AND state IN (?,?,?) LIMIT 1"
        return bool(self._ledger.rows(sql, json.dumps(resources), TO_DELETE, "waiting", "sending", "dead"))

    def _arrives(self, instances: Iterable[str]) -> bool:
        """Whether any of these came (again) and is not handed over yet; also where the feed has still to read of it."""
        arrived = "SELECT 1 FROM arrived WHERE level=? AND instance IN (SELECT value FROM json_each(?)) LIMIT 1"
        some = json.dumps(list(instances))
        if any(self._ledger.rows(arrived, level, some) for level in PLURALS):
            return True
        cursor = self._ledger.number("cursor", -1)
        if cursor < 0:
            return False  # Reconcile is false: all that came has been noted at once
        page = self._loopback.get(f"/changes?since={cursor}&limit={PAGE}")
        new = {change["ID"] for change in page["Changes"] if change["ChangeType"] == "NewInstance"}
        return not page["Done"] or not new.isdisjoint(instances)

    def _all_have(self, data: dict[str, Any], instances: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether each destination has proved to have each; False: it is not known yet."""
        pending, asked = False, data.setdefault("Asked", {})
        for destination in data["Destinations"]:
            proved = self._prove(destination, instances, asked)
            if proved is None:
                pending = True
            elif missing := len(instances.keys() - proved):
                raise ValueError(f"{destination} has not proved to have {missing} of {len(instances)} instances")
        return not pending

    def _delete(self, row: Mapping[str, Any], data: Mapping[str, Any], instances: list[str]) -> None:
        for start in range(0, len(instances), DELETE_AT_ONCE):
            some = instances[start : start + DELETE_AT_ONCE]
            if self._stopping.is_set() or self._arrives(some):
                self._later(row, data, PROVE_AGAIN)  # what is left is proved again
                return
            # What can't be recorded, since the disk is full or the ledger was taken away, is not done.
            self._ledger.run("UPDATE work SET updated=? WHERE id=?", time.time(), row["id"])
            self._loopback.post("/tools/bulk-delete", {"Resources": some})
        self._ledger.end(row["id"], "done")
        what = f"{data['Level'].lower()} {row['subject']}, {len(instances)} instances"
        orthanc.LogWarning(f"{self._name}: deleted {what}, which {', '.join(data['Destinations'])} proved to have")

    def _later(self, row: Mapping[str, Any], data: Mapping[str, Any], seconds: float) -> None:
        # Not if it has been noted anew meanwhile.
        sql = "UPDATE work SET next_attempt=?, data=? WHERE id=? AND data=?"
        self._ledger.run(sql, time.time() + seconds, json.dumps(data), row["id"], row["data"])

    def _fail(self, row: Mapping[str, Any], data: dict[str, Any], error: str) -> None:
        retry = self._retry
        with self._ledger.transaction():
            kept = {key: value for key, value in data.items() if key != "Asked"}
            sql = "UPDATE work SET attempts=attempts+1, data=? WHERE id=? AND data=?"
            if not self._ledger.run(sql, json.dumps(kept), row["id"], row["data"]):
                return  # noted anew meanwhile, or dropped
            hours, times = retry.give_up_hours, {"first": retry.first, "longest": retry.longest}
            state = self._ledger.fail(row["id"], one_line(error), give_up_after=hours * 3600, **times)
        text = f"{self._name}: {data['Level'].lower()} {row['subject']} stays here: {one_line(error)}"
        if state == "dead":
            again = f"POST /{self._name}/deliveries/{row['id']}/retry asks again"
            orthanc.LogError(f"{text}. Given up after {hours:g} hours; {again}")
        elif row["attempts"] == 0:
            orthanc.LogWarning(f"{text}. It will be asked again")
