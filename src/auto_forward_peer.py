# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forwards studies to other Orthancs (HTTP or HTTPS), by rules, so that they arrive.

What is sent is written down first: a restart, `kill -9`, or a peer that is away for days loses nothing. Failed
deliveries go again, ever more rarely, for three days. What the archive held before this script came is never sent by itself.

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
import encodings.idna  # noqa: F401
import functools
import json
import socket
import urllib.parse
from collections.abc import Mapping
from typing import Any

import orthanc

from common.answers import one_line, warn_if_open
from common.loopback import Loopback
from common.settings import SettingsError, not_empty, read_settings
from forwarding.deliveries import Deliveries
from forwarding.forwarder import Forwarder, Kind, wrong_with_rules
from forwarding.identity import MisconfiguredError
from forwarding.peers import OnlyOrthancCanAskError, Peers
from forwarding.rules import Rule, Window

__version__ = "0.1.0"

SECTION = "AutoForwardPeer"
STORE_OPTIONS = ("Compress", "Transcode", "Priority")  # of `/peers/{id}/store`


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a delivery that failed goes again."""

    first: float = dataclasses.field(default=30, metadata={"minimum": 1, "help": "Seconds until the second attempt."})
    longest: float = dataclasses.field(
        default=3600, metadata={"minimum": 1, "help": "Most seconds between two attempts."}
    )
    give_up_hours: float = dataclasses.field(
        default=72, metadata={"minimum": 0, "help": "Hours after which it is `dead`."}
    )


@dataclasses.dataclass(frozen=True)
class DestinationOptions:
    """What is particular to one destination."""

    max_jobs: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "help": "Jobs at a time, instead of `MaxPerDestination`."}
    )
    windows: tuple[Window, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": not_empty,
            "help": "Hours in which it may be sent to, by `Days`, `From`, `To`; not there: always.",
        },
    )
    verify: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "It counts as delivered when the peer says that it has each instance; not for one that passes on."
        },
    )
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": f"Of `/peers/{{id}}/store`: `{'`, `'.join(STORE_OPTIONS)}`."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AutoForwardPeer`."""

    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None,
        metadata={"help": "Names from `OrthancPeers`; null: every peer that Orthanc knows, also later; `[]`: none."},
    )
    rules: tuple[Rule, ...] | None = dataclasses.field(
        default=None, metadata={"help": "What goes where; null: all studies to all; `[]`: nothing by itself."}
    )
    rule_mode: str = dataclasses.field(
        default="first",
        metadata={"choices": ("first", "all"), "help": "The first rule that matches decides, or all do."},
    )
    trigger: str = dataclasses.field(
        default="Stable",
        metadata={
            "choices": ("Stable", "Stored"),
            "help": "`Stable`: when it is stable (`StableAge`). `Stored`: in batches while it arrives, then what was missing.",
        },
    )
    skip_modified: bool = dataclasses.field(
        default=False, metadata={"help": "Leave out instances that Orthanc made by modification or anonymization."}
    )
    delete_after_forward: bool = dataclasses.field(
        default=False,
        metadata={"help": "Delete here what every destination has proved to have: by its REST API."},
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "When a failed delivery goes again."})
    max_per_destination: int | None = dataclasses.field(
        default=None,
        metadata={
            "minimum": 1,
            "help": "Jobs at a time for one destination; null: all of `ConcurrentJobs` for a single one, else one less.",
        },
    )
    destination_options: dict[str, DestinationOptions] = dataclasses.field(
        default_factory=dict, metadata={"help": "By name: `MaxJobs`, `Windows`, `Verify`, `Options`."}
    )
    reconcile: bool = dataclasses.field(
        default=True, metadata={"help": "False in all but one of several Orthancs that share a database."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the ledger also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that finished deliveries stay in the list."}
    )


def is_for(content: Mapping[str, Any], destination: Mapping[str, Any]) -> bool:
    """Whether the content of an OrthancPeerStore job names this entry of `OrthancPeers`."""
    return bool(content.get("Peer", [""])[0].rstrip("/") == destination["Url"].rstrip("/"))


def came_from(_origin: Mapping[str, str], _destination: Mapping[str, Any]) -> bool:
    """Peers can't be told apart by origin: what comes back is known by its content (OverwriteInstances) or is no news."""
    return False


def probe(loopback: Loopback, name: str) -> None:
    """Ask a peer for its `/system`; raises `LoopbackError` if it does not answer."""
    loopback.get(f"/peers/{urllib.parse.quote(name)}/system")


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
    """Which instances a peer has, by its REST API: by Orthanc's identifiers, hence of the same patients."""
    url = urllib.parse.urlsplit(peers.settings(name)["Url"])
    addresses = {found[4][0] for found in socket.getaddrinfo(url.hostname, None)}
    came = [one.get("Metadata", {}) for one in instances.values()]
    # Two that forward to each other and both delete would be left with nothing.
    if any(one.get("Origin") == "RestApi" and one.get("RemoteIP") in addresses for one in came):
        raise ValueError(f"it came in over HTTP from the address of {name}, which may count on it being here")
    return peers.copies_of(name, instances)


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_rules(settings, configuration, STORE_OPTIONS):
            raise SettingsError(f"{SECTION}.{wrong}")
    except SettingsError as error:
        refusal = one_line(f"{error}. auto_forward_peer is idle until this is corrected.")
        orthanc.LogError(refusal)
    peers = Peers(configuration, Loopback(configuration))
    kind = Kind(
        *("peers", "UPDATED_PEERS", "OrthancPeerStore", is_for, came_from, probe, functools.partial(prove, peers)),
        check=functools.partial(check, settings, peers),
        has=peers.instances_of,
    )
    forwarder = Forwarder("auto-forward-peer", kind, Settings() if refusal else settings, configuration)
    Deliveries(forwarder).register(refusal)
    if refusal is None:
        warn_if_open("auto_forward_peer", configuration)
        forwarder.register()


register()
