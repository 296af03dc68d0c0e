# SPDX-License-Identifier: AGPL-3.0-or-later
"""event_dispatcher.py without a server: handlers that misbehave, several registrations, names from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import re
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

import event_dispatcher
from event_dispatcher import (
    AtLeastOnce,
    ChangeEvent,
    ClientType,
    Executor,
    HttpxClientType,
    create_internal_client,
    create_session,
    orthanc_logging,
    pipeline,
    python_logging,
    register_event_handlers,
)
from testing.standin import OrthancApiHandler, StandIn
from testing.waiting import wait_until

orthanc = OrthancApiHandler()
NEW_STUDY = orthanc.ChangeType.NEW_STUDY
STABLE_STUDY = orthanc.ChangeType.STABLE_STUDY
STOPPED = orthanc.ChangeType.ORTHANC_STOPPED
STUDY = orthanc.ResourceType.STUDY


@pytest.fixture(autouse=True)
def as_if_just_loaded() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    event_dispatcher.SDK.open()  # type: ignore[attr-defined]  # a test before this one has stopped its Orthanc
    yield
    root.handlers[:], root.level = handlers, level


# What a handler does to the event loop


async def cancels_all(*_: Any) -> None:
    for task in asyncio.all_tasks():
        task.cancel()


async def stops_the_loop(*_: Any) -> None:
    asyncio.get_running_loop().stop()


async def exits_in_a_task(*_: Any) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    await asyncio.wait([asyncio.ensure_future(leave())])


async def waits(*_: Any) -> str:
    await asyncio.sleep(0.2)
    return "waited"


@pytest.mark.parametrize("culprit", [cancels_all, stops_the_loop, exits_in_a_task])
@pytest.mark.parametrize("in_order", [False, True])
def test_whatever_a_coroutine_does_to_the_event_loop_later_events_reach_coroutines_and_functions(
    caplog: pytest.LogCaptureFixture, culprit: Callable[..., Any], in_order: bool
) -> None:
    handlers: dict[int, Any] = {NEW_STUDY: [waits, culprit], STABLE_STUDY: [waits, lambda *_: "ran"]}
    register_event_handlers(handlers, orthanc, None, "any", executor=Executor(in_order=in_order))
    orthanc.on_change(NEW_STUDY, STUDY, "1")
    assert orthanc.on_change(STABLE_STUDY, STUDY, "1") == ["waited", "ran"]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    if culprit is cancels_all:
        assert any(each.startswith("waits failed on ChangeEvent(change_type=NEW_STUDY") for each in said)
    else:
        (line,) = [each for each in said if "the event loop" in each]
        assert "which begins again; running: " in line
        assert culprit.__name__ in line


def test_a_closed_event_loop_is_replaced_and_what_ran_on_it_is_told_by_name(caplog: pytest.LogCaptureFixture) -> None:
    class Closer(logging.Handler):
        """Closes the loop at the one moment when it can be closed: between its end and its new beginning."""

        loop: asyncio.AbstractEventLoop

        def emit(self, record: logging.LogRecord) -> None:
            if "stopped the event loop" in record.getMessage() and not self.loop.is_running():
                self.loop.close()

    closer = Closer()

    async def hangs(*_: Any) -> None:
        closer.loop = asyncio.get_running_loop()
        await asyncio.sleep(3600)

    handlers: dict[int, Any] = {NEW_STUDY: [hangs, stops_the_loop], STABLE_STUDY: waits}
    register_event_handlers(handlers, orthanc, None, "any")
    logging.getLogger().addHandler(closer)
    assert str(orthanc.on_change(NEW_STUDY, STUDY, "1")[0]) == "a handler closed the event loop"
    assert orthanc.on_change(STABLE_STUDY, STUDY, "1") == ["waited"]
    assert re.search(r"hangs failed on ChangeEvent\(change_type=NEW_STUDY", caplog.text)


def test_a_thread_of_a_coroutine_that_hangs_keeps_no_process_from_ending() -> None:
    where = []

    async def looks(*_: Any) -> None:
        where.append(await asyncio.to_thread(threading.current_thread))

    register_event_handlers({NEW_STUDY: looks}, orthanc, None, "any")
    orthanc.on_change(NEW_STUDY, STUDY, "1")
    assert [thread.daemon for thread in where] == [True]


def test_a_coroutine_that_blocks_the_event_loop_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_dispatcher, "BLOCKED_SECONDS", 0.1)
    release = threading.Event()

    async def blocks(*_: Any) -> None:
        release.wait(20)

    dispatcher = register_event_handlers({NEW_STUDY: blocks}, orthanc, None, "any")
    futures = []
    for number in range(5):
        futures += dispatcher.on_change(NEW_STUDY, STUDY, str(number))
        time.sleep(0.15)
    release.set()
    for future in futures:
        future.result(10)
    (said,) = [each for each in caplog.messages if "has blocked the event loop" in each]
    assert said.endswith("blocks")


# What is no handler


def generator(*_: Any) -> Iterator[int]:
    yield 1


async def asynchronous_generator(*_: Any) -> AsyncIterator[int]:
    yield 1


class Yields:
    def __call__(self, *_: Any) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    "wrong",
    [generator, asynchronous_generator, Yields(), functools.partial(generator, 1)],
    ids=["generator", "async", "object", "partial"],
)
def test_a_generator_function_is_refused_when_it_is_registered(wrong: Any) -> None:
    for register in (lambda: register_event_handlers({NEW_STUDY: [waits, wrong]}, orthanc), lambda: pipeline(wrong)):
        with pytest.raises(ValueError, match=r"handlers: found \w+, a generator function .* allowed: a function or"):
            register()


def test_what_nobody_can_call_is_refused_when_it_is_registered() -> None:
    with pytest.raises(ValueError, match="handlers: found 'print', allowed: a function or a coroutine function"):
        register_event_handlers({NEW_STUDY: ["print"]}, orthanc)  # type: ignore[list-item]


def test_a_function_that_returns_a_generator_has_failed() -> None:
    register_event_handlers({NEW_STUDY: lambda *_: generator()}, orthanc)
    (error,) = orthanc.on_change(NEW_STUDY, STUDY, "1")
    assert "returned a generator, which nobody runs" in str(error)


# Several registrations


def test_a_second_registration_adds_to_the_first_and_both_end() -> None:
    standin = StandIn()
    ended = []

    def late(*_: Any) -> None:
        ended.append(event_dispatcher.SDK.is_open)  # type: ignore[attr-defined]

    with standin.installed():
        for name in ("one", "two"):
            handlers = {NEW_STUDY: lambda *_, name=name: name, STOPPED: late}
            register_event_handlers(handlers, standin.module, executor=Executor(stop_within=0.5))
        assert standin.change(NEW_STUDY, STUDY, "1") == ["one", "two"]
        standin.change(STOPPED, orthanc.ResourceType.NONE, "")
    assert ended == [True, True]
    assert not event_dispatcher.SDK.is_open  # type: ignore[attr-defined]


def test_a_callback_of_the_scripts_own_is_not_replaced() -> None:
    standin = StandIn()
    with standin.installed():
        standin.module.RegisterOnChangeCallback(lambda *_: None)
        with pytest.raises(RuntimeError, match="Can only register one Python on-changes callback"):
            register_event_handlers({NEW_STUDY: waits}, standin.module, None, "any")


def test_two_registrations_do_not_share_a_ledger() -> None:
    standin = StandIn()
    with standin.installed():
        register_event_handlers({}, standin.module, at_least_once="mine")
        register_event_handlers({}, standin.module, at_least_once="other")
        with pytest.raises(ValueError, match="at_least_once: found 'mine' a second time, allowed: a name of its own"):
            register_event_handlers({}, standin.module, at_least_once=AtLeastOnce("mine"))


# At least once


def test_events_that_come_while_others_are_written_down_are_written_down_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 5_000
    standin = OrthancApiHandler({"HttpPort": 1, "StorageDirectory": str(tmp_path)})  # nobody answers there
    standin.returns["GetConfigurationPath"] = str(tmp_path)
    monkeypatch.setattr(event_dispatcher, "orthanc", standin)
    deleted = orthanc.ChangeType.DELETED
    register_event_handlers({deleted: lambda *_: None}, standin, at_least_once="mine")
    standin.on_change(orthanc.ChangeType.ORTHANC_STARTED)
    wait_until(lambda: (tmp_path / "mine.sqlite").exists(), what="open the ledger")
    for each in range(number):
        assert standin.on_change(deleted, STUDY, str(each)) == []
    standin.on_change(STOPPED)
    with contextlib.closing(sqlite3.connect(tmp_path / "mine.sqlite")) as ledger:
        rows = ledger.execute("SELECT subject FROM work ORDER BY id").fetchall()
    assert [subject for (subject,) in rows] == [str(each) for each in range(number)]


# Logging


ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2028E1127 forged\x00"


@pytest.mark.parametrize("how", [orthanc_logging, python_logging])
def test_what_an_exception_says_moves_no_cursor_and_forges_no_line(
    capsys: pytest.CaptureFixture[str], how: Callable[..., object]
) -> None:
    standin = OrthancApiHandler()

    def fails(*_: Any) -> None:
        raise ValueError(ESCAPES) from RuntimeError(ESCAPES)

    register_event_handlers({NEW_STUDY: fails}, standin, logging_configuration=how)
    standin.on_change(NEW_STUDY, STUDY, "1")
    text = "\n".join(text for _, text in standin.logs) if how is orthanc_logging else capsys.readouterr().err
    assert "fails failed on ChangeEvent" in text
    assert "ValueError:" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)
    assert [line for line in text.splitlines() if line.startswith("E1127")] == []


def test_half_a_surrogate_is_spelled_out() -> None:
    """Orthanc's log refuses it, and the message with it."""
    assert event_dispatcher.in_one_line("a\ud800b") == "a\\ud800b"  # type: ignore[attr-defined]


