# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where Orthanc's DICOMweb plugin is."""

from collections.abc import Mapping
from typing import Any


def dicomweb_root(configuration: Mapping[str, Any]) -> str:
    """Return the path of the plugin's routes, without slashes at its ends: `dicom-web`."""
    section = configuration.get("DicomWeb")
    return str((section if isinstance(section, dict) else {}).get("Root", "/dicom-web/")).strip("/")


def dicomweb_servers_route(configuration: Mapping[str, Any]) -> str:
    """Return the path of the servers that the plugin can send to: `dicom-web/servers`."""
    return "/".join(filter(None, (dicomweb_root(configuration), "servers")))
