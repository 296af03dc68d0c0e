# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/brokers/log.py: edit that, never this file.
"""Orthanc's own log, a line for each event: to look, and to try things out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..broker_settings import LogConfig
from ..events import Event, Form
from . import Outcome, PromptBroker, Submitted


class Log(PromptBroker):
    """Writes warnings: what is lower is not shown unless Orthanc is verbose."""

    in_order = True

    def __init__(self, form: Form, say: Callable[[str, str], None]) -> None:
        super().__init__(form)
        self._say = say

    def message(self, event: Event) -> str:
        return f"event {self.form.body(event).decode()}"

    def deliver(self, events: list[Submitted]) -> list[Outcome]:
        for _, line in events:
            self._say("warning", line)
        return [Outcome(event.row) for event, _ in events]


def make(form: Form, _config: LogConfig, _folder: Path, say: Callable[[str, str], None]) -> Log:
    return Log(form, say)
