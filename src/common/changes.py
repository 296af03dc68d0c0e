# SPDX-License-Identifier: AGPL-3.0-or-later
"""What became stable, once each, also when a restart missed it: Orthanc's log of changes, read from a kept place."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from common.archive import instances_of
from common.ledger import CLOCK_WAS_SET_SECONDS, Ledger
from common.loopback import Loopback, LoopbackError
from common.place import place_in_log
from common.work import Which, Work

PAGE = 500  # changes a request
GRACE = 2.0  # seconds beyond StableAge after which Orthanc's own Stable… event is not waited for any more
LOADED, LOADED_STEADY = time.time(), time.monotonic()  # when the script was loaded: before Orthanc received anything
# A ledger knows from its first moment on since when what arrives is new: a kill a moment later loses nothing.
FEED_TABLES = f"""
CREATE TABLE IF NOT EXISTS arrived(
    level TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, seen REAL NOT NULL, resource TEXT,
    PRIMARY KEY(level, instance)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS arrived_by_resource ON arrived(level, resource, seen);
CREATE TABLE IF NOT EXISTS heard(level TEXT NOT NULL, resource TEXT NOT NULL, PRIMARY KEY(level, resource)) WITHOUT ROWID;
INSERT INTO state SELECT 'began', {int(LOADED)} WHERE NOT EXISTS (SELECT 1 FROM state WHERE name='cursor')
ON CONFLICT DO NOTHING;
"""
LEVELS_WITH_INSTANCES = ("Patient", "Study", "Series")

# level, Orthanc identifier of what is stable, and its instances that arrived since it was last handed over, each with
# the Seq of its last NewInstance.
Settled = Callable[[str, str, dict[str, int]], None]
# Of an instance: the Orthanc identifiers of its parents by level, if they are known without asking Orthanc.
Parents = Callable[[str], Mapping[str, str] | None]


class Feed:
    """Hands over what became stable at the levels asked for, with the instances that are new since the last time.

    Each NewInstance is kept in the ledger until the Stable… entry of its parent; one whose parent has been quiet for
    `stable_age` and got none (Orthanc keeps stability in memory: a restart loses it) is handed over all the same.
    With `reconcile` false the log of changes, which Orthancs on one database share, is not read: only what this process
    gets through `on_event` counts. `on_change_entry` gets each entry of the log, once, in the transaction that remembers
    it. `set_back` gets the place in the log when that is set back to it (an index restored from a backup), in the same
    transaction: numbers (Seq) beyond it are from before, and what comes from now on has lower ones. `deleted` gets each
    instance that was deleted before it was handed over, with its Seq, in the transaction that forgets it.
    """

    def __init__(
        self,
        ledger: Ledger,
        loopback: Loopback,
        settled: Settled,
        levels: Sequence[str],
        stable_age: float,
        reconcile: bool,
        parents: Parents = lambda _instance: None,
        on_change_entry: Callable[[Mapping[str, Any]], None] = lambda _change: None,
        set_back: Callable[[int], None] = lambda _place: None,
        deleted: Callable[[str, int], None] = lambda _instance, _seq: None,
    ) -> None:
        self._ledger, self._loopback, self._settled, self._levels = ledger, loopback, settled, tuple(levels)
        self._quiet_after, self._reconcile, self._parents = stable_age + GRACE, reconcile, parents
        self._on_change_entry, self._set_back, self._deleted = on_change_entry, set_back, deleted
        self._look_again: dict[tuple[str, str], float] = {}

    def begin(self) -> None:
        """Take the place in the log; of a ledger without one, where this process began: what was there before is not new."""
        if self._reconcile:
            newest = self._loopback.get("/changes?last")["Last"]
            kept = self._ledger.get_value("cursor", -1)
            place = place_in_log(kept, newest, self._ledger.name) if kept >= 0 else self._last_before_us(newest)
            with self._ledger.transaction():
                if place < kept:
                    self._ledger.run("UPDATE arrived SET seq=0 WHERE seq>?", place)
                    self._set_back(place)
                self._ledger.set_value("cursor", place)
        else:
            with self._ledger.transaction():  # a place that grows old: who reads the log later begins then
                self._ledger.run("DELETE FROM state WHERE name='cursor'")
                self._ledger.set_value("began", 0)
        self._move_to_our_levels()
        # A clock that was ahead when these were seen must not make them wait for it.
        self._ledger.run("UPDATE arrived SET seen=? WHERE seen>?", time.time(), time.time())

    def _move_to_our_levels(self) -> None:
        """Let what arrived at levels that nobody asks for any more be handed over at ours: the configuration has changed."""
        levels = json.dumps(self._levels or LEVELS_WITH_INSTANCES)
        elsewhere = "FROM arrived WHERE level NOT IN (SELECT value FROM json_each(?))"
        with self._ledger.transaction():
            left = self._ledger.rows(f"SELECT instance, MAX(seq) seq {elsewhere} GROUP BY instance", levels)
            self._arrive_again({row["instance"]: row["seq"] for row in left})
            self._ledger.run(f"DELETE {elsewhere}", levels)

    def take_back(self, task: str) -> None:
        """Let what rows of a task are about, at levels that nobody asks for any more, be handed over at ours in their place."""
        for row in Work(self._ledger).find(Which(task=task, states=("waiting", "dead"))):
            data = json.loads(row["data"])
            if data["Level"] not in (self._levels or LEVELS_WITH_INSTANCES):
                with self._ledger.transaction():
                    self._arrive_again(dict.fromkeys(data["Instances"], 0))
                    Work(self._ledger).remove(row["id"])

    def _arrive_again(self, instances: Mapping[str, int]) -> None:
        rows = [(level, one, seq, time.time()) for one, seq in instances.items() for level in self._levels]
        with self._ledger.transaction() as db:
            db.executemany("INSERT INTO arrived VALUES(?,?,?,?,NULL) ON CONFLICT DO NOTHING", rows)

    def _last_before_us(self, newest: int) -> int:
        """Return the last change from before the ledger began: Orthanc receives, and may be killed, before we come to ask."""
        spans = _spans_since(self._ledger.get_value("began") or int(LOADED))
        while newest > 0:
            since = max(0, newest - PAGE)
            changes = self._loopback.get(f"/changes?since={since}&limit={PAGE}")["Changes"]
            if older := [
                change["Seq"] for change in changes if not any(first <= change["Date"] <= last for first, last in spans)
            ]:
                return int(max(older))
            newest = since
        return 0

    def on_event(self, change: str, resource: str) -> None:
        """Take what OnChange reports, where the log of changes is not read: NewInstance and the Stable… of our levels."""
        if not self._reconcile and change == "NewInstance":
            # No number of the log of changes, but one that tells this arrival from another of the same instance.
            self._arrive([(resource, -time.time_ns())])
        elif not self._reconcile and change.removeprefix("Stable") in self._levels:
            sql = "INSERT INTO heard VALUES(?,?) ON CONFLICT DO NOTHING"
            self._ledger.run(sql, change.removeprefix("Stable"), resource)

    def poll(self) -> None:
        """Hand over all that has become stable since the last time, each in one transaction with what remembers it.

        Raises
        ------
        LoopbackError, sqlite3.Error : nothing is lost; poll again later.
        """
        while self._reconcile and self._read_page():
            pass
        for row in self._ledger.rows("SELECT * FROM heard"):
            instances = instances_of(self._loopback, row["level"], row["resource"])
            with self._ledger.transaction():
                self._hand_over(row["level"], row["resource"], instances, None)
                self._ledger.run("DELETE FROM heard WHERE level=? AND resource=?", row["level"], row["resource"])
        for level in self._levels:
            self._hand_over_what_is_overdue(level)

    def _read_page(self) -> bool:
        since = self._ledger.get_value("cursor")
        page = self._loopback.get(f"/changes?since={since}&limit={PAGE}")
        changes: list[Mapping[str, Any]] = page["Changes"]
        self._arrive([(change["ID"], change["Seq"]) for change in changes if change["ChangeType"] == "NewInstance"])
        stable = [change for change in changes if change["ChangeType"].removeprefix("Stable") in self._levels]
        instances = {change["ID"]: self._new_instances_of(change["ResourceType"], change["ID"]) for change in stable}
        with self._ledger.transaction():
            for change in changes:
                self._on_change_entry(change)
            for change in stable:
                self._hand_over(change["ResourceType"], change["ID"], instances[change["ID"]], change["Seq"])
            self._ledger.set_value("cursor", max(since, page["Last"]))
        return not page["Done"]

    def _arrive(self, instances: list[tuple[str, int]]) -> None:
        now, rows = time.time(), []
        for instance, seq in instances:
            parents = self._parents(instance) or {}
            rows += [(level, instance, seq, now, parents.get(level)) for level in self._levels]
        # The same instance again (OverwriteInstances) has arrived once more; a page that is read again changes nothing.
        sql = (
            "INSERT INTO arrived VALUES(?,?,?,?,?) ON CONFLICT(level, instance) DO UPDATE SET seq=excluded.seq, "
            "seen=excluded.seen, resource=COALESCE(excluded.resource, arrived.resource)"
        )
        with self._ledger.transaction() as db:
            db.executemany(sql, rows)

    def _new_instances_of(self, level: str, resource: str) -> list[str]:
        """Return its instances that arrived; ask Orthanc only if there are some whose parents we don't know."""
        if self._ledger.rows("SELECT 1 FROM arrived WHERE level=? AND resource IS NULL LIMIT 1", level):
            return instances_of(self._loopback, level, resource)
        sql = "SELECT instance FROM arrived WHERE level=? AND resource=?"
        return [row["instance"] for row in self._ledger.rows(sql, level, resource)]

    def _hand_over(self, level: str, resource: str, instances: Sequence[str], before: int | None) -> None:
        new: dict[str, int] = {}
        for start in range(0, len(instances), PAGE):
            some = instances[start : start + PAGE]
            marks = f"level=? AND instance IN ({','.join('?' * len(some))}) AND seq<?"
            limit = 2**62 if before is None else before
            rows = self._ledger.rows(f"SELECT instance, seq FROM arrived WHERE {marks}", level, *some, limit)
            new |= {row["instance"]: row["seq"] for row in rows}
            self._ledger.run(f"DELETE FROM arrived WHERE {marks}", level, *some, limit)
        if new:
            self._settled(level, resource, new)

    def _hand_over_what_is_overdue(self, level: str) -> None:
        late = "SELECT DISTINCT resource FROM arrived WHERE level=? AND resource IS NOT NULL AND seen<?"
        for row in self._ledger.rows(late, level, time.time() - self._quiet_after):
            self._hand_over_if_quiet(level, row["resource"])
        orphan = "SELECT instance, seq FROM arrived WHERE level=? AND resource IS NULL AND seen<? LIMIT 1"
        while rows := self._ledger.rows(orphan, level, time.time() - self._quiet_after):
            self._find_parent(level, **rows[0])

    def _hand_over_if_quiet(self, level: str, resource: str) -> None:
        if time.time() < self._look_again.get((level, resource), 0):
            return
        instances = instances_of(self._loopback, level, resource)
        self._label(level, resource, instances)
        mine = "FROM arrived WHERE level=? AND resource=?"
        last = self._ledger.rows(f"SELECT MAX(seen) seen {mine}", level, resource)[0]["seen"]
        if last + self._quiet_after > time.time():
            self._look_again[level, resource] = last + self._quiet_after
            return
        self._look_again.pop((level, resource), None)
        with self._ledger.transaction():
            self._hand_over(level, resource, instances, None)
            # What is left was deleted, or its parent is another: ask for each.
            self._ledger.run(f"UPDATE arrived SET resource=NULL {mine.removeprefix('FROM arrived')}", level, resource)

    def _find_parent(self, level: str, instance: str, seq: int) -> None:
        try:
            parent = self._loopback.get(f"/instances/{instance}/{level.lower()}")["ID"]
        except LoopbackError as error:
            if error.status != 404:
                raise
            with self._ledger.transaction():  # deleted before it was stable
                self._ledger.run("DELETE FROM arrived WHERE instance=?", instance)
                self._deleted(instance, seq)
        else:
            self._label(level, parent, [instance, *instances_of(self._loopback, level, parent)])

    def _label(self, level: str, resource: str, instances: Sequence[str]) -> None:
        with self._ledger.transaction() as db:
            rows = [(resource, level, each) for each in instances]
            db.executemany("UPDATE arrived SET resource=? WHERE level=? AND instance=?", rows)


def _spans_since(began: int) -> list[tuple[str, str]]:
    """Return from when to when a ledger has been there since it began, as Orthanc dates changes.

    Two spans, if the clock was set since this process began it. What is dated later than now is from before: the clock has
    fallen back since then.
    """
    now, passed = time.time(), time.monotonic() - LOADED_STEADY
    if began != int(LOADED) and began <= now:
        spans = [(float(began), now)]
    elif abs(now - LOADED - passed) > CLOCK_WAS_SET_SECONDS:
        spans = [(LOADED, LOADED + passed), (now - passed, now)]
    else:
        spans = [(min(LOADED, now - passed), now)]
    return [(_as_dated(first), _as_dated(last + CLOCK_WAS_SET_SECONDS)) for first, last in spans]


def _as_dated(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))


