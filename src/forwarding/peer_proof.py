# SPDX-License-Identifier: AGPL-3.0-or-later
"""Proof that a peer has instances: by its REST API."""

import socket
import urllib.parse
from collections.abc import Mapping
from typing import Any

from forwarding.peers import Peers


def proved_by_peer(peers: Peers, name: str, instances: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return which instances a peer has, by Orthanc's identifiers, hence of the same patients.

    Raises
    ------
    ValueError : one came from there; or what `Peers.copies_of` raises, as OSError and others do.
    """
    url = urllib.parse.urlsplit(peers.settings(name)["Url"])
    addresses = {found[4][0] for found in socket.getaddrinfo(url.hostname, None)}
    came = [one.get("Metadata", {}) for one in instances.values()]
    # Two that forward to each other and both delete would be left with nothing.
    if any(one.get("Origin") == "RestApi" and one.get("RemoteIP") in addresses for one in came):
        raise ValueError(f"it came in over HTTP from the address of {name}, which may count on it being here")
    return peers.copies_of(name, instances)
