# SPDX-License-Identifier: AGPL-3.0-or-later
"""A library for a script of your own: when this happens in Orthanc, run these functions.

    import logging

    import orthanc
    from event_dispatcher import create_session, register_event_handlers

    def hello(event, session):
        logging.warning("%s: this is Orthanc %s", event, session.get("/system").json()["Version"])

    register_event_handlers({orthanc.ChangeType.ORTHANC_STARTED: hello}, orthanc, create_session(orthanc))

Put this file beside your script, which Orthanc loads. Handlers may be plain functions, coroutines, or a `pipeline` of them;
they run on threads and an event loop of their own, so that Orthanc never waits for them. What one raises is logged with its
name. With `at_least_once="my_script"` an event stands on disk until its handlers have ended without an error.

It registers nothing by itself, and needs the package httpx (pip install httpx; the Dockerfile has it). All of it, and how to
test your handlers without a server: docs/event_dispatcher.md.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401
from collections.abc import Callable, Iterable, Mapping
from typing import Any

try:
    import orthanc
except ImportError:  # a test without a server, which gives `register_event_handlers` a stand-in
    orthanc = None  # type: ignore[assignment]

try:
    import httpx
except ImportError:
    raise ImportError("event_dispatcher.py needs the package httpx: pip install httpx; the Dockerfile has it") from None

from event_dispatcher.at_least_once import AtLeastOnce
from event_dispatcher.dispatcher import Dispatcher
from event_dispatcher.events import ChangeEvent, Handler, is_coroutine, names_of, pipeline
from event_dispatcher.executor import Executor
from event_dispatcher.gate import SDK
from event_dispatcher.helpers import first_instance, first_instance_metadata, first_instance_tags, parents
from event_dispatcher.internal_client import create_internal_client
from event_dispatcher.logs import orthanc_logging, python_logging
from event_dispatcher.sessions import ClientType, create_session

__version__ = "0.1.0"

__all__ = [
    "AtLeastOnce",
    "ChangeEvent",
    "ClientType",
    "Dispatcher",
    "Executor",
    "Handler",
    "create_internal_client",
    "create_session",
    "first_instance",
    "first_instance_metadata",
    "first_instance_tags",
    "orthanc_logging",
    "parents",
    "pipeline",
    "python_logging",
    "register_event_handlers",
]


def register_event_handlers(
    handlers: Mapping[int, Handler | Iterable[Handler]],
    orthanc: Any,
    session: Any,
    async_session: Any = None,
    *,
    executor: Executor | None = None,
    at_least_once: str | AtLeastOnce | None = None,
    logging_configuration: Callable[[Any], object] | None = None,
) -> Dispatcher:
    """Run handlers when something happens in Orthanc. Once in a script, for Orthanc grants one OnChange callback.

    Parameters
    ----------
    handlers : of each `orthanc.ChangeType`, one handler or several. A handler gets `(event, session)`: a `ChangeEvent`, and
        the session that is given here, a coroutine the asynchronous one.
    orthanc : the module; in a test, the stand-in `OrthancApiHandler`, whose `on_change` gives back what they returned.
    session, async_session : from `create_session` or `create_internal_client`, or whatever your handlers want. If there are
        coroutines and no asynchronous session, one is created.
    executor : how many run at a time, and in which order.
    at_least_once : a name of your own for the ledger in which events stand until they are handled, or `AtLeastOnce`.
    logging_configuration : where Python's `logging` goes: `orthanc_logging` (the default) or `python_logging`.

    Raises
    ------
    ValueError : a change type that Orthanc does not know; or `at_least_once` without Orthanc's HTTP server.
    """
    (logging_configuration or orthanc_logging)(orthanc)
    known = names_of(orthanc.ChangeType)
    if unknown := [each for each in handlers if each not in known]:
        raise ValueError(f"handlers: found {unknown[0]!r}, allowed: one of orthanc.ChangeType")
    listed: dict[int, list[Handler]] = {
        known[key]: [value] if callable(value) else list(value) for key, value in handlers.items()
    }
    if async_session is None and any(is_coroutine(each) for several in listed.values() for each in several):
        async_session = create_session(orthanc, httpx.AsyncClient)
    if isinstance(at_least_once, str):
        at_least_once = AtLeastOnce(at_least_once)
    SDK.open()
    dispatcher = Dispatcher(listed, orthanc, (session, async_session), executor or Executor(), at_least_once)
    KEPT_ALIVE.append(dispatcher.on_change)
    orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-1])
    return dispatcher


# What Orthanc calls must live as long as the process: 1.12.7 and later crash at shutdown otherwise.
KEPT_ALIVE: list[Any] = []
