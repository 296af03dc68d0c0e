# SPDX-License-Identifier: AGPL-3.0-or-later
"""Python's `logging` in Orthanc's log, or on standard error."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from typing import Any

from event_dispatcher.gate import SDK, StoppedError

LOG = logging.getLogger("event_dispatcher")


def orthanc_logging(orthanc: Any, level: int = logging.INFO) -> None:
    """Let Python's `logging` go to Orthanc's own log, with its levels (INFO shows with `--verbose`)."""
    _install(OrthancLog(orthanc), level)


def python_logging(_orthanc: Any, level: int = logging.INFO) -> None:
    """Let Python's `logging` go to standard error, with date and level."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(filename)s:%(lineno)d] %(message)s"))
    _install(handler, level)


def _install(handler: logging.Handler, level: int) -> None:
    # One for all scripts of a process, however often this is called.
    handler.set_name(LOG.name)
    root = logging.getLogger()
    for each in [each for each in root.handlers if each.get_name() == LOG.name]:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level)
    for noisy in ("httpx", "httpcore"):  # a line for each request, with what was asked for
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


class OrthancLog(logging.Handler):
    """Writes records to Orthanc's log, each message as one line, and tracebacks indented: nothing of it looks like a line."""

    def __init__(self, orthanc: Any) -> None:
        super().__init__()
        self._orthanc = orthanc

    def emit(self, record: logging.LogRecord) -> None:
        error, warning = record.levelno >= logging.ERROR, record.levelno >= logging.WARNING
        write = self._orthanc.LogError if error else self._orthanc.LogWarning if warning else self._orthanc.LogInfo
        try:
            text = self.format(record)
            try:
                with SDK.calling():
                    write(text)
            except StoppedError:
                sys.stderr.write(f"{text}\n")
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        message = re.sub(r"[\x00-\x1f\x7f]+", " ", record.getMessage())
        lines = [f"[{record.filename}:{record.lineno}] {message}"]
        if record.exc_info:
            lines += "".join(traceback.format_exception(*record.exc_info)).splitlines()
        return "\n  ".join(lines)
