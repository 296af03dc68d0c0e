# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real Orthanc in a folder of its own, on free ports, with a script and a configuration.

Which Orthanc comes from the environment:

- `ORTHANC`: the executable (default: `Orthanc` on PATH, else /usr/sbin/Orthanc);
- `ORTHANC_PYTHON_PLUGIN`: libOrthancPython.so (default: /usr/share/orthanc/plugins/libOrthancPython.so);
- `ORTHANC_SITE`: a folder of packages for the Python inside the plugin (default: those of the Python that runs the
  tests, if both are of one version);
- `ORTHANC_ALLOW_THREADS`: if set, scripts run with `"Python": {"AllowThreads": true}` where a test does not say otherwise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from testing.dicom import Storable, part10_files
from testing.logs import assert_logged, assert_not_logged, orthanc_lines
from testing.waiting import wait_until

READY_WITHIN = 30.0  # seconds; it takes 0.2 on an idle machine
STOPPED_WITHIN = 90.0  # seconds; it takes 3.5 with no job in flight
LONG_STABLE_AGE = 10  # seconds; above, nothing falls due while a test's server stops
STARTED = "Orthanc has started"
PORT_TAKEN = "is privileged or already in use"
DCMTK_ENVIRONMENT = {"TCP_NODELAY": "1"}  # without: 11 to 45 instances a second (Nagle and delayed acknowledgements)

Process = subprocess.Popen[bytes]

# The kernel ends a child with PR_SET_PDEATHSIG when the *thread* that started it ends: this one lives as long as we do.
_starter = ThreadPoolExecutor(1, thread_name_prefix="starts-servers")


class OrthancFailedError(RuntimeError):
    """Orthanc did not start, or ended while something was asked of it; carries the end of its log."""


class RequestFailedError(RuntimeError):
    """A request that Orthanc answered with a status of 400 or more; `response` is its answer."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response
        request = response.request
        super().__init__(f"{request.method} {request.url} answered {response.status_code}: {response.text[:2000]}")


def start_process(command: list[str], *, log: Path, environment: dict[str, str] | None = None) -> Process:
    """Start a program that can't outlive this process, in a process group of its own, its output appended to `log`."""

    def start() -> Process:
        with log.open("ab") as output:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                process_group=0,  # Ctrl-C reaches the tests, and they end the server
            )

    return _starter.submit(start).result()


def reserve_port() -> socket.socket:
    """A bound socket whose port is nobody else's until it is closed, yet the server that we start may listen on it."""
    reserved = socket.socket()
    reserved.bind(("0.0.0.0", 0))  # noqa: S104 (bound, never listening)
    # Set after the bind: it lets a later socket with the same option in, and kept us from sharing somebody's port.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return reserved


def orthanc_executable() -> str:
    """The Orthanc to test on: `ORTHANC`, else the one on PATH, else Debian's."""
    return os.environ.get("ORTHANC") or shutil.which("Orthanc") or "/usr/sbin/Orthanc"


def python_plugin() -> Path:
    """The Python plugin to test on: `ORTHANC_PYTHON_PLUGIN`, else Debian's."""
    return Path(os.environ.get("ORTHANC_PYTHON_PLUGIN") or "/usr/share/orthanc/plugins/libOrthancPython.so").absolute()


def embedded_python() -> tuple[int, int]:
    """The version of the CPython inside the plugin, e.g. (3, 11), read off the library that it links."""
    found = re.search(rb"libpython(\d+)\.(\d+)[a-z]?\.so", python_plugin().read_bytes())
    if not found:
        raise OrthancFailedError(f"{python_plugin()} links no libpython: is it Orthanc's Python plugin?")
    return int(found[1]), int(found[2])


def site_packages() -> str | None:
    """Where the embedded Python finds packages: `ORTHANC_SITE`, else ours when both Pythons are of one version."""
    if os.environ.get("ORTHANC_SITE"):
        return os.environ["ORTHANC_SITE"]
    return sysconfig.get_path("purelib") if embedded_python() == sys.version_info[:2] else None