def arrived_since(ledger: Ledger, seq: int) -> list[dict[str, Any]]:
    """Return what arrived after a number of the log of changes and is not handed over yet: level, resource, instance, seq."""
    sql = "SELECT level, resource, instance, seq FROM arrived WHERE seq>? AND resource IS NOT NULL ORDER BY seq"
    return ledger.rows(sql, seq)


def not_handed_over(ledger: Ledger, level: str, instances: Iterable[str]) -> set[str]:
    """Return those of these instances that came (again), and are not handed over yet with what they belong to."""
    arrived = "SELECT instance FROM arrived WHERE level=? AND instance IN (SELECT value FROM json_each(?))"
    return {row["instance"] for row in ledger.rows(arrived, level, json.dumps([*instances]))}


def still_arrives(instance: str) -> str:
    """Return the SQL of a condition: what this column names has arrived, and is not handed over at each level yet."""
    levels = ",".join(f"'{level}'" for level in LEVELS_WITH_INSTANCES)
    return f"EXISTS (SELECT 1 FROM arrived WHERE level IN ({levels}) AND arrived.instance={instance})"


def arriving_resources(ledger: Ledger) -> list[tuple[str, str | None, str]]:
    """Return level, resource and one instance of each resource that arrives; None: which resource it is, is not known yet."""
    sql = (
        "SELECT level, resource, MIN(instance) instance FROM arrived WHERE resource IS NOT NULL GROUP BY level, resource "
        "UNION ALL SELECT level, resource, instance FROM arrived WHERE resource IS NULL"
    )
    return [(row["level"], row["resource"], row["instance"]) for row in ledger.rows(sql)]


