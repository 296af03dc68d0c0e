# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is kept of patients, studies, series and instances: identifiers for the day when they are deleted, and what is pending."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from common.ledger import Ledger

from .events import LEVELS

RESOURCE_TABLES = """
CREATE TABLE IF NOT EXISTS resource(
    id TEXT PRIMARY KEY, level TEXT NOT NULL, dicom TEXT, parent TEXT, tags TEXT, origin TEXT, received INTEGER NOT NULL,
    unstable INTEGER NOT NULL, due REAL, announced INTEGER NOT NULL, deleted REAL) WITHOUT ROWID;
DROP INDEX IF EXISTS resource_unstable;
CREATE INDEX IF NOT EXISTS resource_to_settle ON resource(due) WHERE unstable=1;
CREATE INDEX IF NOT EXISTS resource_deleted ON resource(deleted) WHERE deleted IS NOT NULL;
CREATE TABLE IF NOT EXISTS instance(id TEXT PRIMARY KEY, dicom TEXT, series TEXT) WITHOUT ROWID;
"""
UPSERT = """
INSERT INTO resource VALUES(?,?,?,?,?,?,0,1,NULL,0,NULL) ON CONFLICT(id) DO UPDATE SET
dicom=excluded.dicom, parent=excluded.parent, tags=COALESCE(excluded.tags, resource.tags), origin=excluded.origin,
unstable=1, due=NULL, announced=CASE WHEN resource.deleted IS NULL THEN resource.announced ELSE 0 END,
received=CASE WHEN resource.deleted IS NULL THEN resource.received ELSE 0 END, deleted=NULL
"""
UPSERT_INSTANCE = """
INSERT INTO instance VALUES(?,?,?) ON CONFLICT(id) DO UPDATE SET dicom=excluded.dicom, series=excluded.series
"""


@dataclasses.dataclass(frozen=True)
class Kept:
    """DICOM's and Orthanc's identifiers from the patient down, as far as they are known; of the first instance the rest."""

    dicom_ids: tuple[str | None, ...]
    orthanc_ids: tuple[str, ...]
    tags: dict[str, Any] | None = None
    origin: dict[str, str] | None = None

    @property
    def complete(self) -> bool:
        return None not in self.dicom_ids and len(self.orthanc_ids) == len(self.dicom_ids)

    @property
    def key(self) -> str:
        """What its events are in order with: of an instance its series."""
        return self.orthanc_ids[-2] if len(self.orthanc_ids) == 4 else self.orthanc_ids[-1]


