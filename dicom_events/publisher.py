# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/publisher.py: edit that, never this file.
"""One thread for each broker: takes events from the outbox in order, and settles what the broker confirmed."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ._common.backoff import Backoff

from .brokers import Broker, BrokerAwayError, BrokerUnusableError, failure
from .delivery import Delivery
from .events import Event
from .health import Health
from .named import Named
from .outbox import Outbox

LINGER_SECONDS = 0.02  # in which events come together, so that not each wakes a thread
IDLE_SECONDS = 1.0
BUSY_SECONDS = 0.2  # that a broker is waited for while events are under way
RECONNECT = Backoff(first=0.5, longest=30.0)  # seconds until a broker that is away is tried again


class Publisher:
    """Connects to one broker, again and again, and publishes to it what `Delivery` gives."""

    def __init__(
        self,
        named: Named,
        outbox: Outbox,
        make: Callable[[], Broker],
        say: Callable[[str, str], None],
        secrets: Sequence[str],
    ) -> None:
        self.name, self.settings, self.complaint = named.name, named.settings, named.complaint
        self.type, self._bound = named.settings.type, named.bound
        self._outbox, self._make, self._say = outbox, make, say
        self._health = Health(named.name, say, secrets)
        self._broker: Broker | None = None
        self._delivery: Delivery | None = None
        self._stopping, self._idle, self._asked_again, self._opening = threading.Event(), True, False, False
        self._thread = threading.Thread(target=self._run, name=f"dicom_events {self.name}", daemon=True)

    def start(self) -> None:
        if self.complaint:
            return
        self._outbox.on_complete.append(self.wake)
        self._thread.start()

    def wake(self) -> None:
        """Let the thread look for events, if it waits for some."""
        if self._idle and (broker := self._broker):
            self._idle = False
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # it is closing: it looks again by itself
                broker.wake()

    def retry_letters(self) -> None:
        """Let letters be tried now."""
        self._asked_again = True
        self._idle = True
        self.wake()

    def stop(self) -> None:
        self._stopping.set()
        if broker := self._broker:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                broker.wake()

    def join(self, until: float) -> None:
        """Wait for the thread, until that time (`time.monotonic()`)."""
        # One that is still connecting has nothing to settle, and may take long.
        while self._thread.is_alive() and not self._opening and (left := until - time.monotonic()) > 0:
            self._thread.join(min(left, 0.1))

    def status(self) -> dict[str, Any]:
        """Return what the status says of the broker."""
        if not self._bound:
            return {"Type": self.type, "State": "misconfigured", "Backlog": 0, "LastError": self.complaint}
        totals = self._outbox.totals(self.name)
        if self.complaint:
            return {"Type": self.type, "State": "misconfigured", **totals, "LastError": self.complaint}
        broker = self._broker
        return {
            "Type": self.type,
            "State": "connected" if self._health.is_connected else "away",
            **totals,
            "Rate": round(self._health.rate, 1),
            "LastError": self._health.last_error or None,
            **(broker.details() if broker else {}),
        }

    # The thread

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                broker, delivery = self._connect()
                while not self._stopping.is_set():
                    self._turn(broker, delivery)
                    if self._health.is_connected:
                        failures = 0
            except BrokerUnusableError as error:
                self.complaint = self._health.hidden(error)
                self._say("error", f'dicom_events: broker "{self.name}" is off: {self.complaint}')
                self._outbox.on_complete.remove(self.wake)
                break
            except (BrokerAwayError, sqlite3.Error, OSError) as error:
                self._on_disconnected(error)
            except Exception:  # noqa: BLE001 - one broker's fault ends no other's work
                self._on_disconnected(traceback.format_exc())
            self._disconnect()
            failures += 1
            self._stopping.wait(RECONNECT.delay(failures))
        self._disconnect()

    def _connect(self) -> tuple[Broker, Delivery]:
        broker = self._broker = self._make()
        self._opening = True
        try:
            broker.open()
        finally:
            self._opening = False
        delivery = self._delivery = Delivery(*(self._outbox, self.name, self.settings, broker.in_order, self._health))
        return broker, delivery

    def _on_disconnected(self, error: object) -> None:
        self._health.on_disconnected(self._health.hidden(error), is_ending=self._stopping.is_set())

    def _disconnect(self) -> None:
        broker, self._broker, self._health.is_connected = self._broker, None, False
        delivery, self._delivery = self._delivery, None
        if delivery:
            delivery.close()
        if broker:
            try:
                broker.close()
            except Exception as error:  # noqa: BLE001 - it is gone either way
                self._health.last_error = self._health.hidden(error)

    def _turn(self, broker: Broker, delivery: Delivery) -> None:
        self._idle = False
        delivery.fill()
        asked_again, self._asked_again = self._asked_again, False
        delivery.take_letters(now=asked_again)
        while event := delivery.next_event(broker.most_under_way):
            self._submit(broker, delivery, event)
        busy = delivery.is_busy
        if delivery.has_all:
            delivery.settle(now=True)
            self._idle = True
            if delivery.read_page():  # something came after we looked and before we said that we sleep
                return
        outcomes = broker.collect(BUSY_SECONDS if busy else IDLE_SECONDS)
        if outcomes or not busy:  # a server that takes requests, and answers none, is still away
            self._health.on_connected()
        for outcome in outcomes:
            delivery.on_outcome(outcome)
        delivery.settle(now=False)
        if not busy and not self._stopping.is_set():
            self._stopping.wait(LINGER_SECONDS)

    def _submit(self, broker: Broker, delivery: Delivery, event: Event) -> None:
        """Hand one event over. One that can't be formed, or that the client does not take, holds up no other."""
        try:
            broker.submit(event, broker.message(event))
        except BrokerAwayError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is
            delivery.on_outcome(failure(event, error))
