# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forwards studies to DICOMweb servers (STOW-RS), by rules, so that they arrive.

What is sent is written down first: a restart, `kill -9`, or a server that is away for days loses nothing. Failed
deliveries are sent again, less and less often, for three days. What the archive held before this script came is never sent by
itself.

A smallest configuration (without the section AutoForwardDicomweb, every server in `DicomWeb.Servers` gets every study when
it is stable). The DICOMweb plugin has to be loaded:

    "DicomWeb": {"Servers": {"cloud": ["https://dicom.example.org/dicom-web/", "user", "password"]}},
    "AutoForwardDicomweb": {"Destinations": ["cloud"]}

To look at and to act on, with curl:

    GET  /auto-forward-dicomweb/status              and  /destinations  /rules
    GET  /auto-forward-dicomweb/deliveries?state=dead        also destination=, study=, job=, since=, limit=
    POST /auto-forward-dicomweb/deliveries/{id}/retry        and DELETE /auto-forward-dicomweb/deliveries/{id}
    POST /auto-forward-dicomweb/destinations/{name}/pause    and /resume
    POST /auto-forward-dicomweb/rules/test                   {"Resource": "…"}: what would happen, and why
    POST /auto-forward-dicomweb/backfill                     {"From": "20240101", "To": "20240131", "DryRun": true}

Needs nothing but Python's standard library, and the DICOMweb plugin (Debian: orthanc-dicomweb). All keys:
docs/auto_forward_dicomweb.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import orthanc

from common.loopback import Loopback
from common.metrics import listen_to_changes
from common.routes import one_line, warn_if_open
from common.settings import SettingsError, read_settings
from common.version import __version__  # noqa: F401 - the built script has it
from forwarding.api import register_routes
from forwarding.dicomweb import DicomWebServers
from forwarding.forwarder import Forwarder
from forwarding.settings import NEEDS_SECTION, ForwardingSettings, SendOptions, wrong_with_settings
from forwarding.transports import Transport

SECTION = "AutoForwardDicomweb"
STORE_OPTIONS = ("Priority",)  # of `/servers/{name}/stow`; headers are an option of the server itself
MEGABYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class DestinationOptions(SendOptions):
    """What is particular to one server."""

    verify: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "It counts as delivered when the server, asked by QIDO-RS, says that it has each instance, of its patient."
        },
    )
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={
            "texts": (),
            "help": f"Options of the plugin's `/servers/{{name}}/stow`: `{'`, `'.join(STORE_OPTIONS)}`.",
        },
    )

    @property
    def is_verified(self) -> bool:
        """Return whether the server is asked what it has of what it took."""
        return self.verify


@dataclasses.dataclass(frozen=True)
class Settings(ForwardingSettings):
    """The section `AutoForwardDicomweb`."""

    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Names from `DicomWeb.Servers`; null: every server that the plugin knows, also later; `[]`: none."
        },
    )
    delete_after_forward: bool = dataclasses.field(
        default=False,
        metadata={"help": "Delete here what every destination has proved to have: by QIDO-RS."},
    )
    max_request_megabytes: int = dataclasses.field(
        default=50,
        metadata={
            "minimum": 1,
            "help": "A larger study is sent in several requests, one after the other; a larger instance in one of its own.",
        },
    )
    destination_options: dict[str, DestinationOptions] = dataclasses.field(
        default_factory=dict, metadata={"help": "Settings of single destinations, by name (below)."}
    )


def is_for(_content: Mapping[str, Any], _destination: Mapping[str, Any]) -> bool:
    """Return False: the plugin's jobs end with the process, so that none is to be found again after a restart."""
    return False


def came_from(_origin: Mapping[str, str], _destination: Mapping[str, Any]) -> bool:
    """Return False, as Orthanc does not say who sent what came by STOW-RS; what comes back is no news here."""
    return False


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_settings(settings, configuration, STORE_OPTIONS, can_modify=False):
            raise SettingsError(f"{SECTION}.{wrong}")
    except SettingsError as error:
        refusal = one_line(f"{error}. auto_forward_dicomweb is idle until this is corrected.")
        orthanc.LogError(refusal)
    servers = DicomWebServers(configuration, Loopback(configuration), is_wanted=SECTION in configuration)
    transport = Transport(
        *(servers.route, None, "DicomWebStowClient", is_for, came_from, servers.probe, servers.prove),
        has=servers.instances_of,
        asks_after_failure=True,
        verb="stow",
        largest_request=settings.max_request_megabytes * MEGABYTE,
        missing=servers.missing,
    )
    is_unused = refusal is None and NEEDS_SECTION and SECTION not in configuration
    if is_unused:
        refusal = f"Nothing is sent without a section {SECTION} in the configuration"
    forwarder = Forwarder("auto-forward-dicomweb", transport, Settings() if refusal else settings, configuration)
    script = register_routes(forwarder, refusal, is_unused=is_unused)
    servers.register_route(forwarder.turns.bound, refusal)
    if refusal is None:
        warn_if_open("auto_forward_dicomweb", configuration)
        forwarder.register(script)
    else:
        listen_to_changes(script)


register()
