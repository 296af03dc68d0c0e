# SPDX-License-Identifier: AGPL-3.0-or-later
"""Verbs on the ledger's rows of work: find, count, change, retry, take back, remove."""

import dataclasses
import json
import time
from collections.abc import Collection, Mapping
from typing import Any, TypedDict, Unpack

from common.ledger import SEND, STATES, Ledger
from common.times import utc

LAST_ROW = 2**63 - 1  # no row has a higher id
OLDEST_UNFINISHED = """
SELECT created FROM work INDEXED BY work_unfinished WHERE state IN ('waiting','sending') AND task<>? ORDER BY created LIMIT 1
"""
NEXT_ATTEMPT_INDEX = "CREATE INDEX IF NOT EXISTS work_by_next ON work(state, queue, next_attempt);"  # for `next_of`
# For `Which.added_since`: with the columns that pages are filtered by, so that no row is read to leave it out.
ADDED_INDEX = "CREATE INDEX IF NOT EXISTS work_by_added ON work(added, state, task, queue);"


def data_index(key: str) -> str:
    """Return the SQL of an index that finds rows by a key of their data (`unfinished_with`)."""
    return f"CREATE INDEX IF NOT EXISTS work_by_{key.lower()} ON work(json_extract(data, '$.{key}'), state);"


def unfinished_keys(key: str, task: str) -> str:
    """Return the SQL of a query for the keys of an object in the data of unfinished rows of a task."""
    states = "'waiting','sending','dead'"
    return f"SELECT key FROM work, json_each(work.data, '$.{key}') WHERE state IN ({states}) AND task='{task}'"


@dataclasses.dataclass(frozen=True)
class Which:
    """Which rows: those for which all the given conditions hold. The column of a row's resource is called `subject`.

    Attributes
    ----------
    ids, resources : it is one of these.
    task, queue, resource, job : it is this one.
    resource_glob : its resource fits this pattern of SQLite's GLOB.
    not_task : it is another task.
    states : it is in one of these states.
    data : its data has these values, by key.
    about : this is its resource, or what its data calls `Of`: the resource of which its own is a part.
    tried : it was attempted before, or it was not.
    job_or_resource : its last attempt is this job, or it is about it.
    added_since, added_before : it was added then or later, or before, as Unix times (`ADDED_INDEX`).
    """

    ids: Collection[int] | None = None
    task: str | None = None
    not_task: str | None = None
    queue: str | None = None
    resource: str | None = None
    resource_glob: str | None = None
    resources: Collection[str] | None = None
    states: Collection[str] | None = None
    job: str | None = None
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    about: str | None = None
    tried: bool | None = None
    job_or_resource: str | None = None
    added_since: float | None = None
    added_before: float | None = None

    @property
    def is_by_time(self) -> bool:
        """Whether its rows are found by when they were added: nothing names some of them."""
        is_dated = (self.added_since, self.added_before) != (None, None)
        named = (self.ids, self.resource, self.resources, self.about, self.job, self.job_or_resource)
        return is_dated and all(each is None for each in named)

    def condition(self) -> tuple[str, list[Any]]:
        """Return the condition as SQL, and its values."""
        parts, values = ["1=1"], list[Any]()
        # What is added keeps SQLite from an index whose rows are many, as it can't know.
        as_text, added = ("||''", "added") if self.is_by_time else ("", "+added")
        named = {f"task{as_text}": self.task, f"queue{as_text}": self.queue, "subject": self.resource, "job": self.job}
        for column, wanted in named.items():
            if wanted is not None:
                parts.append(f"{column}=?")
                values.append(wanted)
        by_state = f"state{as_text}"
        for column, value, several in (
            ("id", "CAST(value AS BIGINT)", self.ids),
            ("subject", "value", self.resources),
        ):
            if several is not None and len(several) == 1:
                parts.append(f"{column}=?")
                values += several
            elif several is not None:
                parts.append(f"{column} IN (SELECT {value} FROM json_each(?))")
                values.append(json.dumps([*several]))
                by_state = (
                    "state||''"  # SQLite would look at all rows in these states, as it can't know how few are named
                )
        if self.states is not None:
            parts.append(f"{by_state} IN ({','.join('?' * len(self.states))})" if self.states else "1=0")
            values += self.states
        for key, value in self.data.items():
            parts.append("json_extract(data, '$.' || ?)=?")
            values += [key, value]
        if self.tried is not None:
            parts.append("attempts>0" if self.tried else "attempts=0")
        for condition, text in (
            ("subject GLOB ?", self.resource_glob),
            ("task<>?", self.not_task),
            ("(subject=? OR json_extract(data, '$.Of')=?)", self.about),
            ("(job=? OR subject=?)", self.job_or_resource),
            (f"{added}>=?", self.added_since),
            (f"{added}<?", self.added_before),
        ):
            if text is not None:
                parts.append(condition)
                values += [text] * condition.count("?")
        return " AND ".join(parts), values


