# SPDX-License-Identifier: AGPL-3.0-or-later
"""The jobs that are watched: a table of the ledger."""

import json
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from common.ledger import Ledger

# A job is watched from its submission to its end: `running`, `Success`, `Failure` or `canceled`.
WATCHED_TABLE = """
CREATE TABLE IF NOT EXISTS watched(job TEXT PRIMARY KEY, state TEXT NOT NULL, error TEXT NOT NULL, data TEXT NOT NULL,
    seen REAL NOT NULL, ended REAL);
CREATE INDEX IF NOT EXISTS watched_ended ON watched(ended) WHERE ended IS NOT NULL;
"""
MAX_IGNORED_JOBS = 1000


class Watched:
    """The jobs that are watched, from their submission until somebody has dealt with their end."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ignored: deque[str] = deque(maxlen=MAX_IGNORED_JOBS)

    def add(self, job: str, data: Mapping[str, Any] | None) -> None:
        """Watch a job, with its `description`, or None if it could not be read; does nothing if it is watched."""
        sql = "INSERT OR IGNORE INTO watched VALUES(?,'running','',?,?,NULL)"
        self._ledger.run(sql, job, json.dumps(data), time.time())

    def describe(self, job: str, data: Mapping[str, Any]) -> None:
        """Keep the description of a watched job that showed too little of itself before it ran, as the DICOMweb plugin's do."""
        if data["Body"] is not None:
            sql = "UPDATE watched SET data=? WHERE job=? AND json_extract(data, '$.Body') IS NULL"
            self._ledger.run(sql, json.dumps(data), job)

    def end(self, job: str, state: str, error: str) -> bool:
        """Write down how a job has ended; return False if it is not watched, or had ended."""
        sql = "UPDATE watched SET state=?, error=?, ended=? WHERE job=? AND ended IS NULL"
        return bool(self._ledger.run(sql, state, error, time.time(), job))

    def forget(self, job: str) -> None:
        """Watch a job no longer: its end was dealt with."""
        self._ledger.run("DELETE FROM watched WHERE job=?", job)

    def ignore(self, job: str) -> None:
        """Remember a job that is not ours: of a type that is not watched."""
        self._ignored.append(job)

    def leave(self, job: str) -> None:
        """Watch a job no longer that still runs: somebody else cares for it."""
        self.ignore(job)
        self._ledger.run("DELETE FROM watched WHERE job=? AND ended IS NULL", job)

    def is_ignored(self, job: str) -> bool:
        """Return whether a job is not ours."""
        return job in self._ignored

    def running(self) -> set[str]:
        """Return the jobs that have not ended."""
        return {row["job"] for row in self._ledger.rows("SELECT job FROM watched WHERE ended IS NULL")}

    def running_of(self, job_type: str, seconds: float) -> set[str]:
        """Return the jobs of a type that have not ended, and were submitted at least so many seconds ago."""
        sql = "SELECT job FROM watched WHERE ended IS NULL AND seen<? AND json_extract(data, '$.Type')=?"
        return {row["job"] for row in self._ledger.rows(sql, time.time() - seconds, job_type)}

    def ended(self) -> list[dict[str, Any]]:
        """Return the jobs that have ended, the first first."""
        return self._ledger.rows("SELECT * FROM watched WHERE ended IS NOT NULL ORDER BY ended")

    def doing(self, digest: str) -> list[str]:
        """Return the jobs that do this (`Digest` of a description)."""
        sql = "SELECT job FROM watched WHERE json_extract(data, '$.Digest')=?"
        return [row["job"] for row in self._ledger.rows(sql, digest)]

    def resources(self) -> set[str]:
        """Return the resources that the watched jobs name, as far as they name some."""
        sql = "SELECT value FROM watched, json_each(data, '$.Body.Resources') WHERE json_each.type='text'"
        return {row["value"] for row in self._ledger.rows(sql)}

    def count(self) -> int:
        """Return how many jobs are watched."""
        return int(self._ledger.rows("SELECT COUNT(*) n FROM watched")[0]["n"])
