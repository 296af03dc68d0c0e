# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forwards studies to other Orthancs (HTTP or HTTPS), by rules, so that they arrive.

What is sent is written down first: a restart, `kill -9`, or a peer that is away for days loses nothing. Failed
deliveries are sent again, less and less often, for three days. What the archive held before this script came is never sent by
itself.

A smallest configuration (without the section, every peer in `OrthancPeers` gets every study when it is stable):

    "OrthancPeers": {"research": ["https://192.168.1.20:8042/", "user", "password"]},
    "AutoForwardPeer": {"Destinations": ["research"]}

To look at and to act on, with curl:

    GET  /auto-forward-peer/status              and  /destinations  /rules
    GET  /auto-forward-peer/deliveries?state=dead        also destination=, study=, job=, since=, limit=
    POST /auto-forward-peer/deliveries/{id}/retry        and DELETE /auto-forward-peer/deliveries/{id}
    POST /auto-forward-peer/destinations/{name}/pause    and /resume
    POST /auto-forward-peer/rules/test                   {"Resource": "…"}: what would happen, and why
    POST /auto-forward-peer/backfill                     {"From": "20240101", "To": "20240131", "DryRun": true}

Needs nothing but Python's standard library. All keys: docs/auto_forward_peer.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import orthanc

from common.jobs import url_of_peer
from common.loopback import Loopback
from common.metrics import listen_to_changes
from common.routes import one_line, warn_if_open
from common.settings import SettingsError, read_settings
from common.version import __version__  # noqa: F401 - the built script has it
from forwarding.api import register_routes
from forwarding.forwarder import Forwarder
from forwarding.misconfigured import MisconfiguredError
from forwarding.peer_http import OnlyOrthancCanAskError
from forwarding.peer_proof import proved_by_peer
from forwarding.peers import Peers
from forwarding.settings import NEEDS_SECTION, ForwardingSettings, SendOptions, wrong_with_settings
from forwarding.transports import Transport

SECTION = "AutoForwardPeer"
STORE_OPTIONS = ("Compress", "Transcode", "Priority")  # of `/peers/{id}/store`


@dataclasses.dataclass(frozen=True)
class DestinationOptions(SendOptions):
    """What is particular to one peer."""

    verify: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "It counts as delivered when the peer says that it has each instance; not for one that passes on."
        },
    )
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={
            "texts": ("Transcode",),
            "help": f"Options of Orthanc's `/peers/{{id}}/store`: `{'`, `'.join(STORE_OPTIONS)}`.",
        },
    )

    @property
    def is_verified(self) -> bool:
        """Return whether the peer is asked what it has of what it took."""
        return self.verify


@dataclasses.dataclass(frozen=True)
class Settings(ForwardingSettings):
    """The section `AutoForwardPeer`."""

    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None,
        metadata={"help": "Names from `OrthancPeers`; null: every peer that Orthanc knows, also later; `[]`: none."},
    )
    delete_after_forward: bool = dataclasses.field(
        default=False,
        metadata={"help": "Delete here what every destination has proved to have: by its REST API."},
    )
    destination_options: dict[str, DestinationOptions] = dataclasses.field(
        default_factory=dict, metadata={"help": "Settings of single destinations, by name (below)."}
    )


def is_for(content: Mapping[str, Any], destination: Mapping[str, Any]) -> bool:
    """Return whether the content of an OrthancPeerStore job names this entry of `OrthancPeers`."""
    return bool(url_of_peer(content).rstrip("/") == destination["Url"].rstrip("/"))


def came_from(_origin: Mapping[str, str], _destination: Mapping[str, Any]) -> bool:
    """Return False, as peers can't be distinguished by origin; what comes back is known by its content or is no news."""
    return False


def probe(loopback: Loopback, name: str) -> None:
    """Ask a peer for its `/system`; raises `LoopbackError` if it does not answer."""
    loopback.get(f"/peers/{urllib.parse.quote(name, safe='')}/system")


def check(settings: Settings, peers: Peers, name: str) -> None:
    """Raise `MisconfiguredError` unless a peer is an Orthanc that can be asked what its options want it to be asked."""
    options = settings.destination_options.get(name)
    if options and options.verify:
        try:
            peers.settings(name)
        except OnlyOrthancCanAskError as error:
            raise MisconfiguredError(f"{error}, and Verify can't be done without") from error
    peers.check(name)


def prove(
    peers: Peers,
    _loopback: Loopback,
    name: str,
    instances: Mapping[str, Mapping[str, Any]],
    _asked: dict[str, Any],
) -> set[str]:
    """Return which instances a peer has, by its REST API: by Orthanc's identifiers, hence of the same patients."""
    return proved_by_peer(peers, name, instances)


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_settings(settings, configuration, STORE_OPTIONS):
            raise SettingsError(f"{SECTION}.{wrong}")
    except SettingsError as error:
        refusal = one_line(f"{error}. auto_forward_peer is idle until this is corrected.")
        orthanc.LogError(refusal)
    peers = Peers(configuration, Loopback(configuration))
    transport = Transport(
        *("peers", "UPDATED_PEERS", "OrthancPeerStore", is_for, came_from, probe, functools.partial(prove, peers)),
        check=functools.partial(check, settings, peers),
        has=peers.instances_of,
        deliver=peers.deliver,
    )
    is_unused = refusal is None and NEEDS_SECTION and SECTION not in configuration
    if is_unused:
        refusal = f"Nothing is sent without a section {SECTION} in the configuration"
    forwarder = Forwarder("auto-forward-peer", transport, Settings() if refusal else settings, configuration)
    script = register_routes(forwarder, refusal, is_unused=is_unused)
    if refusal is None:
        warn_if_open("auto_forward_peer", configuration)
        forwarder.register(script)
    else:
        listen_to_changes(script)


register()