class Columns(TypedDict, total=False):
    """What may be changed of a row."""

    task: str
    queue: str
    subject: str
    attempts: int
    next_attempt: float
    job: str
    data: Mapping[str, Any]
    created: float
    error: str


def next_attempt_of(row: Mapping[str, Any]) -> str | None:
    """Return when a row that waits is due; None: it does not wait, or it is due as soon as its destination takes something."""
    return utc(row["next_attempt"]) if row["state"] == "waiting" and row["next_attempt"] else None


class WorkView:
    """The rows of one ledger, to look at."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, row: int) -> dict[str, Any] | None:
        """Return a row by its id, or None."""
        return next(iter(self._ledger.rows("SELECT * FROM work WHERE id=?", row)), None)

    def find(self, which: Which) -> list[dict[str, Any]]:
        """Return rows, the oldest first."""
        condition, values = which.condition()
        return self._ledger.rows(f"SELECT * FROM work WHERE {condition} ORDER BY id", *values)

    def has(self, which: Which) -> bool:
        """Return whether there is such a row."""
        condition, values = which.condition()
        return bool(self._ledger.rows(f"SELECT 1 FROM work WHERE {condition} LIMIT 1", *values))

    def count(self, which: Which) -> int:
        """Return the number of rows."""
        condition, values = which.condition()
        return int(self._ledger.rows(f"SELECT COUNT(*) n FROM work WHERE {condition}", *values)[0]["n"])

    def page(self, which: Which, since: int, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Return at most `limit` rows after the row `since`, the oldest first; those `before` another row, the newest first."""
        condition, values = which.condition()
        number, order = "+id" if which.is_by_time else "id", "id" if before is None else "id DESC"
        # Rows are read when it is known which ones.
        named = f"SELECT id FROM work WHERE {condition} AND {number}>? AND {number}<? ORDER BY {order} LIMIT ?"
        sql = f"SELECT * FROM work WHERE id IN ({named}) ORDER BY {order}"
        return self._ledger.rows(sql, *values, since, LAST_ROW if before is None else before, limit)

    def totals_by_queue(self, task: str = SEND) -> dict[str, dict[str, int]]:
        """Return the number of rows of a task in each state, by queue."""
        found: dict[str, dict[str, int]] = {}
        for row in self._ledger.rows("SELECT queue, state, n FROM work_counts WHERE task=?", task):
            found.setdefault(row["queue"], dict.fromkeys(STATES, 0))[row["state"]] = row["n"]
        return found

    def oldest_unfinished(self, not_task: str) -> float | None:
        """Return when the oldest unfinished row of another task was added, as Unix time; None if there is none."""
        return next((row["created"] for row in self._ledger.rows(OLDEST_UNFINISHED, not_task)), None)

    def unfinished_with(self, key: str, value: str) -> dict[str, Any] | None:
        """Return a row that waits or is sent whose data has this value at a key, found by its `data_index`; or None."""
        condition = f"json_extract(data, '$.{key}')=? AND state IN ('waiting','sending')"
        return next(iter(self._ledger.rows(f"SELECT * FROM work WHERE {condition} LIMIT 1", value)), None)

    def unfinished_listing(self, key: str, task: str = SEND) -> dict[str, int]:
        """Return, by queue, the number of rows of a task that wait or are sent and whose data has a list at a key."""
        condition = f"json_type(data, '$.{key}')='array' AND state IN ('waiting','sending') AND task=?"
        sql = f"SELECT queue, COUNT(*) n FROM work WHERE {condition} GROUP BY queue"
        return {row["queue"]: row["n"] for row in self._ledger.rows(sql, task)}

    def next_of(self, queue: str, limit: int, longest: float) -> list[dict[str, Any]]:
        """Return the rows of a queue that are due to be sent, the longest due first, in whatever order they were added.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self._ledger.rows(
            "SELECT * FROM work WHERE state='waiting' AND task=? AND queue=? AND (next_attempt<=? OR next_attempt>?) "
            "ORDER BY next_attempt, id LIMIT ?",
            *(SEND, queue, time.time(), time.time() + longest, limit),
        )


class Work(WorkView):
    """The rows of one ledger. Each call is a transaction, or part of the one that is under way."""

    def claim(self, row: int, job: str | None = None) -> bool:
        """Begin an attempt, before it is made; return False if the row does not wait any more: a person has removed it."""
        sql = "UPDATE work SET state='sending', attempts=attempts+1, job=?, updated=? WHERE id=? AND state='waiting'"
        return bool(self._ledger.run(sql, job, time.time(), row))

    def give_up(self, row: int, error: str) -> None:
        """Make a row `dead`, for this reason."""
        self._ledger.run("UPDATE work SET state='dead', error=?, updated=? WHERE id=?", error, time.time(), row)

    def change(self, row: int, **columns: Unpack[Columns]) -> None:
        """Set columns of a row."""
        names = ", ".join(f"{name}=?" for name in columns)
        values = [json.dumps(value) if name == "data" else value for name, value in columns.items()]
        self._ledger.run(f"UPDATE work SET {names} WHERE id=?", *values, row)

    def replace_data(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        """Set the data of a row, unless somebody has changed them since it was read; return whether it is done."""
        sql = "UPDATE work SET data=? WHERE id=? AND data=?"
        return bool(self._ledger.run(sql, json.dumps(data), row["id"], row["data"]))

    def add_attempt(self, row: int) -> None:
        """Count one attempt more."""
        self._ledger.run("UPDATE work SET attempts=attempts+1 WHERE id=?", row)

    def touch(self, row: int) -> None:
        """Say that a row is worked on now."""
        self._ledger.run("UPDATE work SET updated=? WHERE id=?", time.time(), row)

    def make_due(self, which: Which) -> int:
        """Let rows that wait be due now; return their number."""
        condition, values = which.condition()
        return self._ledger.run(f"UPDATE work SET next_attempt=0 WHERE state='waiting' AND {condition}", *values)

    def wait_again(self, row: int) -> None:
        """Let a row be due again, whose attempt has come to nothing; it counts as one."""
        self._ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE id=?", row)

    def take_back(self, row: int) -> None:
        """Let a row be due again, as if the attempt had not been made."""
        sql = "UPDATE work SET state='waiting', attempts=attempts-1, next_attempt=0, job=NULL WHERE id=?"
        self._ledger.run(sql, row)

    def retry(self, which: Which) -> int:
        """Let rows that are dead or wait be due now, with the whole time until they are given up; return their number."""
        condition, values = which.condition()
        sql = "UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=? WHERE state IN ('dead','waiting')"
        return self._ledger.run(f"{sql} AND {condition}", time.time(), *values)

    def reopen_done(self, queue: str, since: float) -> None:
        """Let rows be due again that count as sent since a Unix time, with the whole time until they are given up."""
        sql = "UPDATE work SET state='waiting', next_attempt=0, job=NULL, created=?"
        where = "task=? AND queue=? AND state='done' AND updated>=?"
        self._ledger.run(f"{sql} WHERE {where}", time.time(), SEND, queue, since)

    def give_whole_time(self, queue: str) -> None:
        """Let the time until they are given up begin now for rows that wait to be sent there, and were not tried yet."""
        sql = "UPDATE work SET created=? WHERE state='waiting' AND task=? AND queue=? AND attempts=0"
        self._ledger.run(sql, time.time(), SEND, queue)

    def explain_waiting(self, queue: str, error: str, after: int) -> int:
        """Give the reason to the rows that wait to be sent there, those after this id; return the id of the last of all rows."""
        waits = "state='waiting' AND task=? AND queue=?"
        last = self._ledger.rows(f"SELECT MAX(id) last FROM work WHERE {waits}", SEND, queue)[0]["last"] or 0
        if last > after:
            self._ledger.run(f"UPDATE work SET error=? WHERE {waits} AND id>?", error, SEND, queue, after)
        return max(after, int(last))

    def remove(self, row: int, states: Collection[str] = STATES) -> bool:
        """Delete a row, if it is in one of these states; return whether it was."""
        condition, values = Which(ids=[row], states=states).condition()
        return bool(self._ledger.run(f"DELETE FROM work WHERE {condition}", *values))

    def remove_all(self, which: Which) -> int:
        """Delete rows; return their number."""
        condition, values = which.condition()
        return self._ledger.run(f"DELETE FROM work WHERE {condition}", *values)
