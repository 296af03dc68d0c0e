# SPDX-License-Identifier: AGPL-3.0-or-later
"""A PostgreSQL of a test's own, from Debian, and the configuration of Orthancs that share it and one storage folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from testing.server import Process, python_plugin, reserve_port, start_process
from testing.waiting import wait_until
from tests.brokers import listens, stop_process

STARTED_WITHIN = 60.0  # seconds
# PostgreSQL refuses to run as root.
AS_NOBODY = [] if os.geteuid() else ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
# Nobody cuts the power of a test.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "60"}


class PostgresServer:
    """One cluster in a folder and on a port of its own, without Debian's service: ended at once by `stop()`."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        assert found, "apt-get install postgresql"
        self._programs = found[-1].parent
        # Not in pytest's folder, into which root alone may look.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if AS_NOBODY:
            shutil.chown(self.folder, "nobody", "nogroup")
        self._reserved = reserve_port()
        self.port = self._reserved.getsockname()[1]
        self._process: Process | None = None
        options = ["--username=orthanc", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        command = [*AS_NOBODY, str(self._programs / "initdb"), *options, str(self.folder / "data")]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    @property
    def url(self) -> str:
        """The URL of its database `postgres`."""
        return f"postgresql://orthanc@127.0.0.1:{self.port}/postgres"

    def start(self) -> PostgresServer:
        """Start it, with what it has on disk; also at once after a stop, whose last processes may be there still."""
        wait_until(self._is_gone, STARTED_WITHIN, "the end of the PostgreSQL before")
        log = self.folder / "out.log"
        self._said_before = log.stat().st_size if log.exists() else 0
        command = [*AS_NOBODY, str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", ""]
        command += [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self._process = start_process(command, log=self.folder / "out.log", environment={})
        wait_until(self._is_ready, STARTED_WITHIN, f"PostgreSQL, see {self.folder}/out.log")
        return self

    def _is_gone(self) -> bool:
        """Whether no process of the one before is left: each has the folder as its own, and the shared memory open."""
        for link in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if link.readlink() == self.folder / "data":
                    return False
        return True

    def _is_ready(self) -> bool:
        assert self._process
        log = (self.folder / "out.log").read_bytes()[self._said_before :].decode(errors="replace")
        assert self._process.poll() is None, log[-3000:]
        return "ready to accept connections" in log and listens(self.port)

    def stop(self) -> None:
        """End it at once, as `kill -9`."""
        stop_process(self._process)

    def close(self) -> None:
        """End it, and delete what it has."""
        self.stop()
        self._reserved.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def as_index(self, storage: Path) -> dict[str, Any]:
        """Return the keys of an Orthanc's configuration with which this is its index, `storage` the folder of its files.

        Several Orthancs may have the same.
        """
        plugin = python_plugin()
        connection = {"Host": "127.0.0.1", "Port": self.port, "Database": "postgres", "Username": "orthanc"}
        return {
            "Plugins": [str(plugin), str(plugin.with_name("libOrthancPostgreSQLIndex.so"))],
            "PostgreSQL": {
                **connection,
                **{"Password": "", "EnableIndex": True, "EnableStorage": False, "Lock": False},
                "IndexConnectionsCount": 5,
            },
            "StorageDirectory": str(storage),
        }
