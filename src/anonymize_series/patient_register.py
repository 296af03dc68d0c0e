# SPDX-License-Identifier: AGPL-3.0-or-later
"""The register: which copy is whose, both ways, and what was held back."""

import time
from typing import Any

import pydicom

from anonymize_series.copies import Copy
from anonymize_series.elements import text_of
from anonymize_series.results import STUDY_TAGS
from common.ledger import Ledger

# Both ways: of what was de-identified, and of the results that were taken back (so that no rule takes them again).
REGISTER_TABLES = """
CREATE TABLE IF NOT EXISTS uids(pseudonym TEXT PRIMARY KEY, original TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS studies(
    pseudonym TEXT PRIMARY KEY, original TEXT NOT NULL, patient TEXT NOT NULL, patient_pseudonym TEXT NOT NULL,
    tags TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS studies_by_patient ON studies(patient);
CREATE INDEX IF NOT EXISTS studies_by_original ON studies(original);
CREATE TABLE IF NOT EXISTS copies(
    instance TEXT NOT NULL, original TEXT NOT NULL, recipe TEXT NOT NULL, PRIMARY KEY(instance, original)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results(uid TEXT PRIMARY KEY, came_as TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held(
    number INTEGER PRIMARY KEY, instance TEXT NOT NULL, recipe TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE(instance, recipe));
"""
MAX_STUDIES_PER_ANSWER = 1000
# What a study is looked up by, and the condition: `pseudonym` is of either, the study or the patient.
STUDY_CONDITIONS = {
    "patient": "patient=?1",
    "study": "original=?1",
    "pseudonym": "pseudonym=?1 OR patient_pseudonym=?1",
}


class Register:
    """The tables of the ledger that say which copy is whose."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def study_of_copy(self, uid: str) -> dict[str, Any] | None:
        """Return the study of which one with this UID is the copy, or None."""
        return next(iter(self._ledger.rows("SELECT * FROM studies WHERE pseudonym=?", uid)), None)

    def original_uid(self, uid: str) -> str | None:
        """Return the UID of which this one is the pseudonym, or None."""
        rows = self._ledger.rows("SELECT original FROM uids WHERE pseudonym=?", uid)
        return str(rows[0]["original"]) if rows else None

    def is_copy(self, instance: str) -> bool:
        """Return whether this is the Orthanc identifier of a copy."""
        return bool(self._ledger.rows("SELECT 1 FROM copies WHERE instance=?", instance))

    def other_recipes(self, instance: str, recipe: str) -> list[str]:
        """Return the other recipes by which copies were made that have this Orthanc identifier."""
        sql = "SELECT DISTINCT recipe FROM copies WHERE instance=? AND recipe<>?"
        return [row["recipe"] for row in self._ledger.rows(sql, instance, recipe)]

    def is_result(self, uid: str) -> bool:
        """Return whether a result that was taken back has this SOPInstanceUID."""
        return bool(self._ledger.rows("SELECT 1 FROM results WHERE uid=?", uid))

    def add_copy(self, copy: Copy, original: Any, instance: str, recipe: str) -> None:
        """Write down what belongs together, before the copy is stored: a data set of pydicom, and what was made of it."""
        study = pydicom.Dataset()
        for keyword in STUDY_TAGS:
            if keyword in original:
                study[keyword] = original[keyword]
        study_uid, patient = text_of(original, "StudyInstanceUID"), text_of(original, "PatientID")
        tags = study.to_json(suppress_invalid_tags=True)
        with self._ledger.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO uids VALUES(?,?)", ((new, old) for old, new in copy.uids.items()))
            values = (copy.uids[study_uid], study_uid, patient, copy.patient, tags)
            db.execute("INSERT OR IGNORE INTO studies VALUES(?,?,?,?,?)", values)
            db.execute("INSERT OR REPLACE INTO copies VALUES(?,?,?)", (copy.instance, instance, recipe))
            db.execute("DELETE FROM held WHERE instance=? AND recipe=?", (instance, recipe))

    def add_result(self, uid: str, instance: str) -> None:
        """Write down the SOPInstanceUID that a result will have, before it is stored, and the instance that it came as."""
        self._ledger.run("INSERT OR REPLACE INTO results VALUES(?,?)", uid, instance)

    def hold_back(self, instance: str, recipe: str, reason: str) -> None:
        """Write down that no copy was made of an instance, and why."""
        sql = "INSERT OR REPLACE INTO held(instance, recipe, reason, at) VALUES(?,?,?,?)"
        self._ledger.run(sql, instance, recipe, reason, time.time())

    def held(self, since: int, limit: int) -> list[dict[str, Any]]:
        """Return at most `limit` instances that were held back, after the one with the number `since`, oldest first."""
        return self._ledger.rows("SELECT * FROM held WHERE number>? ORDER BY number LIMIT ?", since, limit)

    def count_held(self, most: int) -> int:
        """Return how many instances were held back; of more than `most`, that number."""
        sql = "SELECT COUNT(*) n FROM (SELECT 1 FROM held LIMIT ?)"
        return int(self._ledger.rows(sql, most)[0]["n"])

    def studies(self, name: str, value: str) -> list[dict[str, Any]]:
        """Return the studies, at most 1000, that have this value of one of `STUDY_CONDITIONS`."""
        sql = f"SELECT * FROM studies WHERE {STUDY_CONDITIONS[name]} LIMIT {MAX_STUDIES_PER_ANSWER}"
        return self._ledger.rows(sql, value)

    def counts(self) -> dict[str, int]:
        """Return how many rows each list has."""
        names = ("held", "copies", "studies", "results")
        return {name: self._ledger.rows(f"SELECT COUNT(*) n FROM {name}")[0]["n"] for name in names}
