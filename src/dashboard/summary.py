# SPDX-License-Identifier: AGPL-3.0-or-later
"""The first view as one answer: what `GET /dashboard/summary` says."""

from __future__ import annotations

import time
from typing import Any

from common.times import utc
from common.version import __version__

from .alerts import alerts_of, state_of_destination
from .flow import Flow
from .gathering import Gathered
from .minutes import Sinces


def things_of(found: Gathered) -> dict[str, str]:
    """Return the state of each thing of which it is written down since when it is so: destinations, scripts, alerts."""
    return {
        **{f"script:{each['Name']}": str(each["State"]) for each in found.scripts},
        **{
            f"state:{script}:{name}": state_of_destination(entry)
            for script, destinations in found.destinations.items()
            for name, entry in destinations.items()
        },
        **{f"alert:{each['ID']}": "on" for each in alerts_of(found)},
    }


def summary_of(found: Gathered, flow: Flow, sinces: Sinces) -> dict[str, Any]:
    """Return the summary. It names scripts, destinations and brokers, and no patient."""
    system, statistics = found.system, found.statistics
    return {
        "At": utc(),
        "Server": {
            "Name": system.get("Name"),
            "Version": system.get("Version"),
            "DicomAet": system.get("DicomAet"),
            "DicomPort": system.get("DicomPort"),
            "DashboardVersion": __version__,
            "UtcOffsetSeconds": time.localtime().tm_gmtoff,
            "Patients": statistics.get("CountPatients"),
            "Studies": statistics.get("CountStudies"),
            "Series": statistics.get("CountSeries"),
            "Instances": statistics.get("CountInstances"),
            "Bytes": int(statistics.get("TotalDiskSize", 0)),
            "FreeBytes": found.free,
            "RoomBytes": found.room,
        },
        "Flow": flow.now(),
        "Alerts": [{**each, "Since": sinces.of(f"alert:{each['ID']}")} for each in alerts_of(found)],
        "Destinations": [
            {
                "Script": script,
                "Route": f"/{script.replace('_', '-')}",
                "Name": name,
                "State": state_of_destination(entry),
                "Since": sinces.of(f"state:{script}:{name}"),
                "Error": entry.get("Error") or "",
                "Slow": entry.get("Slow"),
                "Totals": entry.get("Totals", {}),
                "LastMinute": flow.delivered_to(script, name),
            }
            for script, destinations in found.destinations.items()
            for name, entry in destinations.items()
        ],
        "Scripts": [
            {
                **each,
                "Since": sinces.of(f"script:{each['Name']}"),
                "Totals": found.statuses.get(each["Name"], {}).get("Totals", {}),
                "LastError": found.statuses.get(each["Name"], {}).get("LastError"),
                "Callbacks": found.callbacks.get(each["Name"]),
            }
            for each in found.scripts
        ],
    }
