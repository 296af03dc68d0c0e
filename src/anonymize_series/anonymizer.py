# SPDX-License-Identifier: AGPL-3.0-or-later
"""The callbacks and the thread of the anonymizer."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import orthanc

from anonymize_series.anonymizing import Anonymizing
from anonymize_series.archive import Archive
from anonymize_series.attempts import Attempts, Stopping
from anonymize_series.intake import Intake
from anonymize_series.patient_register import REGISTER_TABLES, Register
from anonymize_series.pseudonyms import Pseudonyms
from anonymize_series.re_identifying import ReIdentifying
from anonymize_series.sending import Sending
from anonymize_series.settings import NAME, SECTION, Settings
from anonymize_series.tasks import ANONYMIZE, FIRST_TASKS, NO_RECIPE, RE_IDENTIFY, ROUTE
from common.aets import AeTitles
from common.arrivals import Arrivals
from common.changes import FEED_TABLES, Feed
from common.dicomweb import dicomweb_servers_route
from common.http_threads import HttpTurns
from common.inbox import Inbox
from common.jobs import JobEnds
from common.ledger import Ledger
from common.loopback import Loopback
from common.owed import Owing, arriving, owed_tables
from common.routes import Refused
from common.state import configuration_folder, state_folder
from common.unread import Unread
from common.work import Which, Work
from common.worker import Worker
from forwarding.peers import Peers
from forwarding.routing import Router, load_matcher

# Between two turns of the thread, which an event cuts short: while something waits, and when nothing does.
BUSY_TURN_SECONDS, IDLE_TURN_SECONDS = 1.0, 5.0
MOST_COUNTED = 10_000  # instances that were held back, for the metric
EVENTS = (
    "ORTHANC_STARTED",
    "ORTHANC_STOPPED",
    "NEW_INSTANCE",
    "STABLE_SERIES",
    "STABLE_STUDY",
    "JOB_SUCCESS",
    "JOB_FAILURE",
)


class Anonymizer:
    """Takes what is stable, and works its rows off one after the other, in one thread.

    Each step leaves the same behind if it is done twice: identifiers are the same each time.

    Attributes
    ----------
    ledger, work, register : the state, from when it is open: once `worker.why_not()` is None.
    """

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self.settings, self._configuration = settings, configuration
        self.turns = HttpTurns(configuration)  # of routes that ask Orthanc
        self.loopback, self._arrivals = Loopback(configuration), Arrivals(digests=False)
        self._peers = Peers(configuration, self.loopback)
        self.worker = Worker(NAME, self._open, self._turn, self.loopback.close)
        self._changed, self._job_ends = threading.Event(), JobEnds()
        self._inbox: Inbox[tuple[str, str]] = Inbox(lambda report: self._feed.on_event(*report))
        self._begun, self._next_poll = False, 0.0
        self._unread, self._has_read = Unread(), False
        self._events = {int(getattr(orthanc.ChangeType, name)): name for name in EVENTS}

    # Callbacks: they return at once

    def on_stored(self, dicom: Any, instance: str) -> None:
        """Remember where an instance came from."""
        self._arrivals.stored(dicom, instance)

    def on_change(self, change: int, _level: int, resource: str) -> None:
        """Write down what has arrived or become stable, and wake the thread."""
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self.worker.stop()
        elif event is None or self.worker.is_off:
            return
        elif event.startswith("JOB_"):
            self._job_ends.end(resource, well=event == "JOB_SUCCESS")
            self.worker.wake.set()
        elif event == "NEW_INSTANCE":
            if self.settings.reconcile:
                self._unread.add(resource)
            self._inbox.add(("NewInstance", resource))
        else:
            self._inbox.add((f"Stable{event.removeprefix('STABLE_').capitalize()}", resource))
            self._changed.set()
            self.worker.wake.set()

    # The thread

    def _open(self) -> Ledger:
        if not self.loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        folder, rules = configuration_folder(), self.settings.rules
        matchers = {rule.matcher: load_matcher(rule.matcher, folder) for rule in rules if rule.matcher}
        path = (
            state_folder(self.settings.state_path, self._configuration, "anonymize_series") / "anonymize_series.sqlite"
        )
        tables = FEED_TABLES + REGISTER_TABLES + owed_tables()
        self.ledger = Ledger(path, tables, durability=self.settings.durability, first_tasks=FIRST_TASKS)
        if self.ledger.quarantined_to:
            orthanc.LogError(
                f"{NAME}: the register {path} was corrupt and is kept as {self.ledger.quarantined_to}; "
                "what comes back for copies that were made before can't be taken back"
            )
        self.work, self.register = Work(self.ledger), Register(self.ledger)
        self._aets = AeTitles(self._configuration)
        self._router = Router(self.loopback, rules, self.settings.rule_mode == "first", matchers, self._aets)
        self._owing = Owing(self.ledger, self.loopback)
        self._create_steps()
        self._inbox.open()
        return self.ledger

    def _create_steps(self) -> None:
        """Create what does the rows of each task, and the feed that the rows come from."""
        settings, ledger, register = self.settings, self.ledger, self.register
        self._attempts = Attempts(ledger, self.work, settings.retry, self.worker.stopping, self.worker.trouble)
        pseudonyms = Pseudonyms(settings.secret or "", settings.pseudonym_prefix)
        intake = Intake(settings, ledger, register, Archive(self.loopback), self._router, self._aets, self._arrivals)
        self._sending = Sending(
            *(settings.recipes, self.loopback, self._peers, ledger, register, self._attempts, self._job_ends),
            dicomweb_servers_route(self._configuration),
        )
        back = ReIdentifying(
            *(self.loopback, ledger, register, self._attempts, pseudonyms), delete_results=settings.delete_results
        )
        anonymizing = Anonymizing(
            *(settings.recipes, self.loopback, self.work, register, self._attempts, pseudonyms, self._sending)
        )
        self._steps = {
            (ROUTE, NO_RECIPE): intake.route,
            (RE_IDENTIFY, NO_RECIPE): back.re_identify,
            **{(ANONYMIZE, name): anonymizing.anonymize for name in settings.recipes},
        }
        levels = self._levels = {rule.level for rule in settings.rules} | ({"Series"} if settings.results else set())
        self._feed = Feed(
            *(ledger, self.loopback, intake.on_stable, sorted(levels)),
            *(
                float(self._configuration.get("StableAge", 60)),
                settings.reconcile,
                self._arrivals.parents,
                self._unread.on_change_entry,
            ),
        )

    def owed(self, resources: set[str]) -> set[str]:
        """Return the studies, of these or any, with which it is not done."""
        if not self._has_read:
            raise Refused(503, f"{NAME} has not read yet what arrived before Orthanc started")
        self._inbox.flush()
        with self.turns.turn():  # it asks Orthanc
            found = set[str]()
            if self._levels:
                found = arriving(self.ledger, self.loopback, self._arrivals.parents, self._unread.now())
            return found | self._owing.of(resources)

    def measure(self) -> dict[str, float]:
        """Return its metrics."""
        return {**self.ledger.totals(), "held": self.register.count_held(MOST_COUNTED)}

    def _turn(self) -> float:
        try:
            if not self._begun:
                self._begin()
                self._begun = True
            if self.worker.is_off:
                return IDLE_TURN_SECONDS
            self._inbox.flush()
            if self._changed.is_set() or time.monotonic() >= self._next_poll:
                self._changed.clear()
                self._unread.begin_reading()
                self._feed.poll()
                self._unread.never_read()
                self._has_read = True
                self._next_poll = time.monotonic() + BUSY_TURN_SECONDS
            for (task, recipe), step in self._steps.items():
                self._attempts.work_off(task, recipe, step)
            self._sending.look_at_jobs()
            self.ledger.forget_finished(self.settings.keep_done_days)
        except Stopping:
            return 0.0
        except BaseException:
            # What was under way begins again, and the feed may still have something to hand over.
            self._begun, self._next_poll = False, 0.0
            raise
        totals = self.ledger.totals()
        return BUSY_TURN_SECONDS if totals["waiting"] or totals["sending"] else IDLE_TURN_SECONDS

    def _begin(self) -> None:
        self._feed.begin()
        # What was under way when Orthanc ended, and is no job of Orthanc's, begins again.
        for row in self.work.find(Which(states=("sending",))):
            if row["job"] is None:
                self.work.wait_again(row["id"])
        self._feed.take_back(ROUTE)
        if refused := self._router.check():
            self.worker.turn_off(f"{SECTION}.{refused}. {NAME} is idle until this is corrected.")
