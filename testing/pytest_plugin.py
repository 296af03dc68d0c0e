# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures to test a script on a real Orthanc, and without one: `pytest -p testing.pytest_plugin`."""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from testing.server import (
    DCMTK_ENVIRONMENT,
    OrthancFailedError,
    OrthancServer,
    dcmtk_program,
    orthanc_executable,
    reserve_port,
    start_process,
)
from testing.standin import StandIn

SERVERS = pytest.StashKey[list[OrthancServer]]()


class StartOrthanc(Protocol):
    """The type of the fixture `start_orthanc`, for annotations."""

    def __call__(
        self,
        script: Path | str | None = None,
        configuration: dict[str, Any] | None = None,
        *,
        aet: str = "ORTHANC",
        start: bool = True,
        environment: dict[str, str] | None = None,
        verbose: bool = False,
    ) -> OrthancServer: ...


def _servers(node: Any, folder: Callable[[], Path]) -> Iterator[StartOrthanc]:
    """A factory of servers, and at the end: all stable, all stopped at once, each exit status looked at."""
    servers: list[OrthancServer] = node.stash.setdefault(SERVERS, [])

    def start_orthanc(
        script: Path | str | None = None,
        configuration: dict[str, Any] | None = None,
        *,
        aet: str = "ORTHANC",
        start: bool = True,
        environment: dict[str, str] | None = None,
        verbose: bool = False,
    ) -> OrthancServer:
        home = folder() / f"{len(servers)}-{aet}"
        server = OrthancServer(home, script, configuration, aet=aet, environment=environment, verbose=verbose)
        servers.append(server)
        return server.start() if start else server

    with ExitStack() as stack:
        yield start_orthanc
        for server in servers:
            stack.callback(server.close)
        stop_all(servers)


def stop_all(servers: list[OrthancServer]) -> None:
    """Stop servers side by side (each takes 3.5 s), and fail for what is unstable, hangs, or ends with a bad status."""
    problems = []
    running = [server for server in servers if server.running]
    for server in running:
        try:
            server.settle()
        except OrthancFailedError as error:
            problems.append(str(error))
    for server in running:
        server.terminate()
    for server in servers:
        try:
            if server in running:
                server.finish()
            server.check_exit()
        except OrthancFailedError as error:
            problems.append(str(error))
    if problems:
        pytest.fail("\n\n".join(problems), pytrace=False)


@pytest.fixture
def start_orthanc(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartOrthanc]:
    """Starts real Orthancs: `start_orthanc(script, configuration, aet=…)`, as many as a test wants.

    At the end of the test each is stopped when what it holds is stable. The test fails if one ended with another
    status than its `expected_exit` (0), except after `kill()`. When a test fails, the log of each is shown.
    """
    yield from _servers(request.node, lambda: tmp_path)


@pytest.fixture
def orthanc_server(start_orthanc: StartOrthanc) -> StartOrthanc:
    """As `start_orthanc`, for a test of one server: `orthanc_server(script, configuration)`."""
    return start_orthanc


@pytest.fixture(scope="module")
def start_orthanc_for_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartOrthanc]:
    """As `start_orthanc`, for servers that the tests of one module share (ending one takes 3.5 s)."""
    home = functools.cache(lambda: tmp_path_factory.mktemp("orthanc"))
    yield from _servers(request.node, home)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log of each server of a test that failed."""
    report = yield
    if report.failed:
        for node in item.listchain():
            for server in node.stash.get(SERVERS, []):
                report.sections.append((f"log of {server.aet} in {server.folder}", server.log[-20_000:]))
    return report


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "plugin_version(version): the plugin that `orthanc_standin` is, e.g. '7.1'")


@pytest.fixture
def orthanc_standin(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    """A stand-in for the `orthanc` module, installed during the test; of plugin 4.0, or as `plugin_version` marks.

    The test fails for what the stand-in refused, even if the script swallowed the error.
    """
    marker = request.node.get_closest_marker("plugin_version")
    standin = StandIn(*marker.args) if marker else StandIn()
    with standin.installed():
        yield standin
    if standin.unexpected:
        pytest.fail("\n".join(standin.unexpected), pytrace=False)


@pytest.fixture(scope="session")
def orthanc_version() -> tuple[int, ...]:
    """The version of the Orthanc under test, e.g. (1, 12, 7); (9999,) for a development version ("mainline")."""
    said = subprocess.run([orthanc_executable(), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", (said.stdout + said.stderr).partition("\n")[0])
    return tuple(int(number) for number in found.groups()) if found else (9999,)


class StoreScp:
    """dcmtk's `storescp`: a DICOM node that keeps what it receives as files in `folder`.

    Without `fork` it takes one association after the other, and lets those that come meanwhile wait.
    """

    def __init__(self, folder: Path, aet: str = "STORESCP", *, fork: bool = True) -> None:
        self.aet, self.folder, self._program = aet, folder, dcmtk_program("storescp")
        self._options = ["-v", *(["--fork"] if fork else []), "+xa"]
        self._log = folder.with_name(f"{folder.name}.log")
        folder.mkdir(parents=True, exist_ok=True)
        self._reserved = reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start it (again, after `stop()`, on the same port) and wait until it accepts connections."""
        self._process = start_process(
            [self._program, *self._options, "-aet", self.aet, "-od", str(self.folder), str(self.port)],
            log=self._log,
            environment=DCMTK_ENVIRONMENT,
        )
        deadline = time.monotonic() + 10
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"storescp does not accept connections on port {self.port}:\n{self.log}")
            time.sleep(0.02)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    @property
    def log(self) -> str:
        """What storescp has written so far, one line for each association and each C-STORE."""
        return self._log.read_text(errors="replace")

    def as_modality(self) -> list[str | int]:
        """What an Orthanc writes in `DicomModalities` to send here."""
        return [self.aet, "127.0.0.1", self.port]

    def files(self) -> list[Path]:
        """What it has received, one file for each SOPInstanceUID; the newest may still be growing."""
        return sorted(self.folder.iterdir())

    def stop(self) -> None:
        """End it at once, with what it is receiving; the port stays its own until `close()`."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Stop it and give the port back."""
        self.stop()
        self._reserved.close()


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[StoreScp]:
    """A DICOM node: `port`, `aet`, `as_modality()`, `files()`, `log`, `stop()`, `start()`."""
    scp = StoreScp(tmp_path / "storescp")
    yield scp
    scp.close()
