# SPDX-License-Identifier: AGPL-3.0-or-later
"""An Orthanc with all scripts combined, each with something to do, for tests of what is promised of all routes and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testing.installed import dicomweb_plugin, python_plugin
from tests.scripts import PACKAGES, SCRIPTS, combine_scripts


def combined(folder: Path) -> Path:
    """Combine all scripts that have routes, in a folder; return the file."""
    return combine_scripts(*SCRIPTS, *PACKAGES, to=folder / "combined.py")


def configuration(node: list[str | int]) -> dict[str, Any]:
    """Return a configuration in which no script is idle; `node` is a DICOM node."""
    return {
        "StableAge": 3600,
        "DicomModalities": {"NODE": node},
        "OrthancPeers": {"PEER": ["http://127.0.0.1:9/"]},
        "AutoForwardModality": {"Destinations": ["NODE"], "Rules": []},
        "AutoForwardPeer": {"Destinations": ["PEER"], "Rules": []},
        "Plugins": [str(python_plugin()), str(dicomweb_plugin())],
        "DicomWeb": {"Servers": {"CLOUD": ["http://127.0.0.1:9/"]}},
        "AutoForwardDicomweb": {"Destinations": ["CLOUD"], "Rules": []},
        "AnonymizeSeries": {"Secret": "s" * 40, "Recipes": {"plain": {}}, "ReIdentify": True},
        "AuditLog": {"WatchRequests": True},
        "DicomEvents": {"Broker": {"Type": "file"}},
        "PurgeOldStudies": {"Rules": [{"Name": "old", "OlderThan": "120y", "At": "02:30"}]},
        "SeriesMainPrivateDicomTags": ["0029,1010"],
    }
