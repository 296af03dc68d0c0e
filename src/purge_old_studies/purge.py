# SPDX-License-Identifier: AGPL-3.0-or-later
"""One purge that is going on."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from common.ledger import Ledger

from .archive import PIECE, WINDOW, Archive
from .conditions import Conditions
from .history import History, now_utc
from .index import if_there
from .studies import IDENTIFIERS, Study, is_meant

STALE = 0.5  # seconds; what was looked at longer ago is looked at again
BATCH = 100  # instances of the first request that deletes
# Seconds that one should take: a store in between waits for it. The fewer there are, the faster a purge, and the less others
# notice, for at the end of each much happens at once.
BATCH_SECONDS = 0.25
# A study of a purge is `waiting`, then `deleting` or, where that takes several requests, `pieces`; in the end `deleted`,
# `gone` (somebody else was quicker), `kept` (it does not fit any more) or `failed`.
UNFINISHED = ("waiting", "deleting", "pieces")
# What came of a batch: for each state the rows that are in it now, and why.
Outcome = dict[str, list[tuple[dict[str, Any], str]]]


class Purge:
    """One purge under way: each study is in the ledger before it is deleted, in the history before it counts as deleted."""

    def __init__(
        self, number: int, asked: Conditions, ledger: Ledger, history: History, archive: Archive, who: Any
    ) -> None:
        self.number, self._asked, self._who = number, asked, who
        self._ledger, self._history, self._archive = ledger, history, archive
        self.stopping = self.cancelled = False
        self.left = 0  # studies that it still has to delete, while it runs
        self.done = threading.Event()
        self._proving = archive.proving(asked)
        self._began, self._settled = time.monotonic(), 0
        # Instances a request; never so many that a study deleted in pieces shares one with others, which then counted as begun.
        self._at_once = float(min(BATCH, PIECE))

    @property
    def rate(self) -> float:
        """Studies a second, since this started."""
        return self._settled / max(time.monotonic() - self._began, 0.001)

    def run(self) -> str:
        """Delete what is still to go; the state that the purge is in then.

        One thing after the other: to look ahead meanwhile makes it no faster, and others wait longer.
        """
        self.complete_record()
        self.left = self._count("waiting")
        for settled in itertools.chain.from_iterable(map(self._window, self._windows())):
            for state, of_it in settled.items():
                self._settle(of_it, state)
            self.left -= sum(map(len, settled.values()))
        if self._halted() and self._count(*UNFINISHED):
            return "cancelled" if self.cancelled else "interrupted"
        return "partly" if self._count("kept", "failed") else "done"

    def _halted(self) -> bool:
        return self.stopping or self.cancelled

    def _windows(self) -> Iterator[list[dict[str, Any]]]:
        """Yield what waits, in the order of deletion: a purge may be of a million studies."""
        last = -1
        while not self._halted() and (rows := self._rows("waiting", after=last, limit=WINDOW)):
            yield rows
            last = rows[-1]["number"]

    def _rows(self, *states: str, after: int = -1, limit: int = -1) -> list[dict[str, Any]]:
        marks = ",".join("?" * len(states))
        sql = f"SELECT * FROM studies WHERE purge=? AND state IN ({marks}) AND number>? ORDER BY number LIMIT ?"
        rows = self._ledger.rows(sql, self.number, *states, after, limit)
        return [{**row, "facts": json.loads(row["facts"])} for row in rows]

    def _count(self, *states: str) -> int:
        marks = ",".join("?" * len(states))
        sql = f"SELECT COUNT(*) n FROM studies WHERE purge=? AND state IN ({marks})"
        return int(self._ledger.rows(sql, self.number, *states)[0]["n"])

    def _look(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Study]:
        """Return what the studies of some rows are now."""
        return self._archive.again([(row["study"], row["facts"]["StudyInstanceUID"]) for row in rows])

    def _window(self, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
        """Delete what still fits: since it was chosen it may be gone, or have grown, another date or protection."""
        looked_at, found = -math.inf, dict[str, Study]()
        while rows and not self._halted():
            if time.monotonic() - looked_at > STALE:
                looked_at, found = time.monotonic(), self._look(rows)
            studies = [found.get(row["study"]) for row in rows]
            length = batch_length(map(_instances, rows, studies), self._at_once)
            yield self._batch(list(zip(rows[:length], studies, strict=False)), looked_at)
            rows = rows[length:]

    def _batch(self, looked: list[tuple[dict[str, Any], Study | None]], looked_at: float) -> Outcome:
        """Delete of some rows those whose study still fits; what came of each."""
        outcome: Outcome = {"gone": [], "kept": []}
        batch, sizes = list[dict[str, Any]](), list[int]()
        studies = [study for _, study in looked if study is not None]
        unproved = self._proving.why_kept(studies, self._halted)  # first: it may take minutes
        if self._halted():
            return {}
        protection, undelivered = self._archive.protection(studies), self._archive.why_undelivered(studies)
        if time.monotonic() - looked_at > STALE:  # the questions took long
            found = self._look([row for row, study in looked if study is not None])
            looked = [(row, found.get(row["study"])) for row, _ in looked]
        for row, study in looked:
            if why := self._why_not(row, study, protection, {**unproved, **undelivered}):
                outcome[why[0]].append((row, why[1]))
            else:
                batch.append(row)
                sizes.append(_instances(row, study))
        if batch:
            began, large = time.monotonic(), sizes[0] > 2 * PIECE
            for state, of_it in self._delete(batch, large=large).items():
                outcome.setdefault(state, []).extend(of_it)
            if not large:
                fitting = sum(sizes) * BATCH_SECONDS / max(time.monotonic() - began, 0.001)
                self._at_once = min(max(fitting, self._at_once / 2), self._at_once * 2, PIECE)
        return outcome

    def _why_not(
        self,
        row: Mapping[str, Any],
        study: Study | None,
        protection: Mapping[str, bool],
        others: Mapping[str, str],
    ) -> tuple[str, str] | None:
        if study is None:
            if if_there(f"/studies/{row['study']}") is None:
                return "gone", "somebody else deleted it"
            return "kept", "it can't be looked at once more"
        if study.received != row["facts"]["LastUpdate"]:
            return "kept", "it has received something since it was chosen"
        if not is_meant(study, self._asked):
            return "kept", "it does not fit the conditions any more"
        reason = self._archive.why_kept(study, protection) or others.get(study.id)
        return ("kept", reason) if reason else None

    def _delete(self, rows: list[dict[str, Any]], *, large: bool) -> Outcome:
        self._mark(rows, "pieces" if large else "deleting")
        who = {**self._who, "Purge": self.number}
        if self._asked.only_if_at:
            return self._delete_proved(rows, who)
        if large:
            if not self._archive.delete_in_pieces(rows[0]["study"], who, lambda: self.stopping):
                return {}
            # That took a while, and the study with what has come in meanwhile would go now.
            study = self._look(rows).get(rows[0]["study"])
            if study is not None and study.received != rows[0]["facts"]["LastUpdate"]:
                return {"kept": [(rows[0], "it has received something while it was being deleted")]}
        left = self._archive.delete([row["study"] for row in rows], who)
        return {
            "deleted": [(row, "") for row in rows if row["study"] not in left],
            "failed": [(row, left[row["study"]]) for row in rows if row["study"] in left],
        }

    def _delete_proved(self, rows: list[dict[str, Any]], who: Mapping[str, Any]) -> Outcome:
        """Delete the instances that are proved to be elsewhere, and no other: one that has come in meanwhile stays."""
        proved = {row["study"]: self._proving.proved[row["study"]] for row in rows}
        _write_counts(self._ledger, rows, proved)  # a kill may leave half of one
        error = self._archive.delete_instances(proved, who, lambda: self.stopping)
        if error is None:
            return {}
        there = self._look(rows)
        left = [(row, error or "something came in while it was being deleted, and stays") for row in rows]
        return {
            "deleted": [(row, "") for row in rows if row["study"] not in there],
            "failed" if error else "kept": [each for each in left if each[0]["study"] in there],
        }

    def _mark(self, rows: list[dict[str, Any]], state: str, reason: str = "") -> None:
        sql = "UPDATE studies SET state=?,reason=? WHERE purge=? AND number IN (SELECT value FROM json_each(?))"
        self._ledger.run(sql, state, reason, self.number, json.dumps([row["number"] for row in rows]))

    def _settle(
        self, rows: list[tuple[dict[str, Any], str]], state: str, *, written: frozenset[str] = frozenset()
    ) -> None:
        """Write what came of studies: first where it stays, then in the ledger."""
        if not rows:
            return
        common = {"Time": now_utc(), "Purge": self.number, "Event": state}
        self._history.add(
            {**common, **_known(row), **({"Reason": why} if why else {}), **self._who}
            for row, why in rows
            if row["study"] not in written
        )
        self._settled += len(rows)
        for reason in {why for _, why in rows}:
            self._mark([row for row, why in rows if why == reason], state, reason)

    def complete_record(self) -> None:
        """Record what was being deleted when Orthanc was killed: gone, and perhaps not in the history yet; or still there."""
        if not (rows := self._rows("deleting", "pieces")):
            return
        written = frozenset(line["ID"] for line in self._history.lines_of(self.number) if "ID" in line)
        there = {row["study"] for row in rows if if_there(f"/studies/{row['study']}") is not None}
        self._settle([(row, "") for row in rows if row["study"] not in there], "deleted", written=written)
        whole = []
        for row in [row for row in rows if row["study"] in there]:
            if row["state"] == "pieces" or (self._asked.only_if_at and _has_lost_some(row)):
                self._finish_pieces(row)
            else:
                whole.append(row)
        self._mark(whole, "waiting")

    def _finish_pieces(self, row: dict[str, Any]) -> None:
        """Delete the rest of a study that was begun, unless it was received again: half a study is worse than none."""
        study = self._look([row]).get(row["study"])
        unproved = self._proving.why_kept([study] if study else [], lambda: self.stopping)
        if self.stopping:
            return
        undelivered = self._archive.why_undelivered([study] if study else [])
        if study is not None:
            study = self._look([row]).get(row["study"])  # the question may have taken long
        why = self._why_not(row, study, {}, {**unproved, **undelivered})
        if why is None:
            for state, of_it in self._delete([row], large=True).items():
                self._settle(of_it, state)
        elif why[0] == "kept":
            self._settle([(row, why[1])], "kept")


def batch_length(instances: Iterable[int], most: float) -> int:
    """Return how many studies with so many instances, from the first on, fit a request of `most`; a larger one is alone."""
    together = list(itertools.takewhile(lambda total: total <= most, itertools.accumulate(instances)))
    return max(1, len(together))


def _instances(row: Mapping[str, Any], study: Study | None) -> int:
    """Return how many a study has, counted now or when it was chosen (none came since); else `PIECE`: it is alone."""
    return (study.instances if study else 0) or row["facts"].get("Instances") or PIECE


def _write_counts(ledger: Ledger, rows: Iterable[Mapping[str, Any]], instances: Mapping[str, Sequence[str]]) -> None:
    """Write down how many instances studies have whose deletion begins now."""
    sql = "UPDATE studies SET facts=json_set(facts,'$.Instances',?) WHERE purge=? AND number=?"
    with ledger.transaction() as db:
        db.executemany(sql, [(len(instances[row["study"]]), row["purge"], row["number"]) for row in rows])


def _has_lost_some(row: Mapping[str, Any]) -> bool:
    """Return whether a study has fewer instances than when its deletion began, one instance after the other."""
    before = row["facts"].get("Instances") or 0
    return before > 1 and int((if_there(f"/studies/{row['study']}/statistics") or {}).get("CountInstances", 0)) < before


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"ID": row["study"], **{name: value for name, value in row["facts"].items() if name in IDENTIFIERS}}
