# SPDX-License-Identifier: AGPL-3.0-or-later
"""The engine of the forwarders: what arrived goes to each destination, as rows of the ledger and jobs of Orthanc."""

import dataclasses
import datetime
import functools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orthanc

from common.answers import KEPT_ALIVE, one_line
from common.arrivals import Arrivals
from common.feed import FEED_TABLES, PAGE, PLURALS, Feed
from common.inbox import Inbox
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.settings import wrong_keys
from common.state import configuration_folder, state_folder
from common.worker import STOPS_WITHIN, Worker, repr_of
from forwarding.deletion import TO_DELETE, Deleter
from forwarding.destinations import Destination
from forwarding.identity import Misconfigured
from forwarding.routing import Batch, Router, load_matcher
from forwarding.rules import UID_TAG, Rule, is_open, wrong_with
from forwarding.verification import Has, Verified, Verifier

TICK = 5.0  # seconds between looks at changes and jobs when no event wakes us
SOON = 1.0  # seconds likewise, while something waits for its time
AHEAD = 3  # jobs for one destination that wait in Orthanc
GATHER = 0.2  # seconds in which what arrives becomes one batch (trigger Stored)
KEEP_EARLY_ENDS = 60.0  # seconds; the end event of a job can come before the answer to the POST that submitted it
UNFINISHED = ("Pending", "Running", "Paused", "Retry")  # states of a job that may still send
MANY_REFUSED = 16  # instances of a study that a destination refused one by one, until the rest is left together
HISTORY = 10  # failed attempts that a row remembers
TO_ROUTE = ""  # the queue of what no rule has been applied to yet
OURS = (
    "Resources",
    "Synchronous",
    "Asynchronous",
    "Permissive",
)  # keys of a store call that are not for a configuration

