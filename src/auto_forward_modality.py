# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forwards studies to DICOM nodes (C-STORE), by rules, so that they arrive.

What is sent is written down first: a restart, `kill -9`, or a node that is away for days loses nothing. Failed
deliveries are sent again, less and less often, for three days. What the archive held before this script came is never sent by
itself.

A smallest configuration (without the section, every node in `DicomModalities` gets every study when it is stable):

    "DicomModalities": {"PACS": ["PACS", "192.168.1.10", 104]},
    "AutoForwardModality": {"Destinations": ["PACS"]}

To look at and to act on, with curl:

    GET  /auto-forward-modality/status              and  /destinations  /rules
    GET  /auto-forward-modality/deliveries?state=dead        also destination=, study=, job=, since=, limit=
    POST /auto-forward-modality/deliveries/{id}/retry        and DELETE /auto-forward-modality/deliveries/{id}
    POST /auto-forward-modality/destinations/{name}/pause    and /resume
    POST /auto-forward-modality/rules/test                   {"Resource": "…"}: what would happen, and why
    POST /auto-forward-modality/backfill                     {"From": "20240101", "To": "20240131", "DryRun": true}

Needs nothing but Python's standard library. All keys: docs/auto_forward_modality.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import urllib.parse
from collections.abc import Mapping
from typing import Any, ClassVar

import orthanc

from common.aets import ANY_CASE, AeTitles
from common.loopback import Loopback
from common.metrics import listen_to_changes
from common.routes import one_line, warn_if_open
from common.settings import SettingsError, read_settings
from common.version import __version__  # noqa: F401 - the built script has it
from forwarding.api import register_routes
from forwarding.forwarder import Forwarder
from forwarding.node_proof import NODE_PROOFS, proved_by_node
from forwarding.settings import NEEDS_SECTION, ForwardingSettings, SendOptions, store_options_help, wrong_with_settings
from forwarding.transports import Transport

SECTION = "AutoForwardModality"
# Of `/modalities/{id}/store`, in all versions together.
STORE_OPTIONS = (
    "LocalAet", "CalledAet", "Host", "Port", "MoveOriginatorAet", "MoveOriginatorID", "StorageCommitment", "Timeout", "Priority",
)  # fmt: skip
IF_DELAYED = (
    "set TCP_NODELAY=1 in the environment of that node, or give this machine a route to it with quickack 1, or send more "
    "studies at a time (ConcurrentJobs); see docs/slow_sending.md"
)


@dataclasses.dataclass(frozen=True)
class DestinationOptions(SendOptions):
    """What is particular to one node."""

    proof: str = dataclasses.field(
        default=NODE_PROOFS[0],
        metadata={
            "choices": NODE_PROOFS,
            "help": "How it proves what it has, for `DeleteAfterForward`. `StorageCommitmentOnly` can't distinguish patients.",
        },
    )
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={
            "texts": ("LocalAet", "CalledAet", "Host", "MoveOriginatorAet"),
            "help": f"Options of Orthanc's `/modalities/{{id}}/store`: {store_options_help(STORE_OPTIONS)}.",
        },
    )


@dataclasses.dataclass(frozen=True)
class Settings(ForwardingSettings):
    """The section `AutoForwardModality`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "TcpNoDelay": "DICOM goes at full speed now, unless Orthanc's environment has another value of TCP_NODELAY"
    }

    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None,
        metadata={"help": "Names from `DicomModalities`; null: every node that Orthanc knows, also later; `[]`: none."},
    )
    delete_after_forward: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "Delete here what every destination has proved to have: by Storage Commitment and C-FIND (`Proof`)."
        },
    )
    destination_options: dict[str, DestinationOptions] = dataclasses.field(
        default_factory=dict, metadata={"help": "Settings of single destinations, by name (below)."}
    )


def is_for(content: Mapping[str, Any], destination: Mapping[str, Any]) -> bool:
    """Return whether the content of a DicomModalityStore job names this entry of `DicomModalities`."""
    return bool(content.get("RemoteAet") == destination["AET"])


def came_from(origin: Mapping[str, str], destination: Mapping[str, Any], aets: AeTitles = ANY_CASE) -> bool:
    """Return whether an instance came from the AE title of this node."""
    return aets.same(origin.get("RemoteAET", ""), destination["AET"])


def probe(loopback: Loopback, name: str) -> None:
    """Ask a node by C-ECHO whether it is there; raises `LoopbackError` if not."""
    loopback.post(f"/modalities/{urllib.parse.quote(name, safe='')}/echo", {"Timeout": 3})


def prove(
    settings: Settings, loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], asked: dict[str, Any]
) -> set[str] | None:
    """Return which instances a node has, of these patients, by the proof that is chosen for it."""
    options = settings.destination_options.get(name)
    proof = options.proof if options else DestinationOptions.proof
    return proved_by_node(loopback, name, instances, asked, proof)


def deliver(loopback: Loopback, name: str, content: bytes) -> None:
    """Send one image, given as its file, to a node, over an association of its own. Raises `LoopbackError`."""
    loopback.post(f"/modalities/{urllib.parse.quote(name, safe='')}/store-straight", content)


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_settings(settings, configuration, STORE_OPTIONS):
            raise SettingsError(f"{SECTION}.{wrong}")
    except SettingsError as error:
        refusal = one_line(f"{error}. auto_forward_modality is idle until this is corrected.")
        orthanc.LogError(refusal)
    proves = functools.partial(prove, settings)
    came = functools.partial(came_from, aets=AeTitles(configuration))
    transport = Transport(
        *("modalities", "UPDATED_MODALITIES", "DicomModalityStore", is_for, came, probe, proves),
        if_delayed=IF_DELAYED,
        deliver=deliver,
    )
    is_unused = refusal is None and NEEDS_SECTION and SECTION not in configuration
    if is_unused:
        refusal = f"Nothing is sent without a section {SECTION} in the configuration"
    forwarder = Forwarder("auto-forward-modality", transport, Settings() if refusal else settings, configuration)
    script = register_routes(forwarder, refusal, is_unused=is_unused)
    if refusal is None:
        warn_if_open("auto_forward_modality", configuration)
        os.environ.setdefault("TCP_NODELAY", "1")  # DCMTK reads it at each connection, in both directions
        forwarder.register(script)
    else:
        listen_to_changes(script)


register()