class Resources:
    """The tables `resource` (patients, studies, series) and `instance` (where deleted instances are published)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # What is known

    def kept(self, level: str, resource: str) -> Kept:
        """Return what is known of a resource without a request to Orthanc."""
        dicom_ids: list[str | None] = []
        orthanc_ids = [resource]
        row: Mapping[str, Any] = {}
        above: str | None = resource
        if level == "Instance":
            found = self._ledger.rows("SELECT dicom, series FROM instance WHERE id=?", resource)
            dicom_ids, above = [found[0]["dicom"] if found else None], found[0]["series"] if found else None
            orthanc_ids = [above, resource] if above else [resource]
        while above and (rows := self._ledger.rows("SELECT * FROM resource WHERE id=?", above)):
            row = row or rows[0]
            dicom_ids.insert(0, rows[0]["dicom"])
            above = rows[0]["parent"]
            if above:
                orthanc_ids.insert(0, above)
        missing = LEVELS.index(level) + 1 - len(dicom_ids)
        texts = [row.get(name) for name in ("tags", "origin")]
        return Kept((*[None] * missing, *dicom_ids), tuple(orthanc_ids), *(text and json.loads(text) for text in texts))

    def key_of(self, level: str, resource: str) -> str:
        """Return what the events of a resource are in order with: of an instance its series, if that is known."""
        if level != "Instance":
            return resource
        found = self._ledger.rows("SELECT series FROM instance WHERE id=?", resource)
        return str(found[0]["series"]) if found else resource

    def received(self, series: str) -> int:
        """Return how many images of a series were received."""
        rows = self._ledger.rows("SELECT received FROM resource WHERE id=?", series)
        return int(rows[0]["received"]) if rows else 0

    def is_announced(self, resource: str) -> bool:
        """Return whether its New… event was written."""
        return bool(self._ledger.rows("SELECT 1 FROM resource WHERE id=? AND announced=1", resource))

    def is_unstable(self, resource: str) -> bool:
        """Return whether an image of it came for which no Stable… event was written; also of one that is not known."""
        rows = self._ledger.rows("SELECT unstable FROM resource WHERE id=?", resource)
        return not rows or bool(rows[0]["unstable"])

    def is_deleted(self, resource: str) -> bool:
        """Return whether a series, study or patient was noted as deleted, and nothing came of it since."""
        return bool(self._ledger.rows("SELECT 1 FROM resource WHERE id=? AND deleted IS NOT NULL", resource))

    def set_due(self, resource: str, due: float) -> None:
        """Let its Stable… event be made up then, unless it comes before."""
        self._ledger.run("UPDATE resource SET due=? WHERE id=?", due, resource)

    def is_kept(self, level: str, resource: str) -> bool:
        """Return whether it is kept as one that Orthanc has."""
        sql = f"SELECT 1 FROM {_table(level)} WHERE id=? AND {_is_here(level)}"
        return bool(self._ledger.rows(sql, resource))

    def overdue(self, now: float, limit: int) -> list[dict[str, Any]]:
        """Return `id` and `level` of those whose Stable… event should have come, as many as `limit`."""
        sql = "SELECT id, level FROM resource WHERE unstable=1 AND due<? AND deleted IS NULL LIMIT ?"
        return self._ledger.rows(sql, now, limit)

    # What happens to them

    def keep(
        self, level: str, resource: str, uid: str, parent: str | None, tags: str | None, origin: str, due: float | None
    ) -> None:
        """Keep one of which an instance has arrived. `due`: when its Stable… event is made up, unless it comes before."""
        with self._ledger.transaction() as db:
            db.execute(UPSERT, (resource, level, uid, parent, tags, origin))
            if due is not None:
                db.execute("UPDATE resource SET due=? WHERE id=?", (due, resource))

    def keep_former(self, level: str, resource: str, uid: str, parent: str | None) -> None:
        """Keep one that was in the archive before this script."""
        with self._ledger.transaction() as db:
            if level == "Instance":
                db.execute("INSERT INTO instance VALUES(?,?,?) ON CONFLICT DO NOTHING", (resource, uid, parent))
            else:
                row = (resource, level, uid, parent)
                # Where several servers share the outbox, another one may have still to report that it is new.
                announced = 0 if self._ledger.is_shared else 1
                sql = "INSERT INTO resource VALUES(?,?,?,?,NULL,NULL,0,0,NULL,?,NULL) ON CONFLICT DO NOTHING"
                db.execute(sql, (*row, announced))

    def write(self, received: Mapping[str, int], instances: Iterable[tuple[str, str, str]]) -> None:
        """Write the numbers of received images of series, and instances (Orthanc's identifier, DICOM's, the series)."""
        with self._ledger.transaction() as db:
            db.executemany("UPDATE resource SET received=? WHERE id=?", [(n, key) for key, n in received.items()])
            db.executemany(UPSERT_INSTANCE, instances)

    def announce(self, level: str, resource: str) -> None:
        """Note that its New… event is written."""
        self._ledger.run(
            "INSERT INTO resource VALUES(?,?,NULL,NULL,NULL,NULL,0,0,NULL,1,NULL) ON CONFLICT(id) DO UPDATE SET announced=1",
            *(resource, level),
        )

    def become_stable(self, resource: str) -> None:
        """Note that its Stable… event is written."""
        self._ledger.run("UPDATE resource SET unstable=0, due=NULL WHERE id=?", resource)

    def make_unstable_due(self, due: float) -> None:
        """Let all Stable… events be made up then that have not come: Orthanc keeps stability in memory, and has restarted."""
        self._ledger.run("UPDATE resource SET due=? WHERE unstable=1 AND deleted IS NULL", due)

    def delete(self, resource: str, when: float) -> None:
        """Note that it is deleted.

        OnChange may come after the same resource was stored again: its row is marked, and is deleted when it stays away.
        """
        with self._ledger.transaction() as db:
            db.execute("DELETE FROM instance WHERE id=?", (resource,))
            db.execute("UPDATE resource SET deleted=?, unstable=0, due=NULL WHERE id=?", (when, resource))

    def forget_deleted(self, before: float) -> None:
        """Delete the rows of what was deleted before that time."""
        self._ledger.run("DELETE FROM resource WHERE deleted<?", before)


class Unseen:
    """The kept resources of one level that were not seen in the archive yet. `reader`: a connection of its own."""

    def __init__(self, reader: Any, level: str) -> None:
        self._reader, self._table = reader, _table(level)
        condition = "1=1" if level == "Instance" else f"level='{level}' AND deleted IS NULL"
        reader.execute("DROP TABLE IF EXISTS missing")
        reader.execute(f"CREATE TEMP TABLE missing AS SELECT id FROM {self._table} WHERE {condition}")
        reader.execute("CREATE INDEX missing_by_id ON missing(id)")

    def see(self, resources: Sequence[str]) -> set[str]:
        """Take off those that the archive has; return which of them are not kept."""
        self._reader.executemany("DELETE FROM missing WHERE id=?", [(each,) for each in resources])
        return set(resources) - self._known(resources)

    def _known(self, resources: Collection[str]) -> set[str]:
        marks = ",".join("?" * len(resources))
        sql = f"SELECT id FROM {self._table} WHERE id IN ({marks})"
        return {row[0] for row in self._reader.execute(sql, tuple(resources))}

    def left(self) -> list[str]:
        """Return those that were not seen."""
        return [row[0] for row in self._reader.execute("SELECT id FROM missing").fetchall()]


def _table(level: str) -> str:
    return "instance" if level == "Instance" else "resource"


def _is_here(level: str) -> str:
    return "1=1" if level == "Instance" else "deleted IS NULL"
