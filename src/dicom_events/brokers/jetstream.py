# SPDX-License-Identifier: AGPL-3.0-or-later
"""NATS JetStream: confirmed when the stream has it, repeats known by Nats-Msg-Id."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors

from ..broker_settings import NatsConfig
from ..events import Event, Form
from . import Broker, BrokerAwayError, BrokerUnusableError, Outcome, failure

CONNECT_WITHIN_SECONDS = 5.0
CONFIRM_WITHIN_SECONDS = 20.0
CLOSE_WITHIN_SECONDS = 0.5
MOST_SUBJECT_BYTES = 2000  # a server takes a line of 4096 with what else is in it
STREAM_NOT_FOUND = 10059  # JetStream's own codes
LACKS_ROOM = {10023, 10047, 10077, 10122}  # resources, storage, messages, bytes: all that follows has no room either


class Loop(asyncio.SelectorEventLoop):
    """Looks names up in threads that nobody waits for: for those of asyncio Python waits as it ends, and Orthanc with it."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log nothing: what became of a task that a hung server held is found out by whatever thread tidies memory then."""

    async def getaddrinfo(self, *arguments: Any, **named: Any) -> Any:
        found = self.create_future()

        def settle(answer: Any, error: Exception | None) -> None:
            if found.done():
                return  # nobody waits for it any more
            if error:
                found.set_exception(error)
            else:
                found.set_result(answer)

        def look_up() -> None:
            answer, error = None, None
            try:
                answer = socket.getaddrinfo(*arguments, **named)
            except Exception as raised:  # noqa: BLE001 - it is that of who asks
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(settle, answer, error)

        threading.Thread(target=look_up, name="dicom_events name", daemon=True).start()
        return await found


class JetStream(Broker):
    """One connection whose event loop runs in the publisher's thread, while that waits for confirmations."""

    most_under_way = 1000

    def __init__(self, form: Form, config: NatsConfig) -> None:
        super().__init__(form)
        self._config = config
        self._loop = Loop()
        self._something = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outcomes: list[Outcome] = []
        self._lost: str | None = None
        self._connection: Any = None
        self._stream: Any = None

    def open(self) -> None:
        try:
            self._loop.run_until_complete(self._open())
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise BrokerAwayError(f"{type(error).__name__}: {error}") from None

    async def _open(self) -> None:
        urls = [self._config.url, *self._config.more_urls]
        try:
            tls = ssl.create_default_context(cafile=self._config.ca_certificate)
        except (OSError, ssl.SSLError) as error:
            raise BrokerUnusableError(f"CACertificate {self._config.ca_certificate} can't be read: {error}") from None
        encrypted = self._config.ca_certificate or any(urllib.parse.urlsplit(url).scheme == "tls" for url in urls)
        errors = []
        for url in urls:
            self._lost = None
            try:
                self._connection = await self._connect(url, tls if encrypted else None)
                break
            except (nats.errors.Error, OSError, TimeoutError) as error:
                errors.append(self._lost or f"{type(error).__name__}: {error}")
        else:
            raise BrokerAwayError("; ".join(errors))
        self._stream = self._connection.jetstream(timeout=CONNECT_WITHIN_SECONDS)
        await self._check_stream()

    async def _connect(self, url: str, tls: ssl.SSLContext | None) -> Any:
        address = urllib.parse.urlsplit(url)
        # The client takes what is in a URL as it is: a password with an @ would never fit.
        user, password = (each and urllib.parse.unquote(each) for each in (address.username, address.password))
        who = {"user": user, "password": password} if password else {"token": user} if user else {}
        return await nats.connect(
            address._replace(netloc=address.netloc.rpartition("@")[2]).geturl(),
            name="orthanc",
            # To go on is the publisher's, with what is not confirmed; else it tries for two minutes, and says nothing.
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_WITHIN_SECONDS),
            ping_interval=10,
            max_outstanding_pings=2,
            closed_cb=self._on_closed,
            disconnected_cb=self._on_closed,
            error_cb=self._on_error,
            user_credentials=self._config.credentials_file,
            tls=tls,
            **who,
        )

    async def _check_stream(self) -> None:
        wanted = f"{self._config.prefix}>"
        try:
            info = await self._stream.stream_info(self._config.stream)
        except nats.js.errors.NotFoundError:
            if self._config.passive:
                raise BrokerAwayError(f"there is no stream {self._config.stream}") from None
            await self._stream.add_stream(name=self._config.stream, subjects=[wanted])
            return
        if not any(_covers(subject, wanted) for subject in info.config.subjects or []):
            raise BrokerAwayError(f"the stream {self._config.stream} does not take {wanted}")

    async def _on_closed(self) -> None:
        self._lost = self._lost or "the connection was closed"
        self._something.set()

    async def _on_error(self, error: Exception) -> None:
        self._lost = f"{type(error).__name__}: {error}"
        self._something.set()

    def message(self, event: Event) -> tuple[str, bytes, dict[str, str]]:
        """Return subject, content and headers."""
        subject, found = self._config.prefix + event.type, self.form.message(event)
        if len(subject.encode()) > MOST_SUBJECT_BYTES:  # the server would close the connection
            raise ValueError(f"a subject of more than {MOST_SUBJECT_BYTES} bytes")
        return subject, found.body, {"Content-Type": found.mime, **found.headers, "Nats-Msg-Id": event.id}

    def submit(self, event: Event, message: tuple[str, bytes, dict[str, str]]) -> None:
        task = self._loop.create_task(self._publish(event, *message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, event: Event, subject: str, content: bytes, headers: dict[str, str]) -> None:
        outcome: Outcome | None = None
        try:
            await self._stream.publish(subject, content, timeout=CONFIRM_WITHIN_SECONDS, headers=headers)
            outcome = Outcome(event.row)
        except nats.errors.MaxPayloadError:
            outcome = Outcome(
                event.row, f"larger than the server takes ({self._connection.max_payload} bytes)", final=True
            )
        except nats.js.errors.APIError as error:
            if error.err_code in LACKS_ROOM or error.code == 503:
                self._lost = self._lost or f"{error.description} ({error.err_code})"
            else:
                outcome = Outcome(event.row, f"{error.description} ({error.err_code})")
        except nats.errors.BadSubjectError as error:
            outcome = failure(event, error)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._lost = self._lost or f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - what the client can't send
            outcome = failure(event, error)
        if outcome:
            self._outcomes.append(outcome)
        self._something.set()

    def collect(self, seconds: float) -> list[Outcome]:
        self._loop.run_until_complete(self._wait(seconds))
        outcomes, self._outcomes = self._outcomes, []
        if self._lost and not outcomes:
            raise BrokerAwayError(self._lost)
        return outcomes

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._something.wait(), seconds)
        self._something.clear()

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._something.set)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError, nats.errors.Error, OSError):
            self._loop.run_until_complete(asyncio.wait_for(self._close(), CLOSE_WITHIN_SECONDS))
        self._loop.close()

    async def _close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connection:
            await self._connection.close()


def _covers(subject: str, wanted: str) -> bool:
    """Return whether what a stream takes is all of ours (`orthanc.>`)."""
    has, wanted_words = subject.split("."), wanted.split(".")
    for one, other in zip(has, wanted_words, strict=False):
        if one == ">":
            return True
        if one not in (other, "*") or other == ">":
            return False
    return False


def make(form: Form, config: NatsConfig, _folder: Path, _say: Callable[[str, str], None]) -> JetStream:
    return JetStream(form, config)
