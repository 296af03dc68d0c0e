# SPDX-License-Identifier: AGPL-3.0-or-later
"""The process of an Orthanc: its folder, ports, configuration, log, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testing.dcmtk import DCMTK_ENVIRONMENT
from testing.installed import OrthancFailedError, orthanc_executable, python_plugin, site_packages
from testing.processes import Process, reserve_port, start_process
from testing.waiting import wait_until

STOPPED_WITHIN = 90.0  # seconds; it takes 3.5 with no job in flight


class OrthancProcess:
    """An Orthanc as a program: what it is started with, and what becomes of it.

    `expected_exit` is the exit status that `check_exit` accepts; None accepts any.
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

    def _reserved_ports(self) -> dict[str, int]:
        http, dicom = (each.getsockname()[1] for each in self._reserved)
        return {"HttpPort": http, "DicomPort": dicom}

    @property
    def log(self) -> str:
        """All that Orthanc and the script have written so far, over restarts too."""
        path = self.folder / "orthanc.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # Its life

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
