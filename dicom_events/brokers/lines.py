# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/brokers/lines.py: edit that, never this file.
"""A file of lines, one JSON object each, rotated by size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .._common.append_only import AppendOnly

from ..broker_settings import FileConfig
from ..events import Event, Form
from . import Outcome, PromptBroker, Submitted


class Lines(PromptBroker):
    """Appends to a file of mode 0600; a line is confirmed when the operating system has it."""

    most_under_way, in_order = 1000, True

    def __init__(self, form: Form, config: FileConfig, folder: Path) -> None:
        super().__init__(form)
        self._path = folder / (config.path or "dicom_events.jsonl")
        self._most, self._keep = config.max_megabytes * 1_000_000, config.keep
        self._file: AppendOnly | None = None

    def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A torn line was never confirmed, and comes again.
        self._file = AppendOnly(self._path, is_ours=False)

    def message(self, event: Event) -> bytes:
        return self.form.body(event) + b"\n"

    def deliver(self, events: list[Submitted]) -> list[Outcome]:
        assert self._file
        if not self._file.is_at_its_path():  # deleted, or moved away: nobody would find what is written there
            self._file.close()
            self.open()
        size, together = self._file.size, b""
        for _, line in events:
            if size and size + len(line) > self._most:
                self._file.append(together)
                self._rotate()
                size, together = 0, b""
            together += line
            size += len(line)
        self._file.append(together)
        return [Outcome(event.row) for event, _ in events]

    def _rotate(self) -> None:
        assert self._file
        self._file.sync()
        self._file.close()
        for number in range(self._keep, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)
        self.open()

    def close(self) -> None:
        if self._file:
            self._file.close()


def make(form: Form, config: FileConfig, folder: Path, _say: Callable[[str, str], None]) -> Lines:
    return Lines(form, config, folder)
