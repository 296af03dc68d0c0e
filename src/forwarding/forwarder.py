# SPDX-License-Identifier: AGPL-3.0-or-later
"""A forwarder as Orthanc sees it: its callbacks, its thread, and its state. What it does is in `Engine`."""

import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Any

import orthanc

from common.database import shared_database_of
from common.http_threads import HttpTurns
from common.ledger import Ledger
from common.loopback import Loopback
from common.metrics import listen_to_changes
from common.open_ledger import open_ledger
from common.quirks import kept_alive
from common.state import configuration_folder
from common.status import ListedScript
from common.worker import STOPS_WITHIN, Worker
from forwarding.context import Context
from forwarding.engine import ENGINE_TABLES, IDLE_SECONDS, Engine
from forwarding.gone import about_recycling, recycling_of
from forwarding.intake import Reports
from forwarding.passed_over import changing_levels
from forwarding.routing import load_matcher
from forwarding.rules import ForwardingRule
from forwarding.settings import ForwardingSettings, may_repeat, section_of
from forwarding.tasks import FIRST_TASKS
from forwarding.transports import Transport

EVENTS = ("ORTHANC_STARTED", "ORTHANC_STOPPED", "NEW_INSTANCE", "DELETED", "JOB_SUCCESS", "JOB_FAILURE")


class Forwarder:
    """Sends what arrives, so that it arrives although Orthanc is killed and destinations are away.

    Each (resource, destination) is a row of the ledger before anything is sent. An attempt is an asynchronous job, whose
    end settles the row; a failed one is sent again with back-off. One thread does all that, woken by `on_change`.

    Parameters
    ----------
    name : of the script, with dashes: of its routes, its thread and its ledger.
    settings : the script's.
    configuration : Orthanc's.
    """

    engine: Engine
    """As soon as the ledger is open."""

    def __init__(
        self, name: str, transport: Transport, settings: ForwardingSettings, configuration: Mapping[str, Any]
    ) -> None:
        self.name, self.transport, self._configuration = name, transport, configuration
        database = shared_database_of(
            configuration, settings.state_path, reconcile=settings.reconcile, section=section_of(name)
        )
        self.server = database.server if database else None
        """The name of this one, where several servers share the state."""
        self.settings = settings = dataclasses.replace(settings, reconcile=True) if database else settings
        self.loopback, self.turns = Loopback(configuration), HttpTurns(configuration)
        self.rules: tuple[ForwardingRule, ...] = (
            (ForwardingRule(name="all"),) if settings.rules is None else settings.rules
        )
        self.worker = Worker(name, self._open, self._turn, lose=self._lose)
        self.wake = self.worker.wake
        at_once, overwrites = settings.trigger == "Stored", may_repeat(configuration)
        soon = at_once or settings.protect_undelivered
        self._reports = Reports(
            self.wake,
            overwrites=overwrites,
            at_once=soon,
            reconcile=settings.reconcile,
            remembered=changing_levels(self.rules),
        )
        self._destinations_changed = threading.Event()
        self._has_begun = False
        stable = {f"STABLE_{rule.level.upper()}" for rule in self.rules}
        names = {*EVENTS, *stable, *((transport.changed,) if transport.changed else ())}
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in names}

    def register(self, script: ListedScript) -> None:
        """Register what Orthanc calls; `script` is the entry of this one."""
        if limits := recycling_of(self._configuration):
            orthanc.LogWarning(f"{self.name}: {about_recycling(limits, self.settings)}")
        listen_to_changes(script, self.on_change, lambda: self.engine.metrics.measure())
        orthanc.RegisterOnStoredInstanceCallback(kept_alive(self._reports.arrivals.stored))

    def on_change(self, change: int, level: int, resource: str) -> None:
        """Take an event of Orthanc's; return at once."""
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self._stop()
        elif event is None:
            return
        elif event == self.transport.changed:
            self._destinations_changed.set()
            self.wake.set()
        elif not self.worker.is_off and not self.worker.worked_by:
            self._reports.on_event(event, level, resource)

    def _open(self) -> Ledger:
        if not self.loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        matchers = {
            rule.matcher: load_matcher(rule.matcher, configuration_folder()) for rule in self.rules if rule.matcher
        }
        ledger = open_ledger(
            *(self.name.replace("-", "_"), self._configuration, self.settings.state_path, ENGINE_TABLES),
            durability=self.settings.durability,
            first_tasks=FIRST_TASKS,
        )
        if self.server:
            self._reports.forget()
        if ledger.is_new:
            orthanc.LogWarning(_about_new_ledger(self.name, ledger))
        try:
            context = Context(
                *(self.name, self.transport, self.settings, self._configuration, self.rules),
                *(self.loopback, ledger, self.wake, self.worker.stopping, self.worker.trouble),
            )
            self.engine = Engine(context, matchers, self._reports, self._destinations_changed)
        except BaseException:
            ledger.close()  # the next try opens it again
            raise
        return ledger

    def _lose(self) -> None:
        self._has_begun = False
        self.engine.stop_deleting(STOPS_WITHIN)

    def _stop(self) -> None:
        self.worker.stopping.set()
        self.wake.set()
        until = time.monotonic() + STOPS_WITHIN
        if hasattr(self, "engine"):
            self.engine.stop_deleting(STOPS_WITHIN)
        self.worker.stop(until - time.monotonic())

    def _turn(self) -> float:
        if not self._has_begun:
            self._begin()
            self._has_begun = True
        return IDLE_SECONDS if self.worker.is_off else self.engine.turn()

    def _begin(self) -> None:
        if refused := self.engine.begin():
            self.worker.turn_off(f"{section_of(self.name)}.{refused}. {self.name} is idle until this is corrected.")
            self.engine.stop_deleting(0)


def _about_new_ledger(name: str, ledger: Ledger) -> str:
    why = f"was corrupt and is kept as {ledger.quarantined_to}" if ledger.quarantined_to else "is new"
    return (
        f"{name}: the ledger {ledger.where} {why}; what arrives from now on is forwarded, "
        f"nothing that the archive holds already (POST /{name}/backfill does that)"
    )