class OrthancServer:
    """One Orthanc with a folder, two ports, a script and a configuration of its own.

    Parameters
    ----------
    folder
        For the configuration, the storage, the index, the log, and a script that is given as text. Made if absent.
    script
        Path of a script or of a package's `__init__.py`; or its source, a text with at least one line break; or None
        for an Orthanc without the Python plugin.
    configuration
        Keys that are added to, or replace, those of `defaults()`.
    aet
        `DicomAet` and `Name`.
    environment
        Added to the environment of the process.
    verbose
        Whether Orthanc logs at INFO level too.
    """

    def __init__(
        self,
        folder: Path,
        script: Path | str | None = None,
        configuration: dict[str, Any] | None = None,
        *,
        aet: str = "ORTHANC",
        environment: dict[str, str] | None = None,
        verbose: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.aet = aet
        self.verbose = verbose
        self.environment = dict(environment or {})
        self.expected_exit: int | None = 0
        """The exit status that `check_exit` accepts; None accepts any."""
        self.process: Process | None = None
        self._reserved: list[socket.socket] = []
        chosen = {**self._plugin(script), **(configuration or {})}
        self._choose_ports()
        self.configuration: dict[str, Any] = {**self.defaults(), **chosen}
        self.aet = self.configuration["DicomAet"]
        self._started_at = time.monotonic()
        self._first_change = 0
        self._log_of_this_start = 0

    # What it is

    def defaults(self) -> dict[str, Any]:
        """The configuration of an Orthanc that answers this machine only, stores what it gets, and is quick."""
        return {
            "Name": self.aet,
            "DicomAet": self.aet,
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "StorageCompression": False,
            "SyncStorageArea": False,  # nobody cuts the power of a test
            "HttpPort": self._reserved[0].getsockname()[1],
            "DicomPort": self._reserved[1].getsockname()[1],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckModalityHost": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomScuTimeout": 5,
            "HttpTimeout": 10,
            "StableAge": 1,
            "Plugins": [],
        }

    def _plugin(self, script: Path | str | None) -> dict[str, Any]:
        if script is None:
            return {}
        if isinstance(script, str) and "\n" in script:
            path = self.folder / "script.py"
            path.write_text(script)
        else:
            path = Path(script).absolute()
            if not path.is_file():
                raise FileNotFoundError(f"no script {path}: give the path of a file, or a source text of several lines")
        # Older plugins ignore the section.
        threads = {"Python": {"AllowThreads": True}} if os.environ.get("ORTHANC_ALLOW_THREADS") else {}
        return {"Plugins": [str(python_plugin())], "PythonScript": str(path), **threads}

    def _choose_ports(self) -> None:
        for each in self._reserved:
            each.close()
        self._reserved = [reserve_port(), reserve_port()]

    @property
    def http_port(self) -> int:
        return int(self.configuration["HttpPort"])

    @property
    def dicom_port(self) -> int:
        return int(self.configuration["DicomPort"])

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end. No TLS: Debian's Orthancs (all three) crash on its first request."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> str:
        """All that Orthanc and the script have written so far, over restarts too."""
        path = self.folder / "orthanc.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def as_modality(self) -> list[str | int]:
        """What another Orthanc writes in `DicomModalities` to send here."""
        return [self.aet, "127.0.0.1", self.dicom_port]

    def as_peer(self) -> list[str]:
        """What another Orthanc writes in `OrthancPeers` to send here."""
        return [f"{self.url}/", *self._credentials()]

    def _credentials(self) -> list[str]:
        return next(([user, password] for user, password in self.configuration.get("RegisteredUsers", {}).items()), [])

    # Its life

    def start(self) -> OrthancServer:
        """Start it and wait until it answers.

        Raises
        ------
        OrthancFailedError
            If it ended before, or did not answer within 30 seconds, with the last lines of its log.
        """
        if self.running:
            raise OrthancFailedError(f"{self.aet} is running already")
        for _attempt in range(5):
            self._launch()
            try:
                self._wait_until_ready()
            except OrthancFailedError:
                own_ports = (self.http_port, self.dicom_port) != tuple(self._reserved_ports().values())
                self.kill()
                self.process = None  # how it ended is said here, once
                if own_ports or PORT_TAKEN not in self._current_log():
                    raise
                self._choose_ports()
                self.configuration.update(self._reserved_ports())
            else:
                return self
        raise OrthancFailedError(f"{self.aet} found no free ports:\n{self._log_tail()}")

    def _reserved_ports(self) -> dict[str, int]:
        http, dicom = (each.getsockname()[1] for each in self._reserved)
        return {"HttpPort": http, "DicomPort": dicom}

    def _launch(self) -> None:
        (self.folder / "orthanc.json").write_text(json.dumps(self.configuration, indent=2))
        command = [orthanc_executable(), *(["--verbose"] if self.verbose else []), str(self.folder / "orthanc.json")]
        environment = {**DCMTK_ENVIRONMENT, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        if self.configuration["Plugins"] and (site := site_packages()):
            environment |= {"PYTHONPATH": site, "ORTHANC_SITE": site}
        self._log_of_this_start = len(self.log)
        self._started_at = time.monotonic()
        try:
            self.process = start_process(
                command, log=self.folder / "orthanc.log", environment={**environment, **self.environment}
            )
        except OSError as error:
            raise OrthancFailedError(f"cannot run {command[0]} (set ORTHANC, or install orthanc): {error}") from error

    def _wait_until_ready(self) -> None:
        # The log first: on a port of the configuration, another server may answer.
        self.wait_until(lambda: STARTED in self._current_log(), timeout=READY_WITHIN, what=f"{STARTED!r} in the log")
        if self.configuration.get("HttpServerEnabled", True):
            self._first_change = self.wait_until(self._newest_change, timeout=READY_WITHIN, what="answer /system") - 1

    def _newest_change(self) -> int | None:
        """One more than the Seq of the newest change, hence true; None while Orthanc does not answer."""
        try:
            if self.request("GET", "/system", timeout=5).status_code in (502, 503, 504):
                return None
            newest = self.request("GET", "/changes?last", timeout=5)
        except requests.RequestException:
            return None
        return int(newest.json()["Last"]) + 1 if newest.ok else 1

    def stop(self, *, when_stable: bool = True) -> int:
        """End it with SIGTERM and give its exit status (negative: the signal that it died of).

        It first waits until what Orthanc holds is stable: 1.13.0 crashes when a Stable… event falls due while it ends.
        To lose a Stable… event, `kill()` it, or give a long `StableAge`.
        """
        if self.running and when_stable:
            self.settle()
        return self.finish() if self.terminate() else self._exit_status()

    def terminate(self) -> bool:
        """Send SIGTERM and don't wait; whether it was running. `finish()` waits."""
        if not self.running:
            return False
        assert self.process
        self.process.terminate()
        return True

    def finish(self) -> int:
        """Wait until a server that got SIGTERM has ended, and give its exit status."""
        assert self.process
        try:
            return self.process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
            raise OrthancFailedError(
                f"{self.aet} was still running {STOPPED_WITHIN:.0f} s after SIGTERM:\n{self._log_tail()}"
            ) from None

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL), and wait until it is gone."""
        if self.running:
            assert self.process
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def restart(self) -> OrthancServer:
        """Stop it and start it again, on the same ports and folder."""
        if status := self.stop():
            raise OrthancFailedError(f"{self.aet} ended with status {status} when restarted:\n{self._log_tail()}")
        return self.start()

    def close(self) -> None:
        """Let nothing run and give the ports back; `start()` can't follow."""
        self.kill()
        for each in self._reserved:
            each.close()

    def check_exit(self) -> None:
        """Raise unless it ended with `expected_exit`, or was last ended by `kill()`, or never ran."""
        if self.process is None or self.expected_exit is None or self._exit_status() == self.expected_exit:
            return
        raise OrthancFailedError(
            f"{self.aet} ended with status {self._exit_status()}, not {self.expected_exit}:\n{self._log_tail()}"
        )

    def _exit_status(self) -> int:
        return self.process.returncode if self.process else 0

    def _current_log(self) -> str:
        return self.log[self._log_of_this_start :]

    def _log_tail(self) -> str:
        return "\n".join(self._current_log().splitlines()[-25:])

    def settle(self) -> None:
        """Wait for what may fall due during a stop, if this Orthanc lets us ask."""
        long = self.configuration["StableAge"] > LONG_STABLE_AGE
        if not self.configuration.get("HttpServerEnabled", True) or long:
            return
        try:
            self.wait_until_stable()
        except (requests.RequestException, RequestFailedError):
            return  # a script that refuses our requests, or hangs: stopping must still work

    # What one asks of it

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """One HTTP request, `arguments` being those of `requests.request`; any status is an answer.

        Each goes over a connection of its own: Orthanc closes kept ones after a second, and 1.12.7 after a 304 or 401,
        without saying so; and with `Connection: close` each version loses one answer in a thousand.
        """
        credentials = self._credentials()
        defaults = {"timeout": 60, "auth": tuple(credentials) or None}
        with requests.Session() as session:
            session.trust_env = False  # no proxy, no .netrc
            return session.request(method, self.url + path, **{**defaults, **arguments})

    def get(self, path: str, **params: Any) -> Any:
        """GET, and what it answers: decoded JSON, else text, else bytes."""
        return self._answer("GET", path, params=params)

    def post(self, path: str, body: Any = b"") -> Any:
        """POST a body (bytes and str as they are, all else as JSON), and what it answers."""
        return self._answer("POST", path, data=_as_body(body))

    def put(self, path: str, body: Any = b"") -> Any:
        """PUT a body (bytes and str as they are, all else as JSON), and what it answers."""
        return self._answer("PUT", path, data=_as_body(body))

    def delete(self, path: str) -> Any:
        """DELETE, and what it answers."""
        return self._answer("DELETE", path)

    def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        response = self.request(method, path, **arguments)
        if response.status_code >= 400:
            raise RequestFailedError(response)
        try:
            return response.json()
        except ValueError:
            kind = response.headers.get("Content-Type", "")
            return response.text if kind.startswith("text/") or not response.content else response.content

    def store(self, files: Storable) -> list[dict[str, Any]]:
        """Store files, bytes or datasets by `POST /instances`; what Orthanc answers to each (`ID`, `Status`, …)."""
        return [self.post("/instances", content) for content in part10_files(files)]

    def store_scu(self, files: Storable, *, aet: str = "STORESCU", called: str | None = None) -> str:
        """Store files, bytes or datasets by C-STORE, as they are, with dcmtk's `dcmsend`, and give its report.

        Raises
        ------
        RuntimeError
            If one was not sent or not stored, with what dcmsend says.
        """
        return send_by_cstore(files, port=self.dicom_port, aet=aet, called=called or self.aet)

    def wait_until(self, condition: Callable[[], Any], timeout: float = 30, what: str = "") -> Any:
        """Ask `condition` until it is true, and give its value; it fails if that takes too long or Orthanc ends."""
        what = what or getattr(condition, "__name__", "the condition")

        def asked() -> Any:
            value = condition()
            if not value and not self.running:
                raise OrthancFailedError(
                    f"{self.aet} ended with status {self._exit_status()} while waiting for: {what}\n{self._log_tail()}"
                )
            return value

        try:
            return wait_until(asked, timeout, what)
        except TimeoutError as error:
            raise OrthancFailedError(f"{self.aet}: {error}\n{self._log_tail()}") from None

    def wait_for_log(self, text: str, timeout: float = 30) -> str:
        """Wait until the log holds `text`, over restarts too, and give the log."""
        self.wait_until(lambda: text in self.log, timeout, f"{text!r} in the log")
        return self.log

    def log_lines(self) -> list[tuple[str, str]]:
        """The log as (level, text), as a stand-in's `logs`; a traceback is part of the text that it follows."""
        return orthanc_lines(self.log)

    def assert_logged(self, text: str, level: str | None = None) -> None:
        """Fail unless `text` is in the log by now, at that level ("error", "warning", "info") where one is given."""
        assert_logged(self.log_lines(), text, level)

    def assert_not_logged(self, text: str = "", level: str | None = None) -> None:
        """Fail if `text` is in the log, or anything at all of that level."""
        assert_not_logged(self.log_lines(), text, level)

    def wait_until_stable(self, timeout: float | None = None) -> None:
        """Wait until no patient, study or series waits for its Stable… event, and those events are logged.

        What a restart or a kill interrupted never becomes stable (Orthanc knows it in memory only): not waited for.
        Takes `StableAge` and up to a second more; `timeout` is `StableAge` + 30 seconds.
        """
        timeout = self.configuration["StableAge"] + 30 if timeout is None else timeout
        self.wait_until(self._is_stable, timeout, "everything stable")

    def _is_stable(self) -> bool:
        missing = set()
        for change in self._changes():
            kind, level = change["ChangeType"], change["ResourceType"]
            if kind == f"New{level}":
                missing.add((level, change["ID"]))
            elif kind == f"Stable{level}":
                missing.discard((level, change["ID"]))
        if {level for level, _ in missing} - {"Instance"}:
            return False
        levels = ("series", "studies", "patients")  # what was here before and got more is new in none of the changes
        return all(each["IsStable"] for level in levels for each in self.get(f"/{level}?expand"))

    def _changes(self) -> list[dict[str, Any]]:
        """The changes since this start."""
        found, since, done = [], self._first_change, False
        while not done:
            page = self.get("/changes", since=since, limit=5000)
            found += page["Changes"]
            since, done = page["Last"], page["Done"]
        return found


def dcmtk_program(name: str) -> str:
    """The path of one of dcmtk's programs: not pynetdicom's script of that name, which an active venv puts before it.

    Raises
    ------
    FileNotFoundError
        If it is not installed.
    """
    for folder in os.get_exec_path():
        if program := shutil.which(name, path=folder):
            with Path(program).open("rb") as file:
                if file.read(2) != b"#!":
                    return program
    raise FileNotFoundError(f"no {name} of dcmtk on PATH: apt-get install dcmtk")


def send_by_cstore(files: Storable, *, port: int, aet: str = "STORESCU", called: str = "ANY-SCP") -> str:
    """Send files, bytes or datasets to a port of this machine with dcmtk's `dcmsend`, as they are; its report."""
    program = dcmtk_program("dcmsend")
    number = -1
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(part10_files(files)):
            (Path(folder) / f"{number:08}.dcm").write_bytes(content)
        ended = subprocess.run(
            [program, "-v", "-dn", "-nuc", "-aet", aet, "-aec", called, "+sd", "127.0.0.1", str(port), folder],
            env={**os.environ, **DCMTK_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    counts = dict(
        re.findall(r"^I: *(?:-|\*)? *(.+?) *: (\d+)$", ended.stdout.rpartition("Status Summary")[2], re.MULTILINE)
    )
    stored = counts.get("with status SUCCESS")
    if ended.returncode or stored != str(number + 1):  # its status is 0, too, when the peer refused some
        raise RuntimeError(
            f"dcmsend sent {number + 1} files, {stored or 'none'} were stored (status {ended.returncode}):\n"
            f"{ended.stdout[-4000:]}"
        )
    return ended.stdout


def _as_body(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()
