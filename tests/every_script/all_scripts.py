# SPDX-License-Identifier: AGPL-3.0-or-later
"""An Orthanc with all scripts combined, each with something to do, for tests of what is promised of all routes and files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from docs.openapi import scripts
from testing.installed import dicomweb_plugin, python_plugin

ROOT = Path(__file__).parents[2]


def combined(folder: Path) -> Path:
    """Combine all scripts that have routes, in a folder; return the file."""
    paths = [path.parent if path.name == "__init__.py" else path for path in scripts()]
    target = folder / "combined.py"
    subprocess.run([sys.executable, ROOT / "combine.py", *paths, "-o", target], check=True, capture_output=True)
    return target


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
