# SPDX-License-Identifier: AGPL-3.0-or-later
"""The nodes, peers and DICOMweb servers that Orthanc knows."""

import json

import orthanc

from auto_retries.recipes import Destinations


class KnownDestinations:
    """The nodes and peers that Orthanc knows now, read once until one of them is changed, and the DICOMweb plugin's servers.

    Parameters
    ----------
    servers_route : path of the DICOMweb plugin's servers.
    """

    def __init__(self, servers_route: str = "dicom-web/servers") -> None:
        self._servers_route = servers_route
        self._known: dict[str, Destinations] = {}

    def path(self, route: str) -> str:
        """Return the path of a route, which is below the plugin's root for "servers"."""
        return self._servers_route if route == "servers" else route

    def of(self, route: str) -> Destinations:
        """Return those of a route, "modalities", "peers" or "servers", by name, with their settings."""
        if route == "servers":
            return self._servers()
        known = self._known  # what was read before a change, and comes after it, ends in what is read no more
        if route not in known:
            known[route] = json.loads(orthanc.RestApiGet(f"/{route}?expand"))
        return known[route]

    def _servers(self) -> Destinations:
        """Return the servers of the DICOMweb plugin, none without it: there is no event when they change."""
        try:
            found: Destinations = json.loads(orthanc.RestApiGetAfterPlugins(f"/{self._servers_route}?expand"))
        except orthanc.OrthancException:
            return {}
        return found

    def on_updated(self) -> None:
        """Read them again when they are needed."""
        self._known = {}
