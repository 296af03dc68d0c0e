# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where events go. Each kind of broker is a module of its own, imported when it is chosen."""

from __future__ import annotations

import dataclasses
import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..events import Event, Form
from ..settings import Named

MODULES = {
    "rabbitmq": "rabbitmq",
    "sqs-sns": "sns",
    "nats": "jetstream",
    "kafka": "librdkafka",
    "webhook": "webhook",
    "file": "lines",
    "log": "log",
}
PACKAGES = {"rabbitmq": "pika", "sqs-sns": "boto3", "nats": "nats-py", "kafka": "confluent-kafka"}


class BrokerAwayError(Exception):
    """The broker can't be reached, or takes nothing now: everything waits."""


class BrokerUnusableError(Exception):
    """This broker can't work until a person changes something here: a package that is missing, a file that is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event: confirmed, or refused for a reason of its own (`final`: it always will be)."""

    row: int
    error: str | None = None
    final: bool = False


class Broker:
    """What a publisher needs of a broker; its thread alone calls all but `wake`.

    This one hands a few events over at a time and waits (`deliver`); those that confirm later have their own `collect`.
    """

    most_under_way = 100
    in_order = False
    """It takes events one after the other and never refuses a single one: then several of one key may be under way."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._waiting: list[Event] = []
        self._woken = threading.Event()

    def open(self) -> None:
        """Connect. Raises `BrokerAwayError`, or `BrokerUnusableError`."""

    def submit(self, event: Event) -> None:
        """Take one event; what becomes of it, `collect` tells."""
        self._waiting.append(event)

    def collect(self, seconds: float) -> list[Outcome]:
        """What became of events; waits at most so long, less if there is something or `wake` is called."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            return self.deliver(waiting)
        self._woken.wait(seconds)
        self._woken.clear()
        return []

    def deliver(self, events: list[Event]) -> list[Outcome]:
        raise NotImplementedError

    def wake(self) -> None:
        """End a waiting `collect`; called by any thread."""
        self._woken.set()

    def details(self) -> dict[str, Any]:
        """More for the status."""
        return {}

    def close(self) -> None:
        """Let go, within a moment."""


def maker(
    named: Named, source: str, default_form: str, folder: Path, say: Callable[[str, str], None]
) -> Callable[[], Broker]:
    """What makes the broker of these settings, in the thread that will use it.

    Raises (when called) `BrokerUnusableError` : what it needs is not installed.
    """
    settings = named.settings

    def make() -> Broker:
        form = Form(settings.format or default_form, source)
        try:
            if form.form == "binary":
                importlib.import_module("cloudevents.core.v1.event")
            module = importlib.import_module(f".{MODULES[settings.type]}", __name__)
        except ImportError as error:
            package = (
                "cloudevents"
                if (error.name or "").startswith("cloudevents")
                else PACKAGES.get(settings.type, error.name)
            )
            raise BrokerUnusableError(
                f"the Python package {package} is missing: pip install -r dicom_events/requirements.txt, as the Dockerfile does"
            ) from None
        broker: Broker = module.make(form, named.config, folder, say)
        return broker

    return make
