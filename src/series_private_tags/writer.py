# SPDX-License-Identifier: AGPL-3.0-or-later
"""Completes series by the values that they lack: first their metadata, then the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .archive import Archive
from .entries import Wanted
from .known_series import Known, KnownSeries


class Writer:
    """`written` are the series whose metadata it wrote, until the log of changes has named them."""

    def __init__(self, wanted: Wanted, known_series: KnownSeries, archive: Archive) -> None:
        self._wanted, self._known_series, self._archive = wanted, known_series, archive
        self.written: set[str] = set()

    def complete(self, series: str, values: Mapping[str, Any], *, was_looked_at: bool = False) -> None:
        """Add the values that a series lacks; `was_looked_at`: there are no others in its instances."""
        known = self._known_series.get(series)
        entries = self._wanted.entries.items()
        new = {entry.text: values[key] for key, entry in entries if key in values and entry.text not in known.found}
        found = {**known.found, **new}
        shown = json.dumps({key: found[entry.text] for key, entry in entries if entry.text in found})
        # What was looked for is written also if it is the same as before: somebody may have removed it.
        if shown != known.shown or (was_looked_at and new):
            if not self._archive.write_metadata(series, shown):
                return  # deleted meanwhile
            self.written.add(series)
        self._known_series.save(series, Known(found, shown), was_looked_at=was_looked_at)
