# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the log says of each event."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import orthanc

from common.arrivals import KIND, Arrival
from common.identifiers import orthanc_identifier
from common.jobs import url_of_peer
from common.routes import one_line

from .deleters import Deleters
from .places import Places
from .watching import SeenRequest
from .writer import LineWriter

# Viewers' plugins put something in front of an identifier or behind it: /web-viewer/instances/jpeg95-{id}_0
RESOURCE = re.compile(
    r"/(patients|studies|series|instances|images|tiles|pyramids|pydicom|anonymize-series)/(?:[a-z]+[0-9]*-)?"
    r"([0-9a-f]{8}(?:-[0-9a-f]{8}){4})(?:[/_]([a-z-]*))?"
)
ASKED_AT = {  # the level at which Orthanc is asked about an identifier in a route
    **{level: (level,) for level in ("studies", "series", "instances")},
    **dict.fromkeys(("images", "pydicom"), ("instances",)),
    **dict.fromkeys(("tiles", "pyramids"), ("series",)),
    "anonymize-series": ("series", "studies"),
}
LEVEL_NAMES = {0: "Patient", 1: "Study", 2: "Series"}  # orthanc.ResourceType
REQUEST_EVENTS = {"GET": "retrieve-attempt", "DELETE": "delete-attempt", "POST": "post-attempt", "PUT": "put-attempt"}
JOB_EVENTS = {
    "DicomModalityStore": "sent",
    "OrthancPeerStore": "sent",
    "DicomWebStowClient": "sent",
    "PushTransfer": "sent",
    "DicomMoveScu": "moved",
    "DicomGetScu": "moved",
    "Archive": "archived",
    "Media": "archived",
}


