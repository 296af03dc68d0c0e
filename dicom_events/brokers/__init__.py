# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/brokers/__init__.py: edit that, never this file.
"""Where events go. Each kind of broker is a module of its own, imported when it is chosen."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib
import importlib.metadata
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from .._common.outside import REQUESTS
from .._common.packages import package_problem

from ..events import Event, Form
from ..named import Named
from ..quiet import quiet_libraries

MODULES = {
    "rabbitmq": "rabbitmq",
    "sqs-sns": "sns",
    "nats": "jetstream",
    "kafka": "librdkafka",
    "webhook": "webhook",
    "file": "lines",
    "log": "log",
}
PACKAGES = {  # for pip, the oldest version that works, for apt
    "rabbitmq": ("pika", "1.2", "python3-pika"),
    "sqs-sns": ("boto3", "1.26", "python3-boto3"),
    "nats": ("nats-py", "2.16", ""),
    "kafka": ("confluent-kafka", "1.7", "python3-confluent-kafka"),
    "webhook": REQUESTS,
}


class BrokerAwayError(Exception):
    """The broker can't be reached, or takes nothing now: everything waits."""


class BrokerUnusableError(Exception):
    """This broker can't work until a person changes something here: a package that is missing, a file that is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event: confirmed, or refused for a reason of its own (`final`: it always will be).

    `unroutable` : nobody has a queue for it now.
    """

    row: int
    error: str | None = None
    final: bool = False
    unroutable: bool = False


Submitted: TypeAlias = tuple[Event, Any]  # an event, and what is sent of it


def failure(event: Event, error: Exception) -> Outcome:
    """Return what becomes of an event that could not be formed or handed over: the same would happen the next time."""
    return Outcome(event.row, f"it can't be sent: {type(error).__name__}: {error}", final=True)


class Broker(abc.ABC):
    """What a publisher needs of a broker; its thread alone calls all but `wake`."""

    most_under_way = 100
    in_order = False
    """It takes events one after the other and never refuses a single one: then several of one key may be under way."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._waiting: list[Submitted] = []
        self._woken = threading.Event()

    def open(self) -> None:  # noqa: B027 - some have nothing to open
        """Connect. Raises `BrokerAwayError`, or `BrokerUnusableError`."""

    def message(self, event: Event) -> Any:
        """Return what is sent of an event. Whatever this raises is the failure of this event alone."""
        return self.form.message(event)

    def submit(self, event: Event, message: Any) -> None:
        """Take one event, as `message` gave it; `collect` returns what becomes of it.

        Raises `BrokerAwayError`; whatever else it raises is the failure of this event alone.
        """
        self._waiting.append((event, message))

    @abc.abstractmethod
    def collect(self, seconds: float) -> list[Outcome]:
        """Return what became of events; wait at most so long, less if there is something or `wake` is called."""

    def wake(self) -> None:
        """End a waiting `collect`; called by any thread."""
        self._woken.set()

    def details(self) -> dict[str, Any]:
        """Return more for the status."""
        return {}

    def close(self) -> None:  # noqa: B027 - nor to close
        """Let go, within a moment."""


class PromptBroker(Broker):
    """One that takes events at once, or not at all."""

    def collect(self, seconds: float) -> list[Outcome]:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            return self.deliver(waiting)
        self._woken.wait(seconds)
        self._woken.clear()
        return []

    @abc.abstractmethod
    def deliver(self, events: list[Submitted]) -> list[Outcome]:
        """Hand events over; return what became of each."""


class ThreadedBroker(Broker):
    """One whose calls block: a few daemon threads make them, so that a slow answer holds up only its own series.

    Daemons, as what a pool of `concurrent.futures` starts would be waited for when Orthanc ends.
    """

    threads = 1
    away: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, form: Form) -> None:
        super().__init__(form)
        self._work: queue.SimpleQueue[list[Submitted] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[list[Outcome] | BrokerAwayError] = queue.SimpleQueue()

    def start_threads(self) -> None:
        for number in range(self.threads):
            name = f"dicom_events {type(self).__name__} {number}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

    def batches(self, events: list[Submitted]) -> list[list[Submitted]]:
        """Return which events are sent together."""
        return [[event] for event in events]

    @abc.abstractmethod
    def call(self, events: list[Submitted]) -> list[Outcome]:
        """Hand one batch over, in one of the threads.

        One of the exceptions in `away` means that the broker is; any other is the failure of the event, if it is alone.
        """

    def end_call(self) -> None:
        """Let go of what a thread holds: it ends, or a call in it has failed."""

    def collect(self, seconds: float) -> list[Outcome]:
        waiting, self._waiting = self._waiting, []
        for batch in self.batches(waiting):
            self._work.put(batch)
        outcomes: list[Outcome] = []
        try:
            found = self._results.get(timeout=seconds)
            while not isinstance(found, BrokerAwayError):
                outcomes += found
                found = self._results.get_nowait()
        except queue.Empty:
            return outcomes
        if not outcomes:
            raise found
        self._results.put(found)  # what is settled comes first
        return outcomes

    def _run(self) -> None:
        while (batch := self._work.get()) is not None:
            try:
                self._results.put(self.call(batch))
            except BrokerAwayError as error:
                self.end_call()
                self._results.put(error)
            except self.away as error:
                self.end_call()
                self._results.put(BrokerAwayError(f"{type(error).__name__}: {error}"))
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread takes the next event
                self.end_call()
                if len(batch) > 1:
                    for each in batch:
                        self._work.put([each])
                else:
                    self._results.put([failure(batch[0][0], error)])
        self.end_call()

    def wake(self) -> None:
        self._results.put([])

    def close(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()
        for _ in range(self.threads):
            self._work.put(None)


def _too_old(package: str, least: str, debian: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # it works without its metadata too
        return package_problem(package, least, importlib.metadata.version(package), debian)
    return None


def maker(
    named: Named, source: str, default_form: str, folder: Path, say: Callable[[str, str], None]
) -> Callable[[], Broker]:
    """Return what makes the broker of these settings, in the thread that will use it.

    Raises (when called) `BrokerUnusableError` : what it needs is not installed.
    """
    settings = named.settings

    def make() -> Broker:
        form = Form(settings.format or default_form, source)
        quiet_libraries()
        try:
            module = importlib.import_module(f".{MODULES[settings.type]}", __name__)
        except ImportError as error:
            package, least, debian = PACKAGES.get(settings.type, (str(error.name), "0", ""))
            raise BrokerUnusableError(str(package_problem(package, least, None, debian))) from None
        if settings.type in PACKAGES and (problem := _too_old(*PACKAGES[settings.type])):
            raise BrokerUnusableError(problem)
        broker: Broker = module.make(form, named.config, folder, say)
        return broker

    return make
