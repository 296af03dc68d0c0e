# SPDX-License-Identifier: AGPL-3.0-or-later
"""An Orthanc to write a script with: it starts with the script, and again whenever a file of it changes.

    make dev SCRIPT=path.py            DEV_ARGS="--config orthanc.json --http-port 9042"

It answers this machine only, and keeps what it stores in a temporary folder until Ctrl-C. A restart takes well under a second:
the script gets its ORTHANC_STOPPED, then Orthanc is killed instead of waiting three seconds for its own shutdown. That
endangers nothing: SQLite and the files are whole after a kill, and nobody else's data is here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from testing.logs import LINE
from testing.server import OrthancFailedError, OrthancServer, site_packages
from testing.waiting import wait_until

ROOT = Path(__file__).parent.parent
LOOK_EVERY = 0.1  # seconds
STOPPING = "Orthanc is stopping"  # in the log, after the script has had its ORTHANC_STOPPED
PATIENCE = 2.0  # seconds that the script has for that
# Python takes its cache for current if the second and the size of the source are the same: two quick changes, and the first runs.
NO_CACHE = {"PYTHONDONTWRITEBYTECODE": "1"}
COLORS = {"E": "\033[31m", "W": "\033[33m", "I": "\033[2m", "T": "\033[2m"}
NOT_JSON = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)  # a text, which is left, or a comment
BOLD, PLAIN = "\033[1m", "\033[0m"


def sources(script: Path, config: Path | None) -> Iterator[Path]:
    """What a change of starts Orthanc again: the script, the modules and packages beside it, the configuration."""
    yield from script.parent.glob("*.py")
    yield from (path for path in script.parent.glob("[!.]*/*.py") if path.is_file())
    if config:
        yield config


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a file of Orthanc's configuration, which may have comments. Raises ValueError with file and line."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if found[0][0] == '"' else "\n" * found[0].count("\n")

    try:
        content = json.loads(NOT_JSON.sub(blank, path.read_text("utf-8-sig")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found no object of keys and values")
    return content


def state(script: Path, config: Path | None) -> dict[Path, int]:
    found = {}
    for path in {script, *sources(script, config)}:
        try:
            found[path] = path.stat().st_mtime_ns
        except OSError:  # an editor replaces it just now
            found[path] = 0
    return found


def pointed(line: str) -> str:
    """A line of a traceback, its place as editors and terminals open it: `/path/script.py:12 in hello`."""
    return re.sub(
        r'^( *)File "(.+)", line (\d+)(?:, in (.+))?$', lambda m: f"{m[1]}{m[2]}:{m[3]} in {m[4] or '…'}", line
    )


class Printer:
    """Prints the lines that are added to a log, in the colour of their level; those of the script's own files in bold."""

    def __init__(self, log: Path, own: Path, color: bool) -> None:
        self._log, self._own, self._color = log, own, color
        self._level, self._read, self._rest = "I", 0, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self._print_what_is_new()
        self._print_what_is_new()

    def _print_what_is_new(self) -> None:
        if not self._log.exists():
            return
        with self._log.open(errors="replace") as file:
            file.seek(self._read)
            text = self._rest + file.read()
            self._read = file.tell()
        *lines, self._rest = text.split("\n")
        for line in lines:
            print(self.painted(line), flush=True)

    def painted(self, line: str) -> str:
        if own := LINE.fullmatch(line):
            self._level = own[1]
        line = pointed(line)
        if not self._color:
            return line
        bold = BOLD if re.match(rf" *{re.escape(str(self._own))}/", line) else ""
        return f"{COLORS[self._level]}{bold}{line}{PLAIN}"


class Development:
    """One Orthanc that is started again and again, on the same ports and data."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._script: Path = options.script.absolute()
        self._config: Path | None = options.config and options.config.absolute()
        self._ports = {
            key: port
            for key, port in (("HttpPort", options.http_port), ("DicomPort", options.dicom_port))
            if port  # 0: any that is free
        }
        path = os.pathsep.join(filter(None, (site_packages(), str(ROOT))))  # finds event_dispatcher.py here
        self.server = OrthancServer(
            folder,
            self._script,
            self._configuration(),
            environment={"PYTHONPATH": path, **NO_CACHE},
            verbose=options.verbose,
        )

    def _configuration(self) -> dict[str, Any]:
        content = read_configuration(self._config) if self._config else {}
        return {**content, **self._ports}

    def run(self) -> None:
        """Start it, and again at each change, for ever."""
        began = time.monotonic()
        while True:
            before = state(self._script, self._config)
            self._start(began)
            while state(self._script, self._config) == before:
                time.sleep(LOOK_EVERY)
                if self.server.process and not self.server.running:
                    print(f"Orthanc has ended with status {self.server.process.returncode}. Waiting for a change ...")
                    self.server.process = None
            began = time.monotonic()
            print("A file has changed: starting again ...", flush=True)
            self.stop()

    def _start(self, began: float) -> None:
        try:
            self.server.configuration.update(self._configuration())
            self.server.start()
        except OrthancFailedError:
            print("Orthanc did not start: the log above says why. Waiting for a change ...", flush=True)
        except ValueError as error:
            print(f"{error}. Waiting for a change ...", flush=True)
        else:
            addresses = f"{self.server.url}/app/explorer.html, DICOM port {self.server.dicom_port}"
            print(f"Started in {time.monotonic() - began:.2f} s with {self._script.name}: {addresses}", flush=True)

    def stop(self) -> None:
        """Let the script have its ORTHANC_STOPPED, and no more."""
        seen = self.server.log.count(STOPPING)
        if self.server.terminate():
            try:
                wait_until(lambda: self.server.log.count(STOPPING) > seen or not self.server.running, PATIENCE)
            except TimeoutError:
                print(f"{self._script.name} has not ended within {PATIENCE:g} s, and is killed.")
        self.server.kill()


def stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="make dev SCRIPT=path.py DEV_ARGS=…", description=__doc__)
    parser.add_argument("script", type=Path)
    parser.add_argument("--config", type=Path, help="a file of Orthanc's configuration")
    parser.add_argument("--http-port", type=int, default=8042, help="0: any that is free")
    parser.add_argument("--dicom-port", type=int, default=4242, help="likewise")
    parser.add_argument("--verbose", action="store_true", help="Orthanc's INFO lines too")
    parser.add_argument("--color", action="store_true", default=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: what a shell starts in the background ignores it
        signal.signal(number, stop)
    for path in filter(None, (options.script, options.config)):
        if not path.is_file():
            parser.error(f"there is no file {path}")
    if options.config:
        try:
            read_configuration(options.config)
        except ValueError as error:
            parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="orthanc-dev-") as folder:
        development = Development(options, Path(folder))
        printer = Printer(Path(folder) / "orthanc.log", options.script.absolute().parent, options.color)
        try:
            development.run()
        except KeyboardInterrupt:
            print("Stopping Orthanc ...", flush=True)
            development.stop()
        finally:
            development.server.close()
            printer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
