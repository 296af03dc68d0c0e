# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the script knows of each series, in its ledger: the values that were found, and what is still to be looked at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orthanc

from common.ledger import Ledger, Statements
from common.state import state_folder

from .entries import Entry, Wanted
from .settings import Settings
from .values import decoded_values

MAX_SERIES_IN_MEMORY = 50_000  # of which the values for lists are kept
# `looked`: number of the list of entries for which all instances were looked at; `born`: Seq of the NewSeries in the log
# of changes; `found`: values by `Entry.text`; `shown`: the metadata. `anew`: look also for the entries of that list.
SERIES_TABLES = """
CREATE TABLE IF NOT EXISTS lists(number INTEGER PRIMARY KEY, entries TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS series(
    series TEXT PRIMARY KEY, looked INTEGER, found TEXT NOT NULL, shown TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS todo(series TEXT PRIMARY KEY, anew INTEGER NOT NULL) WITHOUT ROWID;
"""
ADD_BORN = "ALTER TABLE series ADD COLUMN born INTEGER"  # files of the first version came without it


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of one series: values by `Entry.text`, and the text of its metadata."""

    found: Mapping[str, Any]
    shown: str


class KnownSeries:
    """The tables of the script. `open` comes before all else."""

    def __init__(self, settings: Settings, wanted: Wanted, configuration: Mapping[str, Any]) -> None:
        self._settings, self._wanted, self._configuration = settings, wanted, configuration
        self.ledger: Ledger
        self._list = 0  # number of the list of entries that the configuration names
        self._writes = 0  # into the ledger, of what is shown; counted when it is there
        self._shown: tuple[int, dict[str, Any]] = (-1, {})

    def open(self) -> Ledger:
        """Open the ledger and return it. Raises as `common.worker` expects."""
        path = (
            state_folder(self._settings.state_path, self._configuration, "series_private_tags")
            / "series_private_tags.sqlite"
        )
        self.ledger = Ledger(path, SERIES_TABLES, durability=self._settings.durability)
        try:
            if not self.ledger.rows("SELECT 1 FROM pragma_table_info('series') WHERE name='born'"):
                self.ledger.run(ADD_BORN)
            entries = json.dumps(sorted(entry.text for entry in self._wanted.entries.values()))
            self.ledger.run("INSERT OR IGNORE INTO lists(entries) VALUES(?)", entries)
            self._list = int(self.ledger.rows("SELECT number FROM lists WHERE entries=?", entries)[0]["number"])
        except BaseException:
            self.ledger.close()
            raise
        if self.ledger.quarantined_to:
            orthanc.LogWarning(
                f"series_private_tags: the ledger was corrupt and is kept as {self.ledger.quarantined_to}; all is looked at anew"
            )
        return self.ledger

    # The place in the log of changes

    @property
    def cursor(self) -> int:
        """The last change that was read; -1 in a new ledger."""
        return self.ledger.get_value("cursor", -1)

    def set_cursor(self, seq: int) -> None:
        """Remember the last change that was read."""
        self.ledger.set_value("cursor", seq)

    def add_new(self, series: Sequence[tuple[str, int]], cursor: int) -> None:
        """Remember series that the log calls new, each with its Seq, and how far the log was read, in one transaction.

        All instances of a new series pass by in the log: it need not be looked at, unless it was deleted and stored again.
        """
        insert = (
            "INSERT INTO series VALUES(?,?,'{}','{}',?) "
            "ON CONFLICT DO UPDATE SET looked=excluded.looked, born=excluded.born"
        )
        with self.ledger.transaction() as db:
            self._replace_recreated_series(db, series)
            db.executemany(insert, [(each, self._list, seq) for each, seq in series])
            db.executemany("DELETE FROM todo WHERE series=? AND anew=0", [(each,) for each, _ in series])
            self.set_cursor(max(cursor, self.cursor))
        self._writes += 1

    def _replace_recreated_series(self, db: Statements, series: Sequence[tuple[str, int]]) -> None:
        """Forget what is known of series that were deleted and stored again, and put them on the list.

        Their row says that they were new at another Seq, or at none although they were looked at.
        """
        recreated = "FROM series WHERE series=?1 AND (born<>?2 OR born IS NULL AND looked IS NOT NULL)"
        db.executemany(f"INSERT OR REPLACE INTO todo SELECT series, 1 {recreated}", series)
        db.executemany(f"DELETE {recreated}", series)

    # What is known of a series

    def get(self, series: str) -> Known:
        """Return what is known of a series; of one that is not known, nothing."""
        rows = self.ledger.rows("SELECT found, shown FROM series WHERE series=?", series)
        return Known(json.loads(rows[0]["found"]), rows[0]["shown"]) if rows else Known({}, "{}")

    def save(self, series: str, known: Known, *, was_looked_at: bool) -> None:
        """Remember it; `was_looked_at`: all instances that are there were looked at, for all entries."""
        sql = (
            "INSERT INTO series VALUES(?,?,?,?,NULL) ON CONFLICT DO UPDATE SET found=excluded.found, shown=excluded.shown, "
            "looked=COALESCE(excluded.looked, looked)"
        )
        self.ledger.run(sql, series, self._list if was_looked_at else None, json.dumps(known.found), known.shown)
        self._writes += 1

    def forget(self, series: str) -> None:
        """Delete what is known of a series, and take it from the list of those to be looked at."""
        with self.ledger.transaction() as db:
            db.execute("DELETE FROM series WHERE series=?", (series,))
            db.execute("DELETE FROM todo WHERE series=?", (series,))
        self._writes += 1

    def shown_before_log(self, series: str) -> str | None:
        """Return the metadata of a series that is known and that the log of changes did not name yet, else None."""
        rows = self.ledger.rows("SELECT shown FROM series WHERE series=? AND born IS NULL", series)
        return str(rows[0]["shown"]) if rows else None

    def set_shown(self, series: str, shown: str) -> None:
        """Take over what somebody else has written into the metadata of a series that is known."""
        self.ledger.run("UPDATE series SET shown=?1 WHERE series=?2 AND shown<>?1", shown, series)

    def all_shown(self) -> Mapping[str, Any]:
        """Return the values of all series that have some; kept until something is written, if they are not too many."""
        writes, (of_writes, kept) = self._writes, self._shown
        if of_writes == writes:
            return kept
        with self.ledger.transaction() as db:
            rows = db.execute("SELECT series, shown FROM series WHERE shown<>'{}'").fetchall()
        values = {row[0]: decoded_values(row[1]) for row in rows}
        if len(values) <= MAX_SERIES_IN_MEMORY:
            self._shown = writes, values
        return values

    # Which series are to be looked at

    def is_listed(self) -> bool:
        """Return whether all series were put on the list for the entries that the configuration names."""
        return self.ledger.get_value("listed") == self._list

    def list_all(self, series: Iterable[str]) -> None:
        """Put series on the list, but for those that were looked at for these entries."""
        with self.ledger.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO todo VALUES(?,0)", ((each,) for each in series))
            sql = "DELETE FROM todo WHERE anew=0 AND series IN (SELECT series FROM series WHERE looked=?)"
            db.execute(sql, (self._list,))
            self.ledger.set_value("listed", self._list)
            self.ledger.set_value("total", self.count_todo())

    def look_again(self, series: str) -> None:
        """Put a series on the list, to be looked at for all entries."""
        self.ledger.run("INSERT OR REPLACE INTO todo VALUES(?,1)", series)

    def reconstruct(self, series: Sequence[str]) -> None:
        """Forget the values of series, and put them on the list."""
        with self.ledger.transaction() as db:
            rows = [(each,) for each in series]
            db.executemany("UPDATE series SET looked=NULL, found='{}' WHERE series=?", rows)
            db.executemany("INSERT OR REPLACE INTO todo VALUES(?,1)", rows)
            self.ledger.set_value("total", self.count_todo())

    def next_to_look_at(self, without: Iterable[str] = ()) -> tuple[str, dict[str, Entry]] | None:
        """Return a series of the list, but for some, and the entries that it lacks by their keys; None: there is no other."""
        sql = "SELECT series, anew FROM todo WHERE series NOT IN (SELECT value FROM json_each(?)) LIMIT 1"
        if not (waiting := self.ledger.rows(sql, json.dumps([*without]))):
            return None
        series, again = waiting[0]["series"], waiting[0]["anew"]
        looked = "SELECT found, entries FROM series LEFT JOIN lists ON number=looked WHERE series=?"
        rows = self.ledger.rows(looked, series)
        found, entries = (rows[0]["found"], rows[0]["entries"]) if rows else ("{}", None)
        done = {*json.loads(found), *json.loads(entries if entries and not again else "[]")}
        return series, {key: entry for key, entry in self._wanted.entries.items() if entry.text not in done}

    def was_looked_at(self, series: str) -> None:
        """Take a series from the list."""
        self.ledger.run("DELETE FROM todo WHERE series=?", series)

    def count_todo(self, most: int = -1) -> int:
        """Return how many series are on the list; of more than `most`, that number."""
        return int(self.ledger.rows("SELECT COUNT(*) n FROM (SELECT 1 FROM todo LIMIT ?)", most)[0]["n"])

    def counts(self) -> tuple[int, int, int]:
        """Return how many series are known, how many are on the list, and how many were when it was made."""
        sql = "SELECT (SELECT COUNT(*) FROM series) series, (SELECT COUNT(*) FROM todo) todo"
        row = self.ledger.rows(sql)[0]
        return row["series"], row["todo"], max(self.ledger.get_value("total"), row["todo"])
