# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which study and patient a resource belongs to, also after it was deleted: lines name both, events only an identifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError

STUDIES_PER_REQUEST = 500  # when the archive is looked through
INSTANCES_PER_REQUEST = 500  # that a job has sent
PLACES_IN_MEMORY = 50_000
PLACES_PER_READ = 1000
PLACE_TABLES = """
CREATE TABLE IF NOT EXISTS places(
    resource TEXT PRIMARY KEY, study TEXT NOT NULL, uid TEXT NOT NULL, patient TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places_by_uid ON places(uid);
"""

Place: TypeAlias = dict[
    str, str
]  # "Study" (Orthanc's identifier), "StudyInstanceUID", "Patient" (PatientID), as lines have them


def place_of_study(study: Mapping[str, Any]) -> Place:
    """Return the place of a study as Orthanc describes it."""
    return {
        "Study": study["ID"],
        "StudyInstanceUID": study["MainDicomTags"].get("StudyInstanceUID", ""),
        "Patient": study["PatientMainDicomTags"].get("PatientID", ""),
    }


class Places:
    """Remembers the places of resources in the ledger, which has `PLACE_TABLES`."""

    def __init__(self, ledger: Ledger, loopback: Loopback) -> None:
        self._ledger, self._loopback = ledger, loopback
        self._known: dict[str, Place] = {}
        self._deleted: dict[str, None] = {}
        self._has_all = False

    def keep(self, resource: str, place: Place) -> None:
        """Remember the place of a resource."""
        self._deleted.pop(resource, None)
        if resource not in self._known:
            values = (place["Study"], place["StudyInstanceUID"], place["Patient"])
            self._ledger.run("INSERT OR REPLACE INTO places VALUES(?,?,?,?)", resource, *values)
            if len(self._known) > PLACES_IN_MEMORY:
                self._known.clear()
            self._known[resource] = place

    def forget(self, resource: str) -> None:
        """Let a resource that was deleted be forgotten, by `forget_deleted`."""
        self._deleted[resource] = None
        self._known.pop(resource, None)

    def forget_deleted(self) -> None:
        """Forget what was deleted, once its lines are written: after a kill before that, the place says that they are missing."""
        if self._deleted:
            with self._ledger.transaction() as db:
                db.executemany("DELETE FROM places WHERE resource=?", [(each,) for each in self._deleted])
            self._deleted.clear()

    def is_kept(self, resource: str) -> bool:
        """Return whether a resource has a place, and was not deleted."""
        rows = self._ledger.rows("SELECT 1 FROM places WHERE resource=?", resource)
        return bool(rows) and resource not in self._deleted

    def studies(self) -> Iterator[Place]:
        """Yield the place of each study that has one."""
        last = ""
        sql = "SELECT * FROM places WHERE resource>? ORDER BY resource LIMIT ?"
        while rows := self._ledger.rows(sql, last, PLACES_PER_READ):
            for row in rows:
                if row["resource"] == row["study"]:
                    yield {"Study": row["study"], "StudyInstanceUID": row["uid"], "Patient": row["patient"]}
            last = rows[-1]["resource"]

    def of_study(self, place: Place) -> list[str]:
        """Return the resources that have the place of a study."""
        sql = "SELECT resource FROM places WHERE uid=? AND study=?"
        return [row["resource"] for row in self._ledger.rows(sql, place["StudyInstanceUID"], place["Study"])]

    def find(self, resource: str, levels: Sequence[str] = ("studies", "series", "instances")) -> Place:
        """Return the place of a resource, or of a StudyInstanceUID, as remembered, else as Orthanc says; {} if nobody knows.

        `levels` : those at which Orthanc is asked about it, none for what was deleted.
        """
        if resource in self._known:
            return self._known[resource]
        rows = self._ledger.rows(
            "SELECT study, uid, patient FROM places WHERE resource=? OR uid=? LIMIT 1", resource, resource
        )
        if rows:
            return {"Study": rows[0]["study"], "StudyInstanceUID": rows[0]["uid"], "Patient": rows[0]["patient"]}
        for level in levels:
            with contextlib.suppress(LoopbackError):
                found = self._loopback.get(f"/{level}/{resource}" + ("" if level == "studies" else "/study"))
                self._known[resource] = place_of_study(found)
                return self._known[resource]
        return {}

    def of_instances(self, instances: Sequence[str]) -> list[Place]:
        """Return the places of the studies that have these instances, as far as Orthanc knows them."""
        found: list[Place] = []
        for start in range(0, len(instances), INSTANCES_PER_REQUEST):
            body = {"Resources": instances[start : start + INSTANCES_PER_REQUEST], "Level": "Study", "Metadata": False}
            with contextlib.suppress(LoopbackError):
                found += map(place_of_study, self._loopback.post("/tools/bulk-content", body))
        return found

    def learn_some(self) -> bool:
        """Learn the places of some of the studies that were here before the script; return whether there may be more."""
        if self._has_all or not self._loopback.enabled:
            return False
        since = self._ledger.get_value("looked_through")
        studies = self._loopback.get(f"/studies?expand&since={since}&limit={STUDIES_PER_REQUEST}") if since >= 0 else []
        with self._ledger.transaction() as db:
            rows = []
            for study in studies:
                values = place_of_study(study)
                for resource in (study["ID"], study["ParentPatient"], *study["Series"]):
                    rows.append((resource, values["Study"], values["StudyInstanceUID"], values["Patient"]))
            db.executemany("INSERT OR IGNORE INTO places VALUES(?,?,?,?)", rows)
            self._ledger.set_value("looked_through", since + len(studies) if studies else -1)
        self._has_all = not studies
        return bool(studies)