# Which instance, at which Seq and with which content, was given to a destination: while its study is not stable yet
# (trigger Stored), and as long as it is here where the same instance can come again (OverwriteInstances).
FORWARDING_TABLES = """
CREATE TABLE IF NOT EXISTS given(
    destination TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY(instance, destination)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs(job TEXT PRIMARY KEY, delivery INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_delivery ON jobs(delivery);
CREATE TRIGGER IF NOT EXISTS jobs_go_with_their_row AFTER DELETE ON work BEGIN
    DELETE FROM jobs WHERE delivery=old.id;
END;
"""
OLDEST_UNFINISHED = """
SELECT created FROM work INDEXED BY work_unfinished WHERE state IN ('waiting','sending') AND queue<>? ORDER BY created LIMIT 1
"""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What differs between DICOM nodes and peers."""

    route: str  # Orthanc's: "modalities" or "peers"
    changed: str  # the name of the event that says that they changed
    job_type: str
    is_for: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]  # whether a job's content names this destination
    came_from: Callable[[Mapping[str, str], Mapping[str, Any]], bool]  # whether an instance came from this destination
    probe: Callable[[Loopback, str], Any]  # raises unless the destination answers
    prove: Callable[[Loopback, str, Mapping[str, Mapping[str, Any]], dict[str, Any]], set[str] | None]  # deletion.Prove
    check: Callable[[str], None] | None = None  # raises MisconfiguredError if what answers there is something else
    has: Has | None = None  # for the option Verify: which instances it has


class Forwarder:
    """Sends what arrives, so that it gets there although Orthanc is killed and destinations are away.

    Each (resource, destination) is a row of the ledger before anything is sent. An attempt is an asynchronous job, whose
    end settles the row; a failed one goes again with backoff. One thread does all that, woken by `on_change`.

    Parameters
    ----------
    name : of the script, with dashes: of its routes, its thread and its ledger.
    settings : the script's.
    configuration : Orthanc's.
    """

    def __init__(self, name: str, kind: Kind, settings: Any, configuration: Mapping[str, Any]) -> None:
        self.name, self.kind, self.settings, self._configuration = name, kind, settings, configuration
        self.loopback = Loopback(configuration)
        self.rules: tuple[Rule, ...] = (Rule(name="all"),) if settings.rules is None else settings.rules
        self.worker = Worker(name, self._open, self._turn)
        self.wake, self._stopping = self.worker.wake, self.worker.stopping
        self._changed = threading.Event()
        self._inbox: Inbox[tuple[str, str]] = Inbox(lambda report: self._feed.hear(*report))
        self._known: dict[str, Mapping[str, Any]] = {}
        self._known_changed, self._knowing = threading.Event(), threading.Lock()
        self._known_changed.set()
        self.health: dict[str, Destination] = {}
        self._ended: deque[tuple[str, bool]] = deque()
        self._deleted: deque[str] = deque()
        self._early_ends: dict[str, tuple[bool, float]] = {}
        self._deleter: Deleter | None = None
        self._verifier = Verifier(kind.has, self.wake) if kind.has else None
        self._delivered, self._measured = 0, time.monotonic()  # instances since then
        self._begun, self._next_poll, self._next_look = False, 0.0, 0.0
        self._held: set[str] = (
            set()
        )  # destinations that no rule names any more, for which something waits since one did
        overwrites = configuration.get("OverwriteInstances", False) not in (False, "Never", "IfChanged")
        self._keeps_given = overwrites
        self._arrivals = Arrivals(digests=overwrites)
        names = (
            "ORTHANC_STARTED",
            "ORTHANC_STOPPED",
            "NEW_INSTANCE",
            "DELETED",
            "JOB_SUCCESS",
            "JOB_FAILURE",
            kind.changed,
        )
        stable = {f"STABLE_{rule.level.upper()}" for rule in self.rules}
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in {*names, *stable}}

    def register(self) -> None:
        """Register what Orthanc calls."""
        KEPT_ALIVE.extend((self.on_change, self._arrivals.stored))
        orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-2])
        orthanc.RegisterOnStoredInstanceCallback(KEPT_ALIVE[-1])

    # What Orthanc tells: return at once

    def on_change(self, change: int, level: int, resource: str) -> None:
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self._stop()
        elif event is None:
            return
        elif event == self.kind.changed:
            self._known_changed.set()
            self.wake.set()
        elif not self.worker.is_off:
            self._hear(event, level, resource)

    def _hear(self, event: str, level: int, resource: str) -> None:
        if event.startswith("JOB_"):
            self._ended.append((resource, event == "JOB_SUCCESS"))
            self.wake.set()
        elif event == "DELETED":
            if self._keeps_given and level == orthanc.ResourceType.INSTANCE:
                self._deleted.append(resource)
        elif event == "NEW_INSTANCE":
            self._inbox.add(("NewInstance", resource))
            if self.settings.trigger == "Stored":
                self._changed.set()
                self.wake.set()
        else:
            self._inbox.add((f"Stable{event.removeprefix('STABLE_').capitalize()}", resource))
            self._changed.set()
            self.wake.set()

    def _open(self) -> Ledger:
        if not self.loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        matchers = {
            rule.matcher: load_matcher(rule.matcher, configuration_folder()) for rule in self.rules if rule.matcher
        }
        path = state_folder(self.settings.state_path, self._configuration) / f"{self.name.replace('-', '_')}.sqlite"
        self.ledger = Ledger(path, FEED_TABLES + FORWARDING_TABLES, durability=self.settings.durability)
        if self.ledger.fresh:
            orthanc.LogWarning(_about_new_ledger(self.name, self.ledger))
        self._misconfigured = Misconfigured(self.ledger)
        self.router = Router(self.loopback, self.rules, self.settings.rule_mode == "first", matchers)
        levels = [level for level in PLURALS if any(rule.level == level for rule in self.rules)]
        stable_age, reconcile = float(self._configuration.get("StableAge", 60)), self.settings.reconcile
        self._feed = Feed(
            self.ledger, self.loopback, self._settled, levels, stable_age, reconcile, self._arrivals.parents
        )
        if self.settings.delete_after_forward:
            prove = functools.partial(self.kind.prove, self.loopback)
            self._deleter = Deleter(self.name, self.ledger, self.loopback, prove, self.settings.retry)
        self._inbox.open()
        return self.ledger

    def _stop(self) -> None:
        self._stopping.set()
        self.wake.set()
        until = time.monotonic() + STOPS_WITHIN
        if self._deleter:
            self._deleter.stop(STOPS_WITHIN)
        self.worker.stop(until - time.monotonic())

    # The one thread

    def _turn(self) -> float:
        try:
            if not self._begun:
                self._begin()
                self._begun = True
            if self.worker.is_off:
                return TICK
            self._inbox.flush()
            # A job that has ended is no reason to read the log of changes: only settle it and submit the next.
            if self._changed.is_set() or time.monotonic() >= self._next_poll:
                self._changed.clear()
                self._take_in()
                self._next_poll = time.monotonic() + SOON
            self._settle_ended_jobs()
            self._settle_verified()
            self._look_at_destinations()
            self._submit()
            self._look_at_jobs()
        except BaseException:
            self._next_poll = 0.0  # what was to be taken in may be left
            raise
        return SOON if self.ledger.queues("waiting") else TICK

    def _take_in(self) -> None:
        if self.settings.trigger == "Stored":
            self._stopping.wait(GATHER)
        self._feed.poll()
        if self.settings.trigger == "Stored":
            self._take_early()
        self._route()

    def _begin(self) -> None:
        self._feed.begin()
        for name in self._misconfigured.names():
            if name in self.known():
                self.destination(name).identity.used()
        self._hold_what_nobody_names()
        if refused := self.router.check():
            section = "".join(map(str.capitalize, self.name.split("-")))
            self.worker.turn_off(f"{section}.{refused}. {self.name} is idle until this is corrected.")
            if self._deleter:
                self._deleter.stop(0)

    def _hold_what_nobody_names(self) -> None:
        """A person who takes a destination out of the configuration wants nothing sent there; nor is anything dropped."""
        listed = self.settings.destinations
        if any(rule.matcher or (rule.destinations is None and listed is None) for rule in self.rules):
            return  # any destination may be meant
        named = {
            name for rule in self.rules for name in (listed if rule.destinations is None else rule.destinations) or ()
        }
        unfinished = "SELECT queue, COUNT(*) n FROM work WHERE state IN ('waiting', 'sending')"
        # What a person sent has no list of instances.
        for row in self.ledger.rows(f"{unfinished} AND json_type(data, '$.Instances')='array' GROUP BY queue"):
            if (name := row["queue"]) not in {TO_ROUTE, TO_DELETE, *named}:
                self._held.add(name)
                orthanc.LogWarning(
                    f"{self.name}: {row['n']} deliveries wait for {name}, which the configuration names no more, and are held; "
                    f"POST /{self.name}/destinations/{name}/resume sends them, DELETE /{self.name}/deliveries/{{id}} drops one"
                )

    def resume(self, name: str) -> None:
        """Go on with what was held since the configuration names a destination no more."""
        self._held.discard(name)

    # From arrived to rows

    def _settled(self, level: str, resource: str, instances: Mapping[str, int]) -> None:
        """It is stable: in the feed's transaction, a row that says what is to be routed."""
        self._add_to_route(level, resource, instances, last=True)

    def _take_early(self) -> None:
        """What arrived since the last time, before it is stable: the same, a row for each resource."""
        since = self.ledger.number("taken")
        sql = "SELECT level, resource, instance, seq FROM arrived WHERE seq>? AND resource IS NOT NULL ORDER BY seq"
        groups: dict[tuple[str, str], dict[str, int]] = {}
        for row in self.ledger.rows(sql, since):
            groups.setdefault((row["level"], row["resource"]), {})[row["instance"]] = row["seq"]
            since = row["seq"]
        if groups:
            with self.ledger.transaction():
                for (level, resource), instances in groups.items():
                    self._add_to_route(level, resource, instances, last=False)
                self.ledger.set_number("taken", since)

    def _add_to_route(self, level: str, resource: str, instances: Mapping[str, int], last: bool) -> None:
        origins: list[Mapping[str, str]] = []
        data: dict[str, Any] = {"Level": level, "UID": "", "Last": last, "Instances": {}}
        for instance, seq in instances.items():
            arrival = self._arrivals.get(instance)
            number = -1
            if arrival:
                data["UID"] = arrival.uids[level]
                if arrival.origin not in origins:
                    origins.append(arrival.origin)
                number = origins.index(arrival.origin)
            data["Instances"][instance] = [seq, number, arrival.digest if arrival else ""]
        self.ledger.add(TO_ROUTE, resource, {**data, "Origins": origins})

    def _route(self) -> None:
        while rows := self.ledger.due(TO_ROUTE, PAGE, self.settings.retry.longest):
            for row in rows:
                if self._stopping.is_set():
                    return
                try:
                    self._route_one(row)
                except LoopbackError as error:
                    if error.status == 0:
                        raise
                    self._fail(row, f"the rules can't be applied: {error}")
                except Exception as error:  # noqa: BLE001 - a matcher is a user's code
                    self._fail(row, f"the rules can't be applied: {repr_of(error)}")

    def _route_one(self, row: Mapping[str, Any]) -> None:
        data = json.loads(row["data"])
        try:
            batch = self.batch_of(data, row["subject"])
        except LoopbackError as error:
            if error.status != 404:
                raise
            self.ledger.run("DELETE FROM work WHERE id=?", row["id"])  # deleted before a rule was applied
            return
        verdicts = self.router.verdicts(batch, list(self.known()), self.wanted())
        with self.ledger.transaction():
            sent_to: set[str] = set()
            for verdict in verdicts:
                for destination in verdict.destinations:
                    wanted = verdict.instances if verdict.instances is not None else tuple(batch.instances or ())
                    new = self._not_given(destination, wanted, data["Instances"], batch.origins)
                    if new:
                        self.add(batch.level, batch.resource, destination, new, verdict.rule.priority)
                        sent_to.add(destination)
            if self._deleter and sent_to:
                left_out = {name for verdict in verdicts for name in verdict.unknown}
                self._deleter.note(batch.level, batch.resource, sent_to | left_out)
            self.ledger.run("DELETE FROM work WHERE id=?", row["id"])
            if data["Last"] and not self._keeps_given:
                with self.ledger.transaction() as db:
                    db.executemany("DELETE FROM given WHERE instance=?", [(each,) for each in data["Instances"]])
        if data["Last"]:
            for instance in data["Instances"]:
                self._arrivals.forget(instance)
            if self._deleter:
                self._deleter.delivered(batch.resource)

    def batch_of(self, data: Mapping[str, Any], resource: str) -> Batch:
        """What is to be routed, as rules see it; what a restart made us forget is read from Orthanc."""
        level, instances = data["Level"], tuple(data["Instances"])
        uid = data["UID"]
        if not uid and any(rule.query for rule in self.rules):
            uid = self.loopback.get(f"/{PLURALS[level]}/{resource}")["MainDicomTags"].get(UID_TAG[level], "")
        origins = {one: data["Origins"][number] for one, (_, number, _) in data["Instances"].items() if number >= 0}
        unknown = [one for one in instances if one not in origins]
        for start in range(0, len(unknown), PAGE):
            body = {"Resources": unknown[start : start + PAGE], "Metadata": True}
            origins |= {
                found["ID"]: found.get("Metadata", {}) for found in self.loopback.post("/tools/bulk-content", body)
            }
        return Batch(level, resource, uid, instances, origins)

    def _not_given(
        self,
        destination: str,
        wanted: Iterable[str],
        about: Mapping[str, Sequence[Any]],
        origins: Mapping[str, Mapping[str, str]],
    ) -> list[str]:
        """Those that this destination shall get: not what came from it, nor what it was given already; notes them as given."""
        settings, found = self.known()[destination], []
        remember = self._keeps_given or self.settings.trigger == "Stored"
        for instance in wanted:
            origin = origins.get(instance, {})
            copy = "ModifiedFrom" in origin or "AnonymizedFrom" in origin
            if self.kind.came_from(origin, settings) or (copy and self.settings.skip_modified):
                continue
            if remember:
                seq, _, digest = about[instance]
                given = self.ledger.rows(
                    "SELECT * FROM given WHERE instance=? AND destination=?", instance, destination
                )
                if given and (given[0]["seq"] >= seq > 0 or (digest and given[0]["digest"] == digest)):
                    continue
                sql = "INSERT OR REPLACE INTO given VALUES(?,?,?,?)"
                self.ledger.run(sql, destination, instance, seq, digest)
            found.append(instance)
        return found

    def add(
        self, level: str, resource: str, destination: str, instances: Sequence[str] | None, priority: int = 0
    ) -> int:
        """A row for a destination; what waits for the same joins it. `None` stands for all that the resource holds then."""
        sql = (
            "SELECT id, data FROM work WHERE subject=? AND queue=? AND state='waiting' AND priority=? "
            "AND json_extract(data, '$.Level')=? ORDER BY id DESC LIMIT 1"
        )
        waiting = self.ledger.rows(sql, resource, destination, priority, level)
        if not waiting:
            data = {"Level": level, "Instances": None if instances is None else sorted(instances)}
            return self.ledger.add(destination, resource, data, priority)
        data = json.loads(waiting[0]["data"])
        data.pop("Sent", None)  # not all of it was
        both = None if data["Instances"] is None or instances is None else sorted({*data["Instances"], *instances})
        self._change(waiting[0]["id"], {**data, "Instances": both})
        return int(waiting[0]["id"])

    def _change(self, row: int, data: Mapping[str, Any]) -> None:
        self.ledger.run("UPDATE work SET data=? WHERE id=?", json.dumps(data), row)

    # Destinations

    def known(self) -> dict[str, Mapping[str, Any]]:
        """The destinations that Orthanc knows now, from its configuration and its database, with their settings."""
        with self._knowing:  # who asks meanwhile waits: that none is known would mean that nothing is to be sent
            if self._known_changed.is_set():
                self._known_changed.clear()  # first: what changes during the question is asked again
                try:
                    self._known = self.loopback.get(f"/{self.kind.route}?expand")
                except LoopbackError:
                    self._known_changed.set()
                    raise
                for health in [*self.health.values()]:
                    health.identity.doubt()
                self._complain_of_unknown()
            return self._known

    def _complain_of_unknown(self) -> None:
        of_rules = (name for rule in self.rules for name in rule.destinations or ())
        wanted = {*(self.settings.destinations or ()), *of_rules}
        if unknown := sorted(wanted - self._known.keys()):
            orthanc.LogError(
                f"{self.name}: Destinations names {', '.join(unknown)}, which Orthanc does not know; "
                f"known are: {', '.join(self._known) or 'none'}. The others are served."
            )
        if unknown := sorted(self.settings.destination_options.keys() - self._known.keys() - wanted):
            orthanc.LogWarning(
                f"{self.name}: DestinationOptions names {one_line(', '.join(unknown))}, which Orthanc does not know (yet); "
                f"known are: {', '.join(self._known) or 'none'}. These options have no effect."
            )

    def destinations(self) -> list[str]:
        """The destinations of a rule without a list: those of the section's list that Orthanc knows; without one, all."""
        known, listed = self.known(), self.settings.destinations
        return list(known) if listed is None else [name for name in listed if name in known]

    def wanted(self) -> list[str]:
        """The same, with those that Orthanc does not know: what is to be deleted waits for them too."""
        listed = self.settings.destinations
        return list(self.known()) if listed is None else list(listed)

    def destination(self, name: str) -> Destination:
        """The health of a destination."""
        if name not in self.health:
            retry = self.settings.retry

            def probe(name: str) -> None:
                self.kind.probe(self.loopback, name)

            self.health[name] = Destination(name, probe, self.wake, retry.first, retry.longest, self.kind.check)
        return self.health[name]

    def is_paused(self, name: str) -> bool:
        return name in self._held or bool(self.ledger.number(f"paused {name}"))

    def is_open(self, name: str) -> bool:
        """Whether this is an hour at which it may be sent to."""
        options = self.settings.destination_options.get(name)
        return options is None or is_open(options.windows, datetime.datetime.now())  # noqa: DTZ005 - local, as written

    def _look_at_destinations(self) -> None:
        for health in self.health.values():
            self._look_who_it_is(health)
            if health.away and health.answered and health.identity.is_right():
                self._answered(health)
            health.look()

    def _look_who_it_is(self, health: Destination) -> None:
        changed = self._misconfigured.note(health.name, health.identity)
        if changed:
            orthanc.LogError(
                f"{self.name} sends nothing to {health.name}, until this is corrected: {health.identity.wrong}"
            )
            self._call_back(health.name)
        elif changed is False:
            orthanc.LogWarning(f"{self.name}: {health.name} is what it should be again, and what waits for it is sent")

    def _answered(self, health: Destination) -> None:
        """It is there (again): all that waits for it goes now, and what failed although it is there is halved."""
        health.succeeded()
        with self.ledger.transaction():
            for row in self.ledger.rows(
                "SELECT * FROM work WHERE queue=? AND state='waiting' AND attempts>0", health.name
            ):
                data = json.loads(row["data"])
                # What failed although the destination is there: its content is what it minds.
                if data.pop("Suspect", None) and not health.was_silent and self._is_worth_halving(row, data):
                    self._halve(row, data)
                elif not data.get("Refused"):
                    self.ledger.run("UPDATE work SET next_attempt=0 WHERE id=?", row["id"])

    def _is_worth_halving(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        """Not what stands alone, and not where many stand alone and none got through: then it minds them all."""
        sql = "SELECT COUNT(*) n FROM work WHERE queue=? AND json_extract(data, '$.Of')=? AND state IN ('waiting', 'dead')"
        refused = self.ledger.rows(sql, row["queue"], row["subject"])[0]["n"]
        done = self.ledger.rows(
            "SELECT 1 FROM work WHERE queue=? AND subject=? AND state='done'", row["queue"], row["subject"]
        )
        return not data.get("Refused") and (refused < MANY_REFUSED or bool(done))

    def _halve(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        """A failed job does not name the instances that were refused: part them until those stand alone."""
        instances = data["Instances"]
        if instances is None:
            instances = [
                each["ID"] for each in self.loopback.get(f"/{PLURALS[data['Level']]}/{row['subject']}/instances")
            ]
        if len(instances) > 1:
            middle = len(instances) // 2
            self._change(row["id"], {**data, "Instances": instances[:middle]})
            self.ledger.run("UPDATE work SET next_attempt=0 WHERE id=?", row["id"])
            self.ledger.add(row["queue"], row["subject"], {**data, "Instances": instances[middle:]}, row["priority"])
        elif instances:
            # Its own subject: the rest of the study does not wait for it.
            alone = {**data, "Refused": True, "Of": row["subject"], "OfLevel": data["Level"], "Level": "Instance"}
            self._change(row["id"], {**alone, "Instances": instances})
            self.ledger.run("UPDATE work SET subject=? WHERE id=?", instances[0], row["id"])

    # Jobs

    def _submit(self) -> None:
        concurrent = int(self._configuration.get("ConcurrentJobs", 2)) or 1
        shared = concurrent if len(self.destinations()) <= 1 else max(1, concurrent - 1)
        busy = self.ledger.queues("sending")
        for name in sorted(self.ledger.queues("waiting").keys() - {TO_ROUTE, TO_DELETE}):
            health = self.destination(name)
            if self.is_paused(name) or not self.is_open(name) or not health.may_send():
                continue
            if not health.identity.is_right():
                self._fail_silent(health)
                continue
            options = self.settings.destination_options.get(name)
            bound = (options and options.max_jobs) or self.settings.max_per_destination or shared
            # More than run at a time wait for a destination that is well, so that no slot stands empty.
            sending = busy.get(name, 0) - (self._verifier.number(name) if self._verifier else 0)
            free = 1 if health.away else bound + AHEAD - sending
            for row in self.ledger.due(name, max(0, free), self.settings.retry.longest):
                if self._stopping.is_set():
                    return
                health.sent()
                self._attempt(row, options.options if options else {})

    def _fail_silent(self, health: Destination) -> None:
        """It could not be asked who it is: an attempt that has failed, without a job."""
        silent = health.identity.silent
        if health.identity.wrong or not silent:
            return  # it waits until that is corrected, or is being asked
        health.sent()
        for row in self.ledger.due(health.name, 1, self.settings.retry.longest):
            self.ledger.start(row["id"])
            self._fail({**row, "attempts": row["attempts"] + 1}, f"{health.name} can't be asked who it is: {silent}")
        health.failed(silent)

    def _attempt(self, row: dict[str, Any], options: Mapping[str, Any]) -> None:
        self.ledger.start(row["id"])
        row["attempts"] += 1
        if row["queue"] not in self.known():
            known = ", ".join(self.known()) or "none"
            self._fail(row, f"Orthanc does not know {row['queue']} any more; known are: {known}")
            return
        instances = json.loads(row["data"])["Instances"]
        if json.loads(row["data"]).get("Sent") and self._verify(row):
            return  # it was sent, and could only not be asked
        try:
            job = self._post_job(row, [row["subject"]] if instances is None else instances, options)
        except LoopbackError as error:
            if error.status == 0:
                self._next_look = 0
                raise  # whether there is a job now, only Orthanc knows: _look_at_jobs asks
            self._fail(row, str(error))
            return
        if job is None:
            self.ledger.end(row["id"], "gone")
            orthanc.LogInfo(f"{self.name}: {_what(row)} was deleted before {row['queue']} got it")
            return
        self._note_job(row["id"], job)
        if early := self._early_ends.get(job):
            self._settle({**row, "job": job}, early[0])
            del self._early_ends[job]

    def _note_job(self, row: int, job: str) -> None:
        with self.ledger.transaction():
            self.ledger.run("UPDATE work SET job=? WHERE id=?", job, row)
            self.ledger.run("INSERT OR IGNORE INTO jobs VALUES(?,?)", job, row)

    def _post_job(self, row: Mapping[str, Any], resources: list[str], options: Mapping[str, Any]) -> str | None:
        """Submit the job and give its identifier; without what was deleted meanwhile, and None if that was all."""
        body = {**options, "Resources": resources, "Synchronous": False}
        try:
            return str(self.loopback.post(f"/{self.kind.route}/{row['queue']}/store", body)["ID"])
        except LoopbackError as error:
            if error.status not in (404, 500):  # 1.13.0 answers 500 if it is the first of them that is gone
                raise
            here = self._still_here(resources)
            if len(here) == len(resources):
                raise  # then it is not the resources that were not found
        return self._post_job(row, here, options) if here else None

    def _still_here(self, resources: list[str]) -> list[str]:
        here: set[str] = set()
        for start in range(0, len(resources), PAGE):
            body = {"Resources": resources[start : start + PAGE], "Short": True}
            here |= {found["ID"] for found in self.loopback.post("/tools/bulk-content", body)}
        return [resource for resource in resources if resource in here]

    def _settle_ended_jobs(self) -> None:
        while self._ended:
            job, success = self._ended[0]
            if rows := self.ledger.rows("SELECT * FROM work WHERE job=? AND state='sending'", job):
                self._settle(rows[0], success)
            else:
                self._early_ends[job] = success, time.monotonic()
            self._ended.popleft()
        oldest = time.monotonic() - KEEP_EARLY_ENDS
        self._early_ends = {job: end for job, end in self._early_ends.items() if end[1] > oldest}

    def _settle(self, row: Mapping[str, Any], success: bool) -> None:
        if success:
            health = self.destination(row["queue"])
            health.identity.used()
            if health.identity.wrong:
                again = "UPDATE work SET state='waiting', attempts=attempts-1, next_attempt=0, job=NULL WHERE id=?"
                self.ledger.run(again, row["id"])
            elif not self._verify(row):
                self._end_delivered(row)
            return
        try:
            job = self.loopback.get(f"/jobs/{row['job']}")
            why = job.get("ErrorDetails") or job.get("ErrorDescription") or "the job failed"
        except LoopbackError as error:
            if error.status != 404:
                raise
            why = "the job failed, and Orthanc has forgotten why (JobsHistorySize)"
        # Whoever could not be reached had nothing against the content.
        data = {**json.loads(row["data"]), "Suspect": "connect" not in why.lower()}
        self._fail({**row, "data": json.dumps(data)}, why)
        self.destination(row["queue"]).failed(one_line(why))
        self._call_back(row["queue"])

    def _end_delivered(self, row: Mapping[str, Any]) -> None:
        self.ledger.end(row["id"], "done")
        self.destination(row["queue"]).succeeded()
        self._delivered += len(json.loads(row["data"])["Instances"] or (row["subject"],))
        orthanc.LogInfo(f"{self.name}: {row['queue']} has {_what(row)} (attempt {row['attempts']})")
        if self._deleter:
            self._deleter.delivered(json.loads(row["data"]).get("Of", row["subject"]))

    def _verify(self, row: Mapping[str, Any]) -> bool:
        """Ask the destination whether it has what it took, if that is wanted of it; the row stays `sending` meanwhile."""
        options = self.settings.destination_options.get(row["queue"])
        if self._verifier is None or not options or not options.verify:
            return False
        instances = json.loads(row["data"])["Instances"]
        if instances is None:
            body = {"Resources": [row["subject"]], "Level": "Instance", "Short": True}
            instances = [found["ID"] for found in self.loopback.post("/tools/bulk-content", body)]
        self._verifier.add(row["queue"], row["id"], instances)
        return True

    def _settle_verified(self) -> None:
        while self._verifier and (answer := self._verifier.take()):
            rows = self.ledger.rows("SELECT * FROM work WHERE id=? AND state='sending'", answer.row)
            for row in rows:  # none, if a person has dropped it
                if answer.error:
                    data = {**json.loads(row["data"]), "Sent": True}
                    self._fail(
                        {**row, "data": json.dumps(data)},
                        f"{row['queue']} took it, and can't be asked whether it has it: {answer.error}",
                    )
                elif answer.missing:
                    self._send_missing(row, answer)
                else:
                    self._end_delivered(row)

    def _send_missing(self, row: Mapping[str, Any], answer: Verified) -> None:
        """What the destination took and does not have goes again, in a row of its own, for which the rest does not wait."""
        data = {key: value for key, value in json.loads(row["data"]).items() if key != "Sent"}
        here = self._still_here([*answer.missing])
        why = f"{row['queue']} took {len(answer.asked)} instances and does not have {len(answer.missing)} of them (Verify)"
        with self.ledger.transaction():
            if len(answer.missing) < len(answer.asked):
                arrived = sorted({*answer.asked} - {*answer.missing})
                self._change(row["id"], {**data, "Instances": arrived})
                self._end_delivered({**row, "data": json.dumps({**data, "Instances": arrived})})
                if not here:
                    return
                row = {**row, "id": self.ledger.add(row["queue"], here[0], data, row["priority"])}
                self.ledger.run("UPDATE work SET attempts=? WHERE id=?", row["attempts"], row["id"])
            elif not here:
                self.ledger.end(row["id"], "gone")
                return
            whole = {"Of": data.get("Of", row["subject"]), "OfLevel": data.get("OfLevel", data["Level"])}
            alone = {**data, **whole, "Refused": True, "Level": "Instance", "Instances": here}
            self.ledger.run("UPDATE work SET subject=? WHERE id=?", here[0], row["id"])
            self._fail({**row, "subject": here[0], "data": json.dumps(alone)}, why)
            self.destination(row["queue"]).succeeded()

    def _call_back(self, destination: str) -> None:
        """Cancel what waits in Orthanc for a destination that has failed: each might hold a job slot until its timeout."""
        for row in self.ledger.rows(
            "SELECT * FROM work WHERE state='sending' AND queue=? AND job IS NOT NULL", destination
        ):
            try:
                if self.loopback.get(f"/jobs/{row['job']}")["State"] == "Pending":
                    self.ledger.run(
                        "UPDATE work SET state='waiting', attempts=attempts-1, job=NULL WHERE id=?", row["id"]
                    )
                    self.loopback.post(f"/jobs/{row['job']}/cancel", b"")
            except LoopbackError as error:
                if error.status == 0:
                    raise  # else it has ended by itself

    def _fail(self, row: Mapping[str, Any], error: str) -> None:
        retry, data = self.settings.retry, json.loads(row["data"])
        hours, now = retry.give_up_hours, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        history = [*data.get("History", []), {"At": now, "Error": one_line(error)}][-HISTORY:]
        with self.ledger.transaction():
            self._change(row["id"], {**data, "History": history})
            give_up = hours * 3600
            state = self.ledger.fail(
                row["id"], one_line(error), first=retry.first, longest=retry.longest, give_up_after=give_up
            )
        where = row["queue"] or "any destination"
        text = f"{self.name}: {_what(row)} did not reach {where} (attempt {row['attempts']}): {one_line(error)}"
        if state == "dead":
            again = f"POST /{self.name}/deliveries/{row['id']}/retry tries again"
            orthanc.LogError(f"{text}. Given up after {hours:g} hours; {again}")
        elif row["attempts"] <= 1:
            orthanc.LogWarning(f"{text}. It will be tried again")
        else:
            orthanc.LogInfo(text)

    def _look_at_jobs(self) -> None:
        """Settle the rows whose job ended unseen, and find the job of those that were interrupted while submitting it.

        Orthanc goes on with unfinished jobs after a restart: not to know them would send everything twice.
        """
        if time.monotonic() < self._next_look:
            return
        rows = self.ledger.rows("SELECT * FROM work WHERE state='sending'")
        jobs = self.loopback.get("/jobs?expand") if rows else []
        by_id, taken = {job["ID"]: job for job in jobs}, {row["job"] for row in rows}
        for row in rows:
            if self._verifier and self._verifier.is_under_way(row["id"]):
                continue
            job = (
                by_id.get(row["job"])
                if row["job"]
                else self._job_of(row, [each for each in jobs if each["ID"] not in taken])
            )
            if job is None:
                # Its end was missed while Orthanc was down, or it was never submitted: twice is harmless, lost is not.
                self.ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE id=?", row["id"])
                continue
            taken.add(job["ID"])
            self._note_job(row["id"], job["ID"])
            if job["State"] not in UNFINISHED:
                self._settle({**row, "job": job["ID"]}, job["State"] == "Success")
        self.ledger.forget_finished(self.settings.keep_done_days)
        self._forget_deleted()
        self._measure()
        self._next_look = time.monotonic() + TICK

    def _job_of(self, row: Mapping[str, Any], jobs: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        destination = self.known().get(row["queue"])
        instances = json.loads(row["data"])["Instances"]
        resources = {row["subject"]} if instances is None else set(instances)
        for job in jobs:
            content = job.get("Content", {})
            same = destination and job["Type"] == self.kind.job_type and self.kind.is_for(content, destination)
            if same and job["State"] in UNFINISHED and set(content.get("ParentResources", ())) == resources:
                return job
        return None

    def _forget_deleted(self) -> None:
        """What was given is forgotten with the instance; to overwrite one, Orthanc deletes it for a moment."""
        deleted = list(self._deleted)
        here = set(self._still_here(deleted))
        with self.ledger.transaction() as db:
            db.executemany("DELETE FROM given WHERE instance=?", [(each,) for each in deleted if each not in here])
        for _ in deleted:
            self._deleted.popleft()

    def _measure(self) -> None:
        """Tell Orthanc's metrics (`/tools/metrics-prometheus`): rows by state, age of the oldest, instances a second.

        Of a resource that a person sent whole, how many instances it had is not known here: it counts as one.
        """
        name = self.name.replace("-", "_")
        for state, number in self.ledger.totals().items():
            orthanc.SetMetricsValue(f"{name}_{state}", float(number), orthanc.MetricsType.DEFAULT)
        oldest = self.ledger.rows(OLDEST_UNFINISHED, TO_DELETE)
        lag = max(0.0, time.time() - oldest[0]["created"]) if oldest else 0.0
        orthanc.SetMetricsValue(f"{name}_lag_seconds", lag, orthanc.MetricsType.DEFAULT)
        rate = self._delivered / max(0.001, time.monotonic() - self._measured)
        orthanc.SetMetricsValue(f"{name}_instances_per_second", rate, orthanc.MetricsType.DEFAULT)
        self._delivered, self._measured = 0, time.monotonic()


def wrong_with_rules(settings: Any, configuration: Mapping[str, Any], store_options: Sequence[str]) -> str | None:
    """What is wrong with the settings beyond their types, by its key; `store_options` are those that Orthanc knows."""
    extra = [tag for tags in configuration.get("ExtraMainDicomTags", {}).values() for tag in tags]
    for number, rule in enumerate(settings.rules or ()):
        if complaint := wrong_with(rule, extra):
            return f"Rules[{number}].{complaint}"
    if settings.delete_after_forward and configuration.get("OverwriteInstances", False) not in (False, "Never"):
        return (
            'DeleteAfterForward: found true, allowed is false where "OverwriteInstances" is on: what comes anew under the '
            "same identifier could be deleted for what was proved before"
        )
    for name, options in settings.destination_options.items():
        if taken := [key for key in options.options if key in OURS]:
            why = (
                "with it Orthanc calls a job to a dead port a success"
                if taken == ["Permissive"]
                else "it is the script's"
            )
            return f"DestinationOptions.{name}.Options: found {taken[0]}, which is not allowed: {why}"
        # Orthanc itself ignores what it does not know.
        if complaint := wrong_keys(f"DestinationOptions.{one_line(name)}.Options", options.options, store_options):
            return complaint
    return None


def _what(row: Mapping[str, Any]) -> str:
    return f"{json.loads(row['data'])['Level'].lower()} {row['subject']}"


def _about_new_ledger(name: str, ledger: Ledger) -> str:
    why = f"was corrupt and is kept as {ledger.moved}" if ledger.moved else "is new"
    return (
        f"{name}: the ledger {ledger.path} {why}; what arrives from now on is forwarded, "
        f"nothing that the archive holds already (POST /{name}/backfill does that)"
    )
