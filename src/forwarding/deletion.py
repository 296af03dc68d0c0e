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

from common.changes import PAGE, is_arriving
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.retry import Retry
from common.routes import one_line
from common.work import Which, Work
from common.worker import Trouble
from forwarding.others import OtherScripts
from forwarding.proofs import Proofs
from forwarding.rules import LEVELS
from forwarding.tasks import DELETE, NO_DESTINATION
from forwarding.transports import Prove

PROVE_AGAIN_SECONDS = 2.0  # between looks at a proof under way
BLOCKED_SECONDS = 20.0  # until the next look at what is not delivered yet, if no delivery of ours ends before
INSTANCES_PER_DELETION = 100  # a request: others want Orthanc too


class Deleter:
    """Rows of the ledger with a task of their own, and one thread that asks for proofs, which may take long.

    Only instances that were proved are deleted, one by one, never a study with what came meanwhile. Nothing is deleted while
    any of it still arrives, is routed, waits, is sent, or was given up for some destination, by a rule of any level or by
    another script.

    Parameters
    ----------
    is_by_scripts : returns whether a forwarder protects a patient, not a person.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        loopback: Loopback,
        prove: Prove,
        retry: Retry,
        trouble: Trouble,
        is_by_scripts: Callable[[str], bool] = lambda _patient: False,
    ) -> None:
        self._name, self._ledger, self._work, self._loopback = name, ledger, Work(ledger), loopback
        self._retry, self._trouble, self._is_by_scripts = retry, trouble, is_by_scripts
        self._others = OtherScripts(name, loopback, self._content)
        self._proofs = Proofs(prove, self._work, self._content)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name} deletes", daemon=True)
        self._thread.start()

    def note(self, level: str, resource: str, destinations: Iterable[str]) -> None:
        """Note that it is sent to these: inside the transaction that adds the rows for them."""
        kept = self._work.find(Which(task=DELETE, resource=resource, states=("waiting", "dead")))
        before = json.loads(kept[0]["data"]) if kept else {}
        names = sorted({*destinations, *before.get("Destinations", ())})
        data = {"Level": level, "Instances": None, "Destinations": names}
        data |= {"Instead": before["Instead"]} if "Instead" in before else {}
        if not kept:
            self._ledger.add(NO_DESTINATION, resource, data, task=DELETE)
            return
        with self._ledger.transaction():
            self._work.change(kept[0]["id"], data=data)
            self._work.retry(Which(ids=[kept[0]["id"]]))

    def note_instead(self, resource: str, destination: str, alternate: str) -> None:
        """Note that some of it goes to an alternate: inside the transaction that moves its row. Either may prove to have it."""
        for row in self._work.find(Which(task=DELETE, resource=resource, states=("waiting", "dead"))):
            data = json.loads(row["data"])
            instead = data.setdefault("Instead", {}).setdefault(destination, [])
            if alternate not in instead:
                instead.append(alternate)
                self._work.change(row["id"], data=data)

    def delivered(self, resource: str) -> None:
        """Look at it now: a delivery of it has ended, or all that arrived of it has been routed."""
        if self._work.make_due(Which(task=DELETE, resource=resource, tried=False)):
            self._wake.set()

    def stop(self, seconds: float) -> bool:
        """End; return whether it has ended within this time."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _run(self) -> None:
        trouble = Trouble(f"{self._name} (deletion)")
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                longest = max(self._retry.longest, BLOCKED_SECONDS)
                rows = self._ledger.due(NO_DESTINATION, PAGE, longest, DELETE)
                owed = self._others.owed_of(rows)
                for row in rows:
                    if self._stopping.is_set():
                        break
                    if why := owed.get(row["subject"]):
                        self._later(row, json.loads(row["data"]), BLOCKED_SECONDS, why)
                    else:
                        self._look_unless_refused(row)
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

    def _look_unless_refused(self, row: Mapping[str, Any]) -> None:
        """Look at a row; one of which something can't be asked now holds up no other."""
        try:
            self._look_at(row)
        except LoopbackError as error:
            if error.status == 0:
                raise
            self._later(row, json.loads(row["data"]), BLOCKED_SECONDS, one_line(error))

    def _look_at(self, row: Mapping[str, Any]) -> None:
        data, resource = json.loads(row["data"]), row["subject"]
        if self._is_unfinished([resource]):  # without a question to Orthanc: there may be thousands
            self._later(row, data, BLOCKED_SECONDS)
            return
        instances = self._content(resource, "Instance")
        if not instances:
            self._end(row, "gone")
        elif self._is_under_way(family := self._family(resource, instances), instances):
            self._later(row, data, BLOCKED_SECONDS)
        elif protected := [patient for patient in self._content(resource, "Patient") if self._is_protected(patient)]:
            if any(map(self._is_by_scripts, protected)):
                self._later(row, data, BLOCKED_SECONDS)  # until something else of it is delivered
                return
            self._end(row, "done")
            orthanc.LogWarning(f"{self._name}: {data['Level'].lower()} {resource} stays, its patient is protected")
        elif why := self._others.why_owed(resource):
            self._later(row, data, BLOCKED_SECONDS, why)
        else:
            try:
                if self._proofs.all_have(data, instances) and self._proofs.others_have(row, data, family, instances):
                    self._delete(row, data, list(instances), family)
                else:
                    self._later(row, data, PROVE_AGAIN_SECONDS)
            except (LoopbackError, ValueError, OSError, http.client.HTTPException) as error:
                if isinstance(error, LoopbackError) and error.status == 0:
                    raise
                self._fail(row, data, str(error))

    def _content(self, resource: str, level: str) -> dict[str, Mapping[str, Any]]:
        body = {"Resources": [resource], "Level": level, "Metadata": level == "Instance"}
        return {found["ID"]: found for found in self._loopback.post("/tools/bulk-content", body)}

    def _is_protected(self, patient: str) -> bool:
        return bool(int(self._loopback.get(f"/patients/{patient}/protected")))

    def _family(self, resource: str, instances: Iterable[str]) -> list[str]:
        """Return what any of it belongs to, of whatever level, with itself."""
        return sorted({resource, *instances, *(key for level in LEVELS for key in self._content(resource, level))})

    def _is_under_way(self, family: list[str], instances: Iterable[str]) -> bool:
        """Return whether a rule, or a person, has still to do with any of it."""
        return self._is_unfinished(family) or is_arriving(self._ledger, self._loopback, instances)

    def _is_unfinished(self, resources: list[str]) -> bool:
        states = ("waiting", "sending", "dead")
        return self._work.has(Which(resources=resources, not_task=DELETE, states=states))

    def _delete(self, row: Mapping[str, Any], data: Mapping[str, Any], instances: list[str], family: list[str]) -> None:
        for start in range(0, len(instances), INSTANCES_PER_DELETION):
            some = instances[start : start + INSTANCES_PER_DELETION]
            # Proofs take their time: meanwhile a person may have sent it, or a rule, here or by another script.
            is_needed = self._is_under_way(family, some) or self._others.why_owed(row["subject"])
            if self._stopping.is_set() or is_needed:
                self._later(row, data, PROVE_AGAIN_SECONDS)  # what is left is proved again
                return
            # What can't be recorded, since the disk is full or the ledger was taken away, is not done.
            self._work.touch(row["id"])
            self._loopback.post("/tools/bulk-delete", {"Resources": some})
        self._end(row, "done")
        what = f"{data['Level'].lower()} {row['subject']}, {len(instances)} instances"
        orthanc.LogWarning(f"{self._name}: deleted {what}, which {', '.join(data['Destinations'])} proved to have")

    def _end(self, row: Mapping[str, Any], state: str) -> None:
        """End a row, unless it has been noted again meanwhile (`created` says so where the data are the same)."""
        with self._ledger.transaction():
            now = self._work.get(row["id"])
            if now and (now["data"], now["created"]) == (row["data"], row["created"]):
                self._ledger.end(row["id"], state)

    def _later(self, row: Mapping[str, Any], data: Mapping[str, Any], seconds: float, why: str = "") -> None:
        """Put a row off, which says why; what a destination said last stays there."""
        error = why or (row["error"] if row["attempts"] else "")
        with self._ledger.transaction():
            if self._work.replace_data(row, data):  # else it has been noted again meanwhile
                self._work.change(row["id"], next_attempt=time.time() + seconds, error=error)

    def _fail(self, row: Mapping[str, Any], data: dict[str, Any], error: str) -> None:
        with self._ledger.transaction():
            kept = {key: value for key, value in data.items() if key not in ("Asked", "AskedOf")}
            if not self._work.replace_data(row, kept):
                return  # noted again meanwhile, or dropped
            self._work.add_attempt(row["id"])
            state = self._ledger.fail(row["id"], one_line(error), self._retry)
        text = f"{self._name}: {data['Level'].lower()} {row['subject']} stays here: {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            again = f"POST /{self._name}/deliveries/{row['id']}/retry asks again"
            orthanc.LogError(f"{text}. Given up after {self._retry.give_up_hours:g} hours; {again}")
        elif row["attempts"] == 0:
            orthanc.LogWarning(f"{text}. It will be asked again")
