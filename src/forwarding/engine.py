# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts of a forwarder put together on an open ledger, and the order in which its thread uses them."""

import functools
import threading
import time
from collections.abc import Mapping

import orthanc

from common.aets import AeTitles
from common.changes import FEED_TABLES
from common.owed import Owing, owed_tables
from common.routes import Refused
from common.work import ADDED_INDEX, Work
from forwarding.alternates import Alternates
from forwarding.archive import still_here
from forwarding.assignment import Assignment
from forwarding.bisection import Bisection
from forwarding.catch_up import CatchUp
from forwarding.changed import ChangedDeliveries
from forwarding.context import Context
from forwarding.deletion import Deleter
from forwarding.destinations import Destinations
from forwarding.dispatcher import Dispatcher
from forwarding.identity import KEPT_UNTIL_CHECKED_DAYS, Misconfigured
from forwarding.intake import Intake, Reports
from forwarding.jobs import JOBS_TABLE, Jobs
from forwarding.metrics import Metrics
from forwarding.not_in_ledger import NotInLedger
from forwarding.passed_over import PASSED_OVER_TABLE, PassedOver
from forwarding.protection import PROTECTED_TABLE, Protection
from forwarding.routing import Matcher, Router
from forwarding.rows import Rows
from forwarding.sent_instances import GIVEN_TABLE, SentInstances
from forwarding.settings import may_repeat
from forwarding.tasks import DELETE
from forwarding.verification import Verification, Verifier

IDLE_SECONDS = 5.0  # between looks at changes and jobs when no event wakes the thread
BUSY_LOOK_SECONDS = 1.0  # between looks while something waits for its time
TABLES_OF_ROWS = owed_tables(but=DELETE) + ADDED_INDEX
ENGINE_TABLES = FEED_TABLES + GIVEN_TABLE + PASSED_OVER_TABLE + JOBS_TABLE + TABLES_OF_ROWS + PROTECTED_TABLE


