# SPDX-License-Identifier: AGPL-3.0-or-later
"""ProtectUndelivered: patients are protected against recycling while something of theirs is not delivered."""

import http
import json
import time
from collections.abc import Collection, Iterable

import orthanc

from common.changes import GRACE
from common.loopback import LoopbackError
from common.owed import Owing
from common.routes import one_line
from common.worker import Trouble
from forwarding.context import Context

FORWARDERS = ("auto-forward-modality", "auto-forward-peer", "auto-forward-dicomweb")
ROUTING_SECONDS = 6.0  # beyond StableAge, in which what arrived gets its rows
PATIENTS_AT_ONCE = 100  # in one turn, so that others need not wait
# A patient is `planned` before it is protected, then `ours`; one that was protected already is `theirs`: a person's.
PROTECTED_TABLE = """
CREATE TABLE IF NOT EXISTS protected(patient TEXT PRIMARY KEY, state TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
"""
PROTECT = """
INSERT INTO protected VALUES(?,?,?) ON CONFLICT(patient) DO UPDATE SET state=excluded.state, until=excluded.until
"""
WAITS = """
EXISTS (SELECT 1 FROM patients_waited_for waited WHERE waited.patient=protected.patient)
"""
NEW = """
SELECT DISTINCT patient FROM patients_waited_for
WHERE patient<>'' AND patient NOT IN (SELECT patient FROM protected) LIMIT ?
"""


class Protection:
    """Protects patients, by Orthanc's own flag, and gives back the state that they had, also after a kill.

    A patient whom a person has protected is left so. One whom a person unprotects meanwhile is not protected again.
    Without the setting, what is still protected is given back.
    """

    def __init__(self, context: Context, owing: Owing) -> None:
        self._name, self._ledger, self._loopback = context.name, context.ledger, context.loopback
        self._owing, self._is_on = owing, context.settings.protect_undelivered
        self._quiet = float(context.configuration.get("StableAge", 60)) + GRACE + ROUTING_SECONDS
        self._others = tuple(name for name in FORWARDERS if name != context.name)
        self._trouble = Trouble(context.name)  # of giving back
        self._leaving = ""  # a patient who is left to another forwarder, just now

    def held(self, patients: Collection[str]) -> set[str]:
        """Return which of these patients this script protects."""
        sql = "SELECT patient FROM protected WHERE state<>'theirs' AND patient IN (SELECT value FROM json_each(?))"
        return {row["patient"] for row in self._ledger.rows(sql, json.dumps([*patients]))} - {self._leaving}

    def is_by_scripts(self, patient: str) -> bool:
        """Return whether this script, or another forwarder, protects a patient. Raises `LoopbackError`: one can't say."""
        return bool(self.held([patient]) or self._held_by_others(patient))

    def protect(self, arrived: Iterable[str]) -> None:
        """Protect the patients of whom something has arrived: it gets its rows soon."""
        if not self._is_on:
            return
        until = time.time() + self._quiet
        for patient in arrived:
            if not self._ledger.run("UPDATE protected SET until=? WHERE patient=?", until, patient):
                self._begin(patient, until)

    def look(self) -> bool:
        """Protect the patients of rows that are not protected yet, and give back those for whom nothing waits any more.

        Return whether there may be more of them.
        """
        unknown, new = False, list[dict[str, str]]()
        if self._is_on:
            unknown = self._owing.find_out(patients=True, at_once=True)
            new = self._ledger.rows(NEW, PATIENTS_AT_ONCE)
            for row in new:
                self._begin(row["patient"], 0.0)
            for row in self._ledger.rows("SELECT patient FROM protected WHERE state='planned'"):
                self._set(row["patient"])  # a kill, or an error, came in between
        now = time.time()
        # Not by rows of which it is not known whose they are.
        waits = f"(?=1 OR until BETWEEN ? AND ? OR {WAITS})" if self._is_on else "(1=0 AND 0 IN (?,?,?))"
        sql = f"SELECT patient, state FROM protected WHERE NOT {waits} LIMIT ?"
        over = self._ledger.rows(sql, unknown, now, now + self._quiet, PATIENTS_AT_ONCE)
        ended = sum(self._end(row["patient"], row["state"]) for row in over)
        if ended == len(over):
            self._trouble.is_over()
        return unknown or len(new) == PATIENTS_AT_ONCE or bool(ended and len(over) == PATIENTS_AT_ONCE)

    def _end(self, patient: str, state: str) -> bool:
        """Forget a patient, who is given back unless protected by a person; return whether that is done."""
        try:
            if is_over := state == "theirs" or self._give_back(patient):
                self._ledger.run("DELETE FROM protected WHERE patient=?", patient)
            return is_over
        finally:
            self._leaving = ""

    def _begin(self, patient: str, until: float) -> None:
        try:
            # Before as well: it may give it back between these.
            is_by_another = self._held_by_others(patient)
            is_protected = self._is_protected(patient)
            is_by_another = is_by_another or self._held_by_others(patient)
            state = "theirs" if is_protected and not is_by_another else "planned"
        except LoopbackError as error:
            if error.status == 0:
                raise
            is_protected, state = self._is_protected(patient), "planned"
            if is_protected:
                return  # by whom, another forwarder can't say now
        if is_protected is None:
            return  # deleted
        # Before it is done: a kill in between leaves no patient protected.
        self._ledger.run(PROTECT, patient, state, until)
        if state == "planned":
            self._set(patient)

    def _set(self, patient: str) -> None:
        self._put(patient, is_protected=True)
        self._ledger.run("UPDATE protected SET state='ours' WHERE patient=?", patient)

    def _give_back(self, patient: str) -> bool:
        """Unprotect a patient, unless a person has done that, or another forwarder needs it; return whether that is done."""
        try:
            if self._held_by_others(patient):
                # Of two that leave it to each other in the same moment, the one that asks last hears that it is alone.
                self._leaving = patient
                if self._held_by_others(patient):
                    return True  # it gives it back
            if self._is_protected(patient):
                self._put(patient, is_protected=False)
                if self._held_by_others(patient):  # since a moment ago
                    self._put(patient, is_protected=True)
        except LoopbackError as error:
            if error.status == 0:
                raise
            why = f"no protection of a patient is given back while another forwarder can't say what it needs: {one_line(error)}"
            self._trouble.begins(f"{self._name}: {why}", why, orthanc.LogWarning)
            return False
        return True

    def _held_by_others(self, patient: str) -> bool:
        for name in self._others:
            try:
                if self._loopback.post(f"/{name}/protected", {"Patients": [patient]})["Protected"]:
                    return True
            except LoopbackError as error:
                if error.status != http.HTTPStatus.NOT_FOUND:
                    raise
                self._others = tuple(each for each in self._others if each != name)  # it is not there
        return False

    def _is_protected(self, patient: str) -> bool | None:
        """Return whether a patient is protected; None: it was deleted."""
        try:
            return bool(int(self._loopback.get(f"/patients/{patient}/protected")))
        except LoopbackError as error:
            if error.status == 0:
                raise
            return None

    def _put(self, patient: str, *, is_protected: bool) -> None:
        try:
            self._loopback.request("PUT", f"/patients/{patient}/protected", str(int(is_protected)).encode())
        except LoopbackError as error:
            if error.status == 0:
                raise  # else it was deleted
