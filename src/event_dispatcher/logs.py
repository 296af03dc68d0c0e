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
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s [%(filename)s:%(lineno)d] "))
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


# What moves a terminal's cursor, breaks a line, or turns the direction of the text: an attacker would forge lines by it.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


def in_one_line(text: str) -> str:
    """Return a text that is one line for each reader of the log, and can be written (half a surrogate can't)."""
    return CONTROLS.sub(" ", text).encode("utf-8", "backslashreplace").decode()


class PlainFormatter(logging.Formatter):
    """Writes each message as one line, and tracebacks indented, without escapes: nothing of it looks like another line.

    `fmt` is what comes before the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [self.formatMessage(record) + record.message]
        if record.exc_info:
            lines += "".join(traceback.format_exception(*record.exc_info)).splitlines()
        if record.stack_info:
            lines += record.stack_info.splitlines()
        return "\n  ".join(map(in_one_line, lines))


class OrthancLog(logging.Handler):
    """Writes records to Orthanc's log."""

    def __init__(self, orthanc: Any) -> None:
        super().__init__()
        self._orthanc = orthanc
        self.setFormatter(PlainFormatter("[%(filename)s:%(lineno)d] "))

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
