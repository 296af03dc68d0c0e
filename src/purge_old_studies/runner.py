# SPDX-License-Identifier: AGPL-3.0-or-later
"""Purges from their choice to their end: one at a time, each in a thread of its own."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.ledger import Ledger
from common.loopback import LoopbackError
from common.routes import Refused, one_line
from common.undelivered import in_words

from .archive import Archive, Choice
from .conditions import Conditions
from .history import History, now_utc
from .jobs import Jobs
from .last_runs import LastRuns
from .purge import Purge
from .settings import Settings, rule_conditions
from .studies import facts

AFTER_ERROR = 2.0  # seconds until the next try when Orthanc does not answer


class Runner:
    """One purge at a time, remembered until it has ended. Whoever begins one holds `busy`, which its end releases."""

    def __init__(self, settings: Settings, ledger: Ledger, history: History, archive: Archive) -> None:
        self._settings, self._ledger, self._history, self._archive = settings, ledger, history, archive
        self._jobs, self.last_runs = Jobs(ledger), LastRuns(ledger)
        self.busy, self.stopping = threading.Lock(), threading.Event()
        self.current: Purge | None = None
        self.last_totals: dict[str, int] = {}  # of the purge that ended last, since the start
        self._threads: list[threading.Thread] = []

    # From start to stop

    def start(self) -> None:
        """Go on with what a stop or a kill left behind."""
        if unfinished := self._jobs.unfinished():
            self.busy.acquire()
            self.thread(lambda: self._go_on(unfinished), "purge-goes-on")

    def thread(self, target: Callable[[], object], name: str) -> None:
        """Start a thread that `stop` waits for."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()  # before `stop` can see it: one that has not begun can't be waited for
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]

    def stop(self) -> None:
        """End all threads, within two seconds."""
        self.stopping.set()
        if purge := self.current:
            purge.stopping = True
        deadline = time.monotonic() + 2
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def rate(self, number: int) -> float:
        """Return the studies a second of a purge that is going on; 0 for any other."""
        purge = self.current
        return purge.rate if purge and purge.number == number else 0.0

    # A purge, from choice to end

    def begin(
        self,
        asked: Conditions,
        who: Mapping[str, Any],
        *,
        force: bool,
        continues: bool,
        choice: Choice | None = None,
    ) -> Purge:
        """Choose, unless that is done, write down, and start; called with `busy`.

        `busy` is released when all is done or something raises.
        """
        try:
            if self.stopping.is_set():
                raise Refused(503, "Orthanc is stopping")
            choice = choice or self._archive.chosen(asked)
            for reason, count in choice.undelivered.items():
                orthanc.LogWarning(f"purge_old_studies: {in_words(count, reason)}")
            if not force and (refusal := self.too_many(len(choice.studies))):
                self.tell("refused", None, who, Reason=refusal, Conditions=asked.as_json())
                raise Refused(403, f"{refusal}; force=true does it nevertheless")
            number = self._write_down(asked, who, choice, continues=continues)
            purge = self.current = Purge(number, asked, self._ledger, self._history, self._archive, who)
            self.thread(lambda: self._run_one(purge), f"purge-{number}")
            return purge
        except LoopbackError as error:
            self.busy.release()
            raise Refused(503, f"Orthanc does not tell which studies these are: {error}") from None
        except BaseException:
            self.current = None
            self.busy.release()
            raise

    def tell(self, event: str, number: int | None, who: Mapping[str, Any], **more: Any) -> None:
        self._history.add([{"Time": now_utc(), "Purge": number, "Event": event, **more, **who}])

    def too_many(self, count: int) -> str | None:
        """Return why a purge of so many studies is refused without `force`, or None."""
        most, percent = self._settings.max_studies, self._settings.max_percent
        if most and count > most:
            return f"{count} studies would go, more than MaxStudies ({most})"
        if percent and count * 100 > percent * (total := self._archive.index.count()):
            return f"{count} of {total} studies would go, more than MaxPercent ({percent:g})"
        return None

    def _write_down(self, asked: Conditions, who: Any, choice: Choice, *, continues: bool) -> int:
        """Write down what is to go; the purge's number."""
        with self._ledger.transaction() as db:
            sql = "INSERT INTO purges VALUES(NULL,'running',?,?,?,?,NULL)"
            values = (continues, json.dumps(who), json.dumps(asked.as_json()), time.time())
            number = int(db.execute(sql, values).lastrowid or 0)
            rows = ((number, index, study.id, json.dumps(facts(study))) for index, study in enumerate(choice.studies))
            db.executemany("INSERT INTO studies VALUES(?,?,?,?,'waiting','')", rows)
            stay = [(number, reason, count) for reason, count in choice.undelivered.items()]
            db.executemany("INSERT INTO undelivered VALUES(?,?,?)", stay)
            if who["Rule"] is not None:
                self.last_runs.began(who["Rule"], number)
            more = {"Undelivered": dict(choice.undelivered)} if stay else {}
            # Before that is committed: a purge that is refused, for a full disk, must not go on at the next start.
            self.tell("started", number, who, Studies=len(choice.studies), **more, Conditions=asked.as_json())
        return number

    def _run_one(self, purge: Purge) -> None:
        try:
            self._run(purge)
        finally:
            self.current = None
            self.busy.release()
            purge.done.set()

    def _run(self, purge: Purge) -> None:
        try:
            state = self._patiently(purge)
        except Exception:  # noqa: BLE001 - whatever it was: nothing more is deleted, and it is logged
            state = "interrupted"
            orthanc.LogError(f"purge_old_studies: purge {purge.number} was interrupted:\n{traceback.format_exc()}")
        row = self._jobs.row(purge.number)
        if state == "interrupted" and self.stopping.is_set() and row["continues"]:
            return  # the next start continues it
        try:
            purge.complete_record()  # where something was raised: a batch that was deleted meanwhile
            self._end(purge.number, state)
        except (OSError, sqlite3.Error, LoopbackError, orthanc.OrthancException) as error:
            # It counts as going on: the next start completes its record.
            what = f"the end of purge {purge.number} can't be written down"
            orthanc.LogError(f"purge_old_studies: {what}: {one_line(error)}")

    def _patiently(self, purge: Purge) -> str:
        """Run a purge; where Orthanc did not answer, from where it stopped, ten times in all."""
        for _ in range(9):
            try:
                return purge.run()
            except LoopbackError as error:
                orthanc.LogError(f"purge_old_studies: purge {purge.number} waits: {one_line(error)}")
                if self.stopping.wait(AFTER_ERROR):
                    return "interrupted"
        return purge.run()

    def _end(self, number: int, state: str) -> None:
        found = self._jobs.as_json(self._jobs.row(number))
        totals = {name: found[name] for name in ("Deleted", "Gone", "Kept", "Failed", "Remaining")}
        who = json.loads(self._jobs.row(number)["asked"])
        self.last_totals = totals
        self.tell("ended", number, who, State=state, **totals)
        if who["Rule"] is not None:
            self.last_runs.ended(who["Rule"], number, State=state, **totals)
        self._ledger.run("UPDATE purges SET state=?,ended=? WHERE id=?", state, time.time(), number)
        orthanc.LogWarning(
            f"purge_old_studies: purge {number} is {state}: " + ", ".join(f"{k} {v}" for k, v in totals.items())
        )

    def _is_still_wanted(self, row: Mapping[str, Any], asked: Conditions) -> bool:
        """Return whether the rule that began a purge still says so: who took it out, or narrowed it, has stopped the purge."""
        if (name := json.loads(row["asked"]).get("Rule")) is None:
            return True
        rule = next((rule for rule in self._settings.rules if rule.name == name), None)
        if rule is not None and rule.when_disk_above:
            return False  # there may be room again: the next look at the disk chooses anew
        if rule is not None:
            now = rule_conditions(rule, datetime.date.today())  # noqa: DTZ011 - days are the server's local ones
            same = dataclasses.replace(now, last=asked.last, received_until=asked.received_until)
            if same == asked and asked.last <= now.last:
                return True
        orthanc.LogWarning(
            f"purge_old_studies: purge {row['id']} does not go on: its rule {one_line(name)} is not in the configuration "
            "any more, or says something else"
        )
        return False

    def _go_on(self, rows: list[dict[str, Any]]) -> None:
        """Continue, after a restart, what was asynchronous, or of a rule that still says so; complete the record of others."""
        try:
            self._archive.undelivered.wait_for_answers(self.stopping)
            for row in rows:
                asked = Conditions.from_json(row["conditions"])
                purge = Purge(row["id"], asked, self._ledger, self._history, self._archive, json.loads(row["asked"]))
                purge.cancelled = row["state"] == "cancelled"
                purge.stopping = self.stopping.is_set()
                self.current = purge
                if purge.cancelled or (row["continues"] and self._is_still_wanted(row, asked)):
                    self._run(purge)
                else:
                    purge.complete_record()
                    self._end(row["id"], "interrupted")
        except Exception:  # noqa: BLE001 - what is not ended now is looked at again at the next start
            orthanc.LogError(f"purge_old_studies can't go on now:\n{traceback.format_exc()}")
        finally:
            self.current = None
            self.busy.release()