class Engine:
    """Routes what arrives, and sends what is routed, turn by turn.

    Parameters
    ----------
    reports : what callbacks report.
    destinations_changed : is set when Orthanc's destinations have changed.
    """

    def __init__(
        self,
        context: Context,
        matchers: Mapping[str, Matcher],
        reports: Reports,
        destinations_changed: threading.Event,
    ) -> None:
        name, ledger, loopback, settings = context.name, context.ledger, context.loopback, context.settings
        missing = context.transport.missing
        self._name, self._missing = name, missing and functools.partial(missing, loopback)
        self.ledger, self.work, self._settings, self._reports = ledger, Work(ledger), settings, reports
        self._loopback, aets = loopback, AeTitles(context.configuration)
        self.router = Router(loopback, context.rules, settings.rule_mode == "first", matchers, aets)
        overwrites = may_repeat(context.configuration)
        several_levels = len({rule.level for rule in context.rules}) > 1
        remembers = overwrites or settings.trigger == "Stored" or several_levels
        self._sent = SentInstances(ledger, remembers=remembers, overwrites=overwrites)
        self._passed_over = PassedOver(ledger)
        self.destinations = Destinations(context, destinations_changed)
        self._owing = Owing(ledger, loopback)
        self.protection = Protection(context, self._owing)
        self._misconfigured, self.metrics = Misconfigured(ledger), Metrics(ledger, self.destinations)
        self._deleter: Deleter | None = None
        if settings.delete_after_forward:
            prove = functools.partial(context.transport.prove, loopback)
            is_ours = self.protection.is_by_scripts
            self._deleter = Deleter(name, ledger, loopback, prove, settings.retry, context.trouble, is_ours)
        self.rows = Rows(context, self.destinations, self.metrics, self._deleter)
        self._intake = Intake(context, reports, self._sent, self.rows.gone)
        self.assignment = Assignment(
            *(context, self.router, self.rows, self.destinations, self._sent, self._passed_over),
            *(reports.arrivals, self._deleter),
        )
        self.catch_up = CatchUp(context, self.assignment, NotInLedger(context, self._sent))
        self._alternates = Alternates(context, self.destinations, self._deleter, self.assignment.loops)
        has = context.transport.has
        verifier = Verifier(has, loopback, context.wake) if has else None
        self._verification = Verification(context, self.destinations, self.rows, verifier)
        self._changed = ChangedDeliveries(context, self.destinations, self.rows, self._verification)
        self.jobs = Jobs(context, self.destinations, self.rows, self._verification, self._changed, reports.ended_jobs)
        self._dispatcher = Dispatcher(
            *(context, self.destinations, self._misconfigured, self.rows, self.jobs, self._changed, self._verification),
            Bisection(ledger, loopback),
        )
        self._keep_done_days = max(settings.keep_done_days, KEPT_UNTIL_CHECKED_DAYS if context.transport.check else 0.0)
        self._next_read = self._next_look = 0.0  # monotonic
        reports.open(self._intake.on_event)

    def begin(self) -> str | None:
        """Take the place in the log of changes; return why nothing can be sent, as what Orthanc refuses of the rules, or None."""
        self._intake.begin()
        if self._missing and (why := self._missing()):
            return why
        for name in self._misconfigured.names():
            if name in self.destinations.known():
                self.destinations.health_of(name).identity.used()
        refused = self.router.check()
        self.destinations.hold_unnamed()
        return refused

    def owed(self, resources: set[str]) -> set[str]:
        """Return which studies, of these or any, and patients as a whole, are not delivered."""
        if not self._intake.has_read:
            raise Refused(503, f"{self._name} has not read yet what arrived before Orthanc started")
        self._reports.inbox.flush()
        arriving = self._intake.arriving() if self.destinations.is_any_wanted() else set[str]()
        return self._owing.of(resources) | arriving

    def turn(self) -> float:
        """Do what there is to do, and return the seconds until the next turn."""
        try:
            self._reports.inbox.flush()
            self._say_what_was_lost()
            # A job that has ended is no reason to read the log of changes: only settle it and submit the next.
            is_due = self.catch_up.is_under_way or time.monotonic() >= self._next_read
            if self._reports.has_changes.is_set() or is_due:
                self._reports.has_changes.clear()
                self._intake.read()
                self._protect_arrived()
                self.catch_up.read()
                self.assignment.route()
                self._next_read = time.monotonic() + BUSY_LOOK_SECONDS
            self.jobs.settle_ended()
            self._verification.settle(self.jobs.fail)
            self._changed.settle(self.jobs.cancel_pending)
            self._dispatcher.look_at_destinations()
            self._alternates.look()
            self._dispatcher.submit()
            self._look_around()
        except BaseException:
            self._next_read = 0.0  # what was to be read may be left
            raise
        if self.catch_up.is_under_way:
            return 0.0
        return BUSY_LOOK_SECONDS if self.ledger.totals()["waiting"] else IDLE_SECONDS

    def _say_what_was_lost(self) -> None:
        """Say how much came while the ledger could not be written, beyond what the memory holds; the log of changes has it."""
        if (lost := self._reports.inbox.lost) and not self._settings.reconcile:
            self._reports.inbox.lost -= lost
            orthanc.LogError(
                f"{self._name}: {lost} events came while the ledger could not be written, and there was no room for more: "
                f"what arrived then is not sent by itself (POST /{self._name}/backfill sends it)"
            )

    def _protect_arrived(self) -> None:
        if patients := [*self._intake.patients]:
            if self.destinations.is_any_wanted():
                self.protection.protect(patients)
            self._intake.patients.difference_update(patients)

    def _look_around(self) -> None:
        """Find what no event reported, and tidy up."""
        if time.monotonic() < self._next_look and not self.jobs.is_one_in_doubt:
            return
        self.jobs.reconcile()
        self.ledger.forget_finished(self._keep_done_days)
        self._sent.forget_routed()
        self._forget_deleted()
        has_more = self.protection.look()
        self._next_look = time.monotonic() + (0.0 if has_more else IDLE_SECONDS)

    def _forget_deleted(self) -> None:
        """Forget what was deleted; to overwrite an instance, Orthanc deletes it for a moment."""
        deleted = list(self._reports.deleted)
        here = set(still_here(self._loopback, deleted))
        gone = [each for each in deleted if each not in here]
        self._sent.forget_deleted(gone)
        self._passed_over.forget_deleted(gone)
        for _ in deleted:
            self._reports.deleted.popleft()

    def stop_deleting(self, seconds: float) -> None:
        """End the thread that deletes, and wait for it so long."""
        if self._deleter:
            self._deleter.stop(seconds)