class EventLines:
    """Makes lines of events: finds out which study and patient each is about.

    Each method raises sqlite3.Error or OSError where the ledger can't be used now; called again later, nothing counts twice.
    """

    def __init__(self, places: Places, writer: LineWriter) -> None:
        self._places, self._writer, self._deleters = places, writer, Deleters()

    def on_stored(self, at: str, instance: str, arrival: Arrival) -> None:
        """Add that an instance was received, and the modification or anonymization that made it."""
        # First what may fail, then what is kept in memory: when this is done again, nothing counts twice.
        parents, uids = arrival.parents, arrival.uids
        origin = {name: value for name, value in arrival.origin.items() if name not in KIND}
        made_by = [name for name in ("ModifiedFrom", "AnonymizedFrom") if origin.pop(name, None)]
        place = {"Study": parents.get("Study", ""), "StudyInstanceUID": uids["Study"], "Patient": uids["Patient"]}
        if not parents:  # identifiers that are not ASCII
            place = self._places.find(instance, ("instances",)) or place
        for resource in parents.values():
            self._places.keep(resource, place)
        change_key = (made_by[0], place["Study"]) if made_by else ()
        # Before 1.12.5 a job of modification does not name its source; the instances that it made do.
        is_first = bool(made_by) and not self._writer.counts(change_key)
        source = self._places.find(arrival.origin[made_by[0]], ("instances",)) if is_first else {}
        entry = {"At": at, "Event": "received", **place, "From": origin}
        if made_by:
            entry["Made"] = made_by[0][:-4].lower()
        self._writer.add_or_count(("received", place["Study"], *origin.items(), *made_by), entry)
        if made_by:
            change = {"At": at, "Event": entry["Made"], **source, "Made": place["Study"]}
            self._writer.add_or_count(change_key, change)

    def on_deleted(self, at: str, level: int, resource: str) -> None:
        """Add that a resource was deleted, and who asked for it; of many instances, how many."""
        if level == orthanc.ResourceType.INSTANCE:
            by = self._by(resource)
            entry = {"At": at, "Event": "deleted", "Level": "Instance", "Resource": resource, **by}
            self._writer.add_or_count(("deleted", json.dumps(by)), entry)
            return
        place = self._places.find(resource, ())
        patient = orthanc_identifier(place["Patient"]) if place else ""
        by = self._by(*filter(None, (resource, place.get("Study"), patient)))
        if level == orthanc.ResourceType.PATIENT:
            place = {"Patient": place["Patient"]} if place else {}
        self._places.forget(resource)
        self._writer.add(at, "deleted", place, Level=LEVEL_NAMES[level], Resource=resource, **by)

    def _by(self, *resources: str) -> dict[str, Any]:
        who = self._deleters.of(*resources)
        return {"By": who} if who else {}

    def on_job_end(self, at: str, job: Mapping[str, Any], success: bool) -> None:
        """Add how a job ended, one line for each study that it was about."""
        content = job.get("Content", {})
        event = JOB_EVENTS.get(job["Type"], "job")
        # Of a DICOMweb push, if the plugin shows it: thousands of instances too.
        by_level = dict((content.get("Resources") or {}) if job["Type"] == "DicomWebStowClient" else {})
        of_instances = self._places.of_instances(by_level.pop("Instances", ()))
        resources = [
            *content.get("ParentResources", ()),
            content.get("SourceStudy"),
            *itertools.chain(*by_level.values()),
        ]
        found = [*map(self._places.find, dict.fromkeys(filter(None, resources))), *of_instances]
        places = {place.get("Study"): place for place in found}
        for place in places.values() or [{}]:
            self._writer.add(at, event, place, **_described_job(job, event, success))

    def on_request(self, seen: SeenRequest, *, is_written: bool = True) -> None:
        """Add who asked for what; of many requests of one kind, how many. All of those that delete are remembered."""
        resource = RESOURCE.search(seen.uri)
        self._deleters.note(seen.deletes, seen.who)
        if seen.method == "DELETE" and resource:
            self._deleters.note([resource[2]], seen.who)
        if not is_written:
            return
        place = self._place_of_request(seen, resource)
        event = REQUEST_EVENTS.get(seen.method, "attempt")
        more = {**place, **seen.who, "Method": seen.method, "Route": one_line(seen.uri)}
        if seen.query:
            more["Query"] = seen.query
        if seen.acts and "Script" not in seen.who:
            self._writer.add(seen.at, event if seen.method != "GET" else "delete-attempt", more)
            return
        kind = (resource[1], resource[3]) if resource else (seen.uri,)
        key = (seen.method, json.dumps(seen.who), *place.values(), *kind)
        self._writer.add_or_count(key, {"At": seen.at, "Event": event, **more})

    def _place_of_request(self, seen: SeenRequest, resource: re.Match[str] | None) -> Mapping[str, str]:
        if resource and resource[1] == "patients":
            return {"Patient": self._places.find(resource[2], ()).get("Patient", "")}
        if resource:
            return self._places.find(resource[2], ASKED_AT[resource[1]])
        return self._places.find(seen.study_uid, ()) if seen.study_uid else {}


def _described_job(job: Mapping[str, Any], event: str, success: bool) -> dict[str, Any]:
    """Return what a line says of a job besides study and patient."""
    content = job.get("Content", {})
    found = {"Job": job["ID"], "Type": job["Type"], "Result": "success" if success else "failure"}
    if not success:
        found["Error"] = one_line(job.get("ErrorDescription", ""))
    optional = {
        "To": sent_to(content) if event == "sent" else content.get("TargetAet"),
        "From": content.get("RemoteAet") if event == "moved" else None,
        "Made": content.get("ID") or content.get("TargetStudy"),
        "MoveOriginator": content.get("MoveOriginatorAET"),
        "Query": content.get("Query") if event == "moved" else None,
    }
    return found | {name: value for name, value in optional.items() if value}


def sent_to(content: Mapping[str, Any]) -> str:
    """Return where a job of sending sent to: an AET, the name of a DICOMweb server, or the URL of a peer.

    Nothing else of a peer: its headers may be secret.
    """
    return str(content.get("RemoteAet") or content.get("Server") or re.sub("//[^/@]*@", "//", url_of_peer(content)))
