# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows of work of a ledger: what scripts ask of them, and do with them, besides adding and ending them."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.ledger import Ledger
from common.pages import Page, read_page

NEXT_ATTEMPT_INDEX = "CREATE INDEX IF NOT EXISTS work_by_next ON work(state, queue, next_attempt);"  # for `next_of`


def data_index(key: str) -> str:
    """Return the SQL of an index that finds rows by a key of their data (`unfinished_with`)."""
    return f"CREATE INDEX IF NOT EXISTS work_by_{key.lower()} ON work(json_extract(data, '$.{key}'), state);"


class Work:
    """The rows of work of a ledger. Each call is one statement, committed on return."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # Questions

    def get(self, row: int) -> dict[str, Any] | None:
        """Return the row with this id, or None."""
        return next(iter(self._ledger.rows("SELECT * FROM work WHERE id=?", row)), None)

    def page(
        self,
        parameters: Mapping[str, Any],
        filters: Mapping[str, Sequence[str]],
        hidden_queue: str | None = None,
    ) -> Page:
        """Return the page of rows that a request asks for.

        `filters` are the columns of each parameter, one of which must have its value. Rows of `hidden_queue` are left out.
        """
        where, values = ["1"], []
        for name in filters.keys() & parameters.keys():
            where.append(f"({' OR '.join(f'{column}=?' for column in filters[name])})")
            values += [parameters[name]] * len(filters[name])
        if hidden_queue is not None:
            where.append("queue<>?")
            values.append(hidden_queue)
        return read_page(self._ledger, "work", "id", parameters, " AND ".join(where), values)

    def sending(self) -> list[dict[str, Any]]:
        """Return the rows whose attempt is under way; those that have a job wait for its end."""
        return self._ledger.rows("SELECT * FROM work WHERE state='sending'")

    def of_job(self, job: str) -> dict[str, Any] | None:
        """Return the row of which this job is the last attempt, or None."""
        return next(iter(self._ledger.rows("SELECT * FROM work WHERE job=? LIMIT 1", job)), None)

    def unfinished_with(self, key: str, value: str) -> dict[str, Any] | None:
        """Return a row that waits or is sent whose data has this value at a key (`data_index`), or None."""
        condition = f"json_extract(data, '$.{key}')=? AND state IN ('waiting','sending')"
        return next(iter(self._ledger.rows(f"SELECT * FROM work WHERE {condition} LIMIT 1", value)), None)

    def next_of(self, queue: str, limit: int, longest: float) -> list[dict[str, Any]]:
        """Return the rows of a queue that are due, those that have waited longest first, in whatever order they came.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self._ledger.rows(
            "SELECT * FROM work WHERE state='waiting' AND queue=? AND (next_attempt<=? OR next_attempt>?) "
            "ORDER BY next_attempt, id LIMIT ?",
            *(queue, time.time(), time.time() + longest, limit),
        )

    # What is written

    def set_data(self, row: int, data: Mapping[str, Any]) -> None:
        """Replace the data of a row."""
        self._ledger.run("UPDATE work SET data=? WHERE id=?", json.dumps(data), row)

    def set_job(self, row: int, job: str) -> None:
        """Say which job of Orthanc's the attempt is."""
        self._ledger.run("UPDATE work SET job=? WHERE id=?", job, row)

    def set_first_attempt(self, row: int, job: str, ended: float) -> None:
        """Count a job that somebody else submitted, and that ended at this time, as the first attempt."""
        self._ledger.run("UPDATE work SET job=?, attempts=1, created=? WHERE id=?", job, ended, row)

    def claim(self, row: int, job: str | None = None) -> bool:
        """Begin an attempt, before it is made; return False if the row does not wait any more: a person has dropped it."""
        sql = "UPDATE work SET state='sending', attempts=attempts+1, job=?, updated=? WHERE id=? AND state='waiting'"
        return bool(self._ledger.run(sql, job, time.time(), row))

    def release(self, row: int) -> None:
        """Let a row wait again, and be due now: its attempt was cut off."""
        self._ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE id=?", row)

    def release_unsubmitted(self) -> None:
        """Release all rows whose attempt was cut off before it became a job of Orthanc's."""
        self._ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE state='sending' AND job IS NULL")

    def give_up(self, row: int, error: str) -> None:
        """Make a row `dead`, for this reason."""
        self._ledger.run("UPDATE work SET state='dead', error=?, updated=? WHERE id=?", error, time.time(), row)

    def delete(self, row: int) -> None:
        """Delete a row, whatever its state."""
        self._ledger.run("DELETE FROM work WHERE id=?", row)

    # What a person asks for

    def drop(self, row: int) -> bool:
        """Delete a row; return False if its attempt is under way."""
        return bool(self._ledger.run("DELETE FROM work WHERE id=? AND state<>'sending'", row))

    def retry(self, row: int, *, keep_attempts: bool = False) -> bool:
        """Make a row that is dead or waits due now, with the whole time again; return False if it is in another state."""
        attempts = "attempts" if keep_attempts else "0"
        sql = f"UPDATE work SET state='waiting', attempts={attempts}, next_attempt=0, created=? WHERE id=?"
        return bool(self._ledger.run(f"{sql} AND state IN ('dead','waiting')", time.time(), row))

    def retry_dead(self, queue: str | None = None) -> int:
        """Make all dead rows due now, or those of a queue; return their number."""
        sql = "UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=? WHERE state='dead'"
        if queue is None:
            return self._ledger.run(sql, time.time())
        return self._ledger.run(f"{sql} AND queue=?", time.time(), queue)
