# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/loopback.py and common/settings.py: what is never done twice, and never shown."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Dropping:
    """A server that takes each request and drops the first ones without a word."""

    def __init__(self, drops: int) -> None:
        self.drops, self.seen = drops, list[bytes]()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                request = connection.recv(10_000)
                if not request:
                    return
                self.seen.append(request.partition(b" HTTP")[0])
                if len(self.seen) > self.drops:
                    connection.sendall(ANSWER)

    def close(self) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def dropping() -> Iterator[Callable[[int], Dropping]]:
    made: list[Dropping] = []

    def start(drops: int) -> Dropping:
        made.append(Dropping(drops))
        return made[-1]

    yield start
    for each in made:
        each.close()


def ask(source: Callable[[str], ModuleType], standin: StandIn, server: Dropping, method: str, path: str) -> int:
    """The status of the answer; 0 without one."""
    standin.returns["GenerateRestApiAuthorizationToken"] = "Bearer token"
    module = source("common.loopback")
    loopback = module.Loopback({"HttpPort": server.port})
    try:
        loopback.request(method, path, {})
    except module.LoopbackError as error:
        return int(error.status)
    finally:
        loopback.close()
    return 200


@pytest.mark.parametrize("path", ["/modalities/PACS/store", "/instances", "/jobs/j/resubmit", "/tools/bulk-deletes"])
def test_a_post_whose_answer_never_came_is_not_sent_a_second_time(
    source: Any, orthanc_standin: StandIn, dropping: Callable[[int], Dropping], path: str
) -> None:
    server = dropping(1)
    assert ask(source, orthanc_standin, server, "POST", path) == 0
    assert server.seen == [b"POST " + path.encode()]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/system"), ("PUT", "/x"), ("DELETE", "/x"), ("POST", "/tools/find"), ("POST", "/tools/bulk-delete")],
)
def test_what_is_the_same_twice_is_asked_once_more_and_no_oftener(
    source: Any, orthanc_standin: StandIn, dropping: Callable[[int], Dropping], method: str, path: str
) -> None:
    assert ask(source, orthanc_standin, dropping(1), method, path) == 200
    server = dropping(9)
    assert ask(source, orthanc_standin, server, method, path) == 0
    assert len(server.seen) == 2


@dataclasses.dataclass(frozen=True)
class Section:
    token: str = dataclasses.field(
        default="", metadata={"secret": True, "check": lambda text: None if len(text) > 9 else "ten"}
    )
    tokens: tuple[str, ...] = dataclasses.field(default=(), metadata={"secret": True})
    number: int = dataclasses.field(default=1, metadata={"minimum": 1})


@pytest.mark.parametrize(
    "section",
    [
        {"Token": "hidden"},
        {"Token": ["hidden"]},
        {"Token": {"a": "hidden"}},
        {"Tokens": "hidden"},
        {"Tokens": [["hidden"]]},
        {"Number": "https://user:hidden@host"},
    ],
)
def test_a_secret_is_never_shown(source: Any, section: dict[str, Any]) -> None:
    module = source("common.settings")
    with pytest.raises(module.SettingsError, match="found a value that is not shown here") as caught:
        module.read_settings(Section, "S", {"S": section})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("found", [True, "1", 1.5, None, 0])
def test_a_value_of_another_type_or_out_of_bounds_is_refused_with_its_key(source: Any, found: Any) -> None:
    module = source("common.settings")
    with pytest.raises(module.SettingsError, match=r"S\.Number: found .*, allowed: a whole number"):
        module.read_settings(Section, "S", {"S": {"Number": found}})
