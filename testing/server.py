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

from typing import Any

import requests

from testing.client import OrthancClient
from testing.client import RequestFailedError as RequestFailedError
from testing.dcmtk import DCMTK_ENVIRONMENT as DCMTK_ENVIRONMENT
from testing.dcmtk import dcmtk_program as dcmtk_program
from testing.dcmtk import send_by_cstore as send_by_cstore
from testing.installed import OrthancFailedError as OrthancFailedError
from testing.installed import embedded_python as embedded_python
from testing.installed import orthanc_executable as orthanc_executable
from testing.installed import python_plugin as python_plugin
from testing.installed import site_packages as site_packages
from testing.logs import assert_logged, assert_not_logged, orthanc_lines
from testing.process import OrthancProcess
from testing.processes import Process as Process
from testing.processes import reserve_port as reserve_port
from testing.processes import start_process as start_process

READY_WITHIN = 30.0  # seconds; it takes 0.2 on an idle machine
LONG_STABLE_AGE = 10  # seconds; above, nothing falls due while a test's server stops
STARTED = "Orthanc has started"
PORT_TAKEN = "is privileged or already in use"


class OrthancServer(OrthancProcess, OrthancClient):
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

    def restart(self) -> OrthancServer:
        """Stop it and start it again, on the same ports and folder."""
        if status := self.stop():
            raise OrthancFailedError(f"{self.aet} ended with status {status} when restarted:\n{self._log_tail()}")
        return self.start()

    def settle(self) -> None:
        """Wait for what may fall due during a stop, if this Orthanc lets us ask."""
        long = self.configuration["StableAge"] > LONG_STABLE_AGE
        if not self.configuration.get("HttpServerEnabled", True) or long:
            return
        try:
            self.wait_until_stable()
        except (requests.RequestException, RequestFailedError):
            return  # a script that refuses our requests, or hangs: stopping must still work

    def wait_until_stable(self, timeout: float | None = None) -> None:
        """Wait until no patient, study or series waits for its Stable… event, and those events are logged.

        What a restart or a kill interrupted never becomes stable (Orthanc knows it in memory only): not waited for.
        Takes `StableAge` and up to a second more; `timeout` is `StableAge` + 30 seconds.
        """
        timeout = self.configuration["StableAge"] + 30 if timeout is None else timeout
        self.wait_until(self._is_stable, timeout, "everything stable")

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