# Calls as people write them for orthanc-server-extensions


def test_handlers_module_and_clients_are_taken_by_the_names_of_elsewhere() -> None:
    def plain(_event: Any, client: Any) -> Any:
        return client

    async def coroutine(_event: Any, client: Any) -> Any:
        return client

    both = [plain, coroutine]
    register_event_handlers({NEW_STUDY: both}, orthanc_module=orthanc, sync_client="sync", async_client="async")
    assert orthanc.on_change(NEW_STUDY, STUDY, "uuid") == ["sync", "async"]
    register_event_handlers(event_handlers={NEW_STUDY: plain}, orthanc_module=orthanc, sync_client=httpx)
    assert orthanc.on_change(NEW_STUDY, STUDY, "uuid") == [httpx]
    register_event_handlers({NEW_STUDY: plain}, orthanc_module=orthanc, session="session")
    assert orthanc.on_change(NEW_STUDY, STUDY, "uuid") == ["session"]
    register_event_handlers(handlers={NEW_STUDY: both}, orthanc=orthanc, session="a", async_session="b")
    assert orthanc.on_change(NEW_STUDY, STUDY, "uuid") == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"orthanc_module": orthanc, "sesion": 1}, "found sesion, allowed: event_handlers, orthanc_module"),
        (
            {"orthanc_module": orthanc, "orthanc": orthanc},
            "found both orthanc and orthanc_module, allowed: one of them",
        ),
        ({}, "orthanc_module is missing"),
        ({"orthanc": orthanc, "handler_executor": Executor}, "found handler_executor, allowed: executor=Executor"),
    ],
)
def test_a_name_that_nobody_knows_is_refused_with_those_that_are_known(names: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register_event_handlers({}, **names)


@dataclasses.dataclass
class Seen:
    change: int = orthanc.ChangeType.UNKNOWN
    resource_id: str | None = None


def test_a_test_that_catches_what_its_handlers_get_passes() -> None:
    def catch(seen: Seen) -> Callable[..., Seen]:
        def handler(event: Any, _client: Any) -> Seen:
            seen.change, seen.resource_id = event.change_type, event.resource_id
            return seen

        return handler

    one, two = Seen(), Seen()
    register_event_handlers({STABLE_STUDY: [catch(one), catch(two)]}, orthanc_module=orthanc, sync_client=httpx)
    assert orthanc.on_change(STABLE_STUDY, STUDY, "uuid") == [one, two] == [Seen(STABLE_STUDY, "uuid")] * 2


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_test_lets_an_event_happen_that_is_about_no_resource(nothing: Any) -> None:
    started = orthanc.ChangeType.ORTHANC_STARTED
    register_event_handlers({started: lambda event, _: event}, orthanc_module=orthanc, sync_client=None)
    expected = ChangeEvent(started, orthanc.ResourceType.NONE, "")
    assert orthanc.on_change(started, nothing, nothing) == [expected]
    assert orthanc.on_change(started, resource_type=orthanc.ResourceType.NONE, resource_id=None) == [expected]
    assert orthanc.on_change(change_type=started) == [expected]


def test_a_stand_in_takes_its_configuration_by_both_names() -> None:
    for standin in (OrthancApiHandler(config={"HttpPort": 9042}), OrthancApiHandler({"HttpPort": 9042})):
        assert create_session(standin).base_url == "http://127.0.0.1:9042"


@respx.mock
def test_an_internal_client_with_an_address_is_one_over_http_whose_token_stays_with_it() -> None:
    routes = [respx.get("http://localhost:8042/system"), respx.get("http://else/")]
    for client in (
        create_internal_client("http://localhost:8042", "token", False),
        create_internal_client(base_url="http://localhost:8042", token="token", client_type=ClientType.SYNC),  # noqa: S106
    ):
        client.get("/system")
        client.get("http://else/")
    assert [[call.request.headers.get("Authorization") for call in route.calls] for route in routes] == [
        ["token"] * 2,
        [None] * 2,
    ]
    later = create_internal_client("https://localhost:8042", "", client_type=HttpxClientType.ASYNC)
    assert isinstance(later, httpx.AsyncClient)


def test_an_internal_client_trusts_the_certificate_that_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"[Nn]o such file|invalid path"):
        create_internal_client("https://localhost:8042", "", str(tmp_path / "none.pem"))


# The page


def test_the_examples_of_the_helpers_run_as_the_page_has_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "event_dispatcher.md").read_text()
    found = re.search(r"<!-- file: helpers.py -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found
    example: dict[str, Any] = {}
    exec(found[1], example)  # noqa: S102 - the page's own text
    standin = OrthancApiHandler()
    standin.answers = {
        ("GET", "/series/5e41e5"): {"Instances": ["i1"], "ParentStudy": "st"},
        ("GET", "/studies/st"): {"ParentPatient": "pa"},
        ("GET", "/instances/i1/preview"): b"PNG",
        ("GET", "/instances/i1/metadata/RemoteAET"): b"CT1",
        ("GET", "/instances/i1/simplified-tags"): {"Modality": "CT"},
    }
    clients = create_internal_client(standin), create_internal_client(standin, httpx.AsyncClient)
    names = ("save_preview", "is_from_ct1", "log_series", "study_of")
    stable = orthanc.ChangeType.STABLE_SERIES
    register_event_handlers({stable: [example[name] for name in names]}, standin, *clients)
    assert standin.on_change(stable, orthanc.ResourceType.SERIES, "5e41e5") == [b"PNG", True, "CT", "st"]
