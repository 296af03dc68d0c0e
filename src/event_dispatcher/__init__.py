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
name. With `at_least_once="my_script"` an event is on disk until its handlers have ended without an error.

It registers nothing by itself, and needs the package httpx, 0.23 or newer (apt install python3-httpx, or as docs/install.md
says). All of it, and how to test your handlers without a server: docs/event_dispatcher.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

try:
    import orthanc
except ImportError:  # a test without a server, which gives `register_event_handlers` a stand-in
    orthanc = None  # type: ignore[assignment]

try:
    import httpx
except ImportError:
    raise ImportError(
        "event_dispatcher.py needs the Python package httpx, 0.23 or newer (found none). Install it: apt install python3-httpx, "
        'or a virtual environment as in docs/install.md, "Packages" (the Dockerfile installs it); then restart Orthanc'
    ) from None

from common.metrics import MetricsReporter, OnChangeCallback
from common.packages import package_problem
from common.quirks import kept_alive
from common.version import __version__  # noqa: F401
from event_dispatcher.at_least_once import AtLeastOnce
from event_dispatcher.dispatcher import Dispatcher, OnChange
from event_dispatcher.events import ChangeEvent, Handler, check_handler, is_coroutine, names_of, pipeline
from event_dispatcher.executor import Executor
from event_dispatcher.gate import SDK
from event_dispatcher.helpers import first_instance, first_instance_metadata, first_instance_tags, parents
from event_dispatcher.internal_client import create_internal_client
from event_dispatcher.logs import orthanc_logging, python_logging
from event_dispatcher.sessions import ClientType, HttpxClientType, create_session

__all__ = [
    "AtLeastOnce",
    "ChangeEvent",
    "ClientType",
    "Dispatcher",
    "Executor",
    "Handler",
    "HttpxClientType",
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

if HTTPX_PROBLEM := package_problem("httpx", "0.23", httpx.__version__, "python3-httpx"):
    raise ImportError(f"event_dispatcher.py stays idle: {HTTPX_PROBLEM}")

CHANGE_CALLBACKS: list[OnChange] = []
OTHER_NAMES = {
    "handlers": "event_handlers",
    "orthanc": "orthanc_module",
    "session": "sync_client",
    "requests_session": "sync_client",
    "async_session": "async_client",
}


def register_event_handlers(
    event_handlers: Mapping[int, Handler | Iterable[Handler]] | None = None,
    orthanc_module: Any = None,
    sync_client: Any = None,
    async_client: Any = None,
    *,
    executor: Executor | None = None,
    at_least_once: str | AtLeastOnce | None = None,
    logging_configuration: Callable[[Any], object] | None = None,
    **other_names: Any,
) -> Dispatcher:
    """Run handlers when something happens in Orthanc. A second call adds to the first.

    Parameters
    ----------
    event_handlers : of each `orthanc.ChangeType`, one handler or several. A handler gets `(event, session)`: a `ChangeEvent`,
        and the session that is given here, a coroutine the asynchronous one.
    orthanc_module : `orthanc`; in a test, the stand-in `OrthancApiHandler`, whose `on_change` gives back what they returned.
    sync_client, async_client : sessions, from `create_session` or `create_internal_client`, or whatever your handlers want.
        If there are coroutines and no asynchronous session, one is created.
    executor : how many run at a time, and in which order.
    at_least_once : a name of your own for the ledger in which events are kept until they are handled, or `AtLeastOnce`.
    logging_configuration : where Python's `logging` goes: `orthanc_logging` (the default) or `python_logging`.
    other_names : the first four are also taken by the names `handlers`, `orthanc`, `session` and `async_session`.

    Raises
    ------
    ValueError : a change type that Orthanc does not know; what is no handler; or `at_least_once` without Orthanc's HTTP
        server, or with the name of another call.
    """
    given = _by_our_names(
        {
            "event_handlers": event_handlers,
            "orthanc_module": orthanc_module,
            "sync_client": sync_client,
            "async_client": async_client,
        },
        other_names,
    )
    module, session, async_session = given["orthanc_module"], given["sync_client"], given["async_client"]
    (logging_configuration or orthanc_logging)(module)
    handlers = _listed(given["event_handlers"], names_of(module.ChangeType))
    if async_session is None and any(is_coroutine(each) for several in handlers.values() for each in several):
        async_session = create_session(module, httpx.AsyncClient)
    if isinstance(at_least_once, str):
        at_least_once = AtLeastOnce(at_least_once)
    SDK.open()
    dispatcher = Dispatcher(handlers, module, (session, async_session), executor or Executor(), at_least_once)
    _listen(module, dispatcher)
    if module is orthanc:
        dispatcher.register_status()
    return dispatcher


def _by_our_names(given: dict[str, Any], other_names: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in other_names.items():
        if name == "handler_executor":
            raise TypeError("register_event_handlers: found handler_executor, allowed: executor=Executor(…)")
        if name not in OTHER_NAMES:
            allowed = ", ".join([*given, *OTHER_NAMES, "executor", "at_least_once", "logging_configuration"])
            raise TypeError(f"register_event_handlers: found {name}, allowed: {allowed}")
        if given[OTHER_NAMES[name]] is not None:
            raise TypeError(f"register_event_handlers: found both {name} and {OTHER_NAMES[name]}, allowed: one of them")
        given[OTHER_NAMES[name]] = value
    for name in ("event_handlers", "orthanc_module"):
        if given[name] is None:
            raise TypeError(f"register_event_handlers: {name} is missing")
    return given


def _listed(handlers: Mapping[int, Handler | Iterable[Handler]], known: Mapping[int, int]) -> dict[int, list[Handler]]:
    """Return the handlers of each change type as a list; raise ValueError for what can't be one."""
    if unknown := [each for each in handlers if each not in known]:
        raise ValueError(f"handlers: found {unknown[0]!r}, allowed: one of orthanc.ChangeType")
    listed: dict[int, list[Handler]] = {}
    for key, value in handlers.items():
        listed[known[key]] = list(value) if isinstance(value, Iterable) and not callable(value) else [value]
        for handler in listed[known[key]]:
            check_handler(handler)
    return listed


def _listen(orthanc_module: Any, dispatcher: Dispatcher) -> None:
    """Let a dispatcher get changes: Orthanc grants one callback, which all dispatchers share."""
    on_change = OnChange(orthanc_module)
    on_change.add(dispatcher)
    try:
        listener = _with_metrics(on_change) if orthanc_module is orthanc else on_change
        orthanc_module.RegisterOnChangeCallback(kept_alive(listener))
    except RuntimeError:  # it has one
        ours = [each for each in CHANGE_CALLBACKS if each.orthanc is orthanc_module]
        if not ours:
            raise
        ours[-1].add(dispatcher)
    else:
        CHANGE_CALLBACKS.append(on_change)


def _with_metrics(on_change: OnChange) -> OnChangeCallback:
    return MetricsReporter("event_dispatcher", on_change.look, on_change.measure).around(on_change)
