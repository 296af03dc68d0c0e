# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds lines of the log by an index in memory: what nobody asks for is not read."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.line_index import LineBlock, LineIndex

from .lines import log_files, parse_line

NAMES = ("Patient", "Study", "StudyInstanceUID")
NAME_BITS = 8192  # of a block: one that doesn't have a name is read for it once in some fifty times
READ_AHEAD_BYTES = 1 << 20  # at a time


class BlockOfLines:
    """What is known of some lines: their events, their times, and by one bit each which patients and studies they name.

    Attributes
    ----------
    newest : the highest number of a line.
    events : how many lines there are of each event.
    earliest, latest : of their times; the clock may have been set back in between.
    """

    __slots__ = ("_names", "earliest", "events", "latest", "newest")

    def __init__(self) -> None:
        self.newest, self.events = 0, Counter[str]()
        self.earliest = self.latest = ""
        self._names = 0

    def add(self, line: bytes) -> None:
        """Take in a line; what is none counts as nothing."""
        if (entry := _entry_of(line)) is None:
            return
        at = entry["At"]
        self.earliest, self.latest = min(self.earliest or at, at), max(self.latest, at)
        self.newest = max(self.newest, entry["Number"])
        self.events[str(entry.get("Event", ""))] += 1
        for name in map(entry.get, NAMES):
            if isinstance(name, str):
                self._names |= _bit_of(name)

    def may_name(self, text: str) -> bool:
        """Return False if no line names this patient or study."""
        return bool(self._names & _bit_of(text))


def _bit_of(name: str) -> int:
    return 1 << zlib.crc32(name.encode(errors="surrogatepass")) % NAME_BITS


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None: it is none, or damaged. What is counted and what is shown are the same lines."""
    found = parse_line(line)
    return found.content if found and isinstance(found.content.get("At"), str) else None


@dataclasses.dataclass(frozen=True)
class LineFilter:
    """Which lines a request asks for; an empty text fits all."""

    patient: str
    study: str
    event: str
    since: str
    until: str

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> LineFilter:
        """Return the filter that parameters describe."""
        return cls(*(given.get(field.name, "") for field in dataclasses.fields(cls)))

    def needles(self) -> list[bytes]:
        """Return texts that each line holds."""
        return [_in_line(value) for value in (self.patient, self.study, self.event) if value]

    def includes(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a line is asked for."""
        return (
            self.patient in ("", entry.get("Patient"))
            and self.study in ("", entry.get("Study"), entry.get("StudyInstanceUID"))
            and self.event in ("", entry.get("Event"))
            and self.since <= entry["At"]
            and (not self.until or entry["At"] < self.until)
        )

    def may_be_in(self, block: BlockOfLines) -> bool:
        """Return False if no line of a block is asked for."""
        return (
            all(block.may_name(value) for value in (self.patient, self.study) if value)
            and (not self.event or self.event in block.events)
            and self.since <= block.latest
            and (not self.until or block.earliest < self.until)
        )

    def count_in(self, block: BlockOfLines) -> int | None:
        """Return how many lines of a block are asked for, or None: they have to be read."""
        in_span = self.since <= block.earliest and (not self.until or block.latest < self.until)
        if self.patient or self.study or not in_span:
            return None
        return block.events[self.event] if self.event else block.events.total()


def _in_line(value: str) -> bytes:
    return json.dumps(value).encode()


class LogIndex:
    """An index of the files of a log, in memory: each line is read once, of each block a kilobyte and some events are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._indexes = folder, dict[Path, LineIndex[BlockOfLines]]()

    def forget_newest(self) -> None:
        """Read the newest file anew at the next look: lines at its end were cut off."""
        for path in log_files(self._folder)[-1:]:
            self._of(path).forget()

    def read_ahead(self) -> bool:
        """Take in some lines, so that nobody waits for it who asks for a page; return whether there are more."""
        return not all(self._of(path).update(READ_AHEAD_BYTES) for path in log_files(self._folder))

    def page(self, asked: LineFilter, after: int, limit: int) -> dict[str, Any]:
        """Return at most so many of the lines that are asked for, oldest first, with a number above `after`."""
        total, items = 0, list[dict[str, Any]]()
        for index, block in self._blocks():
            if not asked.may_be_in(block.summary):
                continue
            is_shown = len(items) <= limit and block.summary.newest > after
            if not is_shown and (count := asked.count_in(block.summary)) is not None:
                total += count
                continue
            for entry in _entries(index, block, asked):
                total += 1
                if entry["Number"] > after and len(items) <= limit:
                    items.append(entry)
        more = len(items) > limit
        return {"Total": total, "Items": items[:limit], "Next": items[limit - 1]["Number"] if more else None}

    def _of(self, path: Path) -> LineIndex[BlockOfLines]:
        return self._indexes.setdefault(path, LineIndex(path, BlockOfLines))

    def _blocks(self) -> Iterator[tuple[LineIndex[BlockOfLines], LineBlock[BlockOfLines]]]:
        files = log_files(self._folder)
        for path in {*list(self._indexes)}.difference(files):  # too old, and deleted
            self._indexes.pop(path, None)
        for path in files:
            index = self._of(path)
            try:
                index.update()
            except FileNotFoundError:  # deleted meanwhile
                continue
            yield from ((index, block) for block in index.blocks())


def _entries(
    index: LineIndex[BlockOfLines], block: LineBlock[BlockOfLines], asked: LineFilter
) -> Iterator[dict[str, Any]]:
    """Yield the lines of a block that are asked for; none if its file was deleted meanwhile."""
    needles = asked.needles()
    try:
        for _, raw in index.lines(block):
            if all(needle in raw for needle in needles) and (entry := _entry_of(raw)) and asked.includes(entry):
                yield entry
    except FileNotFoundError:
        return