def still_to_read(ledger: Ledger, loopback: Loopback) -> set[str] | None:
    """Return the new instances of the log of changes that the feed has still to read; None: more than a page of changes.

    Orthanc says through OnChange what it has stored, but may be seconds behind.

    Raises
    ------
    LoopbackError : Orthanc can't answer now.
    """
    cursor = ledger.get_value("cursor", -1)
    if cursor < 0:
        return set()  # Reconcile is false: there is only what OnChange says
    page = loopback.get(f"/changes?since={cursor}&limit={PAGE}")
    new = {change["ID"] for change in page["Changes"] if change["ChangeType"] == "NewInstance"}
    return new if page["Done"] else None


def is_arriving(ledger: Ledger, loopback: Loopback, instances: Iterable[str]) -> bool:
    """Return whether any of these came (again) and is not handed over yet; also where the feed has still to read of it."""
    arrived = "SELECT 1 FROM arrived WHERE level=? AND instance IN (SELECT value FROM json_each(?)) LIMIT 1"
    wanted = set(instances)
    some = json.dumps(sorted(wanted))
    if any(ledger.rows(arrived, level, some) for level in LEVELS_WITH_INSTANCES):
        return True
    unread = still_to_read(ledger, loopback)
    return unread is None or not unread.isdisjoint(wanted)
