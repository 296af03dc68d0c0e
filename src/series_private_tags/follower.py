# SPDX-License-Identifier: AGPL-3.0-or-later
"""Follows Orthanc's log of changes: an instance in there that no callback took (a restart came between) is read."""

from __future__ import annotations

import http
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from common.loopback import LoopbackError
from common.place import place_in_log

from .archive import Archive
from .entries import Wanted
from .known_series import KnownSeries
from .writer import Writer

CHANGES_PER_REQUEST = 1000
PATIENCE_SECONDS = 2.0  # until an instance that Orthanc has logged, and that no callback took, is read
MAX_INSTANCES_IN_MEMORY = 50_000  # that callbacks took, and that the log of changes has yet to name


class Follower:
    """Reads the log of changes from the place that the ledger keeps."""

    def __init__(self, wanted: Wanted, known_series: KnownSeries, archive: Archive, writer: Writer) -> None:
        self._wanted, self._known_series, self._archive, self._writer = wanted, known_series, archive, writer
        self._newest_at_start = 0
        self._taken: set[str] = set()  # instances that the log of changes has yet to name
        self._newest_seen = (
            0,
            0.0,
        )  # a Seq, and when it was the newest: up to there, what no callback took soon is read
        self._waits_for_callback = False

    @property
    def is_behind(self) -> bool:
        """Whether there is more to come soon: the log is to name what callbacks took, or the other way round."""
        return bool(self._taken) or self._waits_for_callback

    def begin(self, newest: int) -> None:
        """Take the place in the log of changes; in a new ledger, behind the newest."""
        kept = self._known_series.cursor
        self._known_series.set_cursor(place_in_log(kept, newest, "series_private_tags") if kept >= 0 else newest)
        self._newest_at_start = newest

    def add_taken(self, instance: str) -> None:
        """Remember that a callback took an instance: the log of changes may name it."""
        if len(self._taken) > MAX_INSTANCES_IN_MEMORY:
            self._taken.clear()  # of instances that were stored already the log says nothing
        self._taken.add(instance)

    def follow(self) -> bool:
        """Read one page of the log of changes; return whether there is more."""
        page = self._archive.changes(self._known_series.cursor, CHANGES_PER_REQUEST)
        last, new_series, done = page["Last"], [], []
        own_edits: set[str] = set()
        other_edits: set[str] = set()
        self._waits_for_callback = False
        for change in page["Changes"]:
            resource = change["ID"]
            if change["ChangeType"] == "NewSeries":
                if change["Seq"] <= self._newest_at_start:
                    self._check_unseen(resource)
                new_series.append((resource, change["Seq"]))
            elif change["ChangeType"] == "NewInstance":
                if not self._is_done(change):
                    last = change["Seq"] - 1
                    break
                done.append(resource)
            elif change["ChangeType"] == "UpdatedMetadata" and change["ResourceType"] == "Series":
                is_own = resource in self._writer.written and resource not in own_edits
                (own_edits if is_own else other_edits).add(resource)
        if not self._archive.loopback.has_extended_find:
            self._take_over_edits(other_edits)
        self._known_series.add_new(new_series, last)
        self._taken.difference_update(done)  # now that the place in the log is behind them
        self._writer.written -= own_edits
        if page["Done"] and last == page["Last"]:
            self._taken.clear()  # what is left was stored before: the log does not name it again
            self._writer.written.clear()
        return not page["Done"] and last == page["Last"]

    def _check_unseen(self, series: str) -> None:
        """Compare what is known of a series that came before the start with its metadata: it may have come again."""
        shown = self._known_series.shown_before_log(series)
        if shown is not None and shown != json.dumps(self._archive.values_of(series)):
            with self._known_series.ledger.transaction():
                self._known_series.forget(series)
                self._known_series.look_again(series)

    def _take_over_edits(self, series: Iterable[str]) -> None:
        """Take over what somebody else has written into the metadata, where lists are made of the ledger."""
        for each in series:
            self._known_series.set_shown(each, json.dumps(self._archive.values_of(each)))

    def _is_done(self, change: Mapping[str, Any]) -> bool:
        """Return whether an instance of the log needs no more waiting: a callback took it, or it is read now."""
        instance = change["ID"]
        if instance in self._taken:
            return True
        if change["Seq"] > self._newest_at_start:  # it comes in a moment
            if change["Seq"] > self._newest_seen[0]:
                self._newest_seen = self._archive.newest_change(), time.monotonic()
            if time.monotonic() < self._newest_seen[1] + PATIENCE_SECONDS:
                self._waits_for_callback = True
                return False
        series, values = self.read(instance)
        if values:
            self._writer.complete(series, values)
        return True

    def read(self, instance: str) -> tuple[str, dict[str, Any]]:
        """Return the series of an instance, and its values.

        Of one whose file Orthanc can't read none: its series is put on the list, and what follows does not wait.
        """
        try:
            return self._archive.read(instance, self._wanted)
        except LoopbackError as error:
            if error.status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            if series := self._archive.series_of(instance):
                self._known_series.look_again(series)
            return "", {}
