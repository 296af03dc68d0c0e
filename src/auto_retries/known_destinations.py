# SPDX-License-Identifier: AGPL-3.0-or-later
"""The nodes and peers that Orthanc knows."""

import json

import orthanc

from auto_retries.recipes import Destinations


class KnownDestinations:
    """The nodes and peers that Orthanc knows now, read once until one of them is changed."""

    def __init__(self) -> None:
        self._known: dict[str, Destinations] = {}

    def of(self, route: str) -> Destinations:
        """Return those of a route, "modalities" or "peers", by name, with their settings."""
        known = self._known  # what was read before a change, and comes after it, ends in what is read no more
        if route not in known:
            known[route] = json.loads(orthanc.RestApiGet(f"/{route}?expand"))
        return known[route]

    def on_updated(self) -> None:
        """Read them again when they are needed."""
        self._known = {}
