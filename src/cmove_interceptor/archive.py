# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is here of what a request means."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from common.identifiers import PLURAL
from common.loopback import Loopback

from .move_request import LEVELS, Fields, identifying_tag

SLOW_NAMES_API_VERSION = 30  # of 1.12.11: from then on SQLite reads the whole index for each image that a job names
INSTANCES_PER_QUESTION = 100
# Naming images pays up to so many images in the archive, and so many more for each image of the series.
MAX_IMAGES_TO_NAME, MAX_IMAGES_PER_NAME = 2000, 4


class Archive:
    """This Orthanc's resources."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback

    def resources(self, fields: Fields) -> list[str]:
        """Return the Orthanc identifiers that a request means, as Orthanc looks them up; none if nothing is here.

        The identifier in a request may be a list. Raises `MoveFailed` if what the level needs is missing.
        """
        tag, text = identifying_tag(fields)
        found: list[str] = []
        for token in text.split("\\"):
            if token.strip() or fields["Level"] == "PATIENT":  # the patients without a PatientID
                found += self._lookup(LEVELS[fields["Level"]], tag, token if token.strip() else "")
        return list(dict.fromkeys(found))

    def _lookup(self, level: str, tag: str, token: str) -> list[str]:
        # Wildcards are characters like others here. In a search they would read the whole archive, and so would nothing.
        if not token or re.search(r"[*?]", token):
            entries = self._loopback.request("POST", "/tools/lookup", token.encode())
            return [entry["ID"] for entry in entries if entry["Type"] == level]
        # /tools/lookup is not enough: on 1.10.1 it knows no AccessionNumber, and no version says which tag matched.
        find = {"Level": level, "Query": {tag: token}, "Expand": True}
        return [
            each["ID"]
            for each in self._loopback.post("/tools/find", find)
            if normalized(each["MainDicomTags"].get(tag, "")) == normalized(token)
        ]

    def instances(self, fields: Fields) -> list[str]:
        """Return the instances that a request means, of those that are here."""
        if fields["Level"] == "INSTANCE":
            return self.resources(fields)
        return [instance["ID"] for instance in self._images_of(fields)]

    def sop_instance_uids(self, fields: Fields) -> set[str]:
        """Return the SOP Instance UIDs of what a request means that is here, of a patient, study or series."""
        return {
            str(instance["MainDicomTags"].get("SOPInstanceUID", "")).strip() for instance in self._images_of(fields)
        }

    def _images_of(self, fields: Fields) -> Iterator[dict[str, Any]]:
        route = PLURAL[LEVELS[fields["Level"]]]
        for resource in self.resources(fields):
            yield from self._loopback.get(f"/{route}/{resource}/instances?expand")

    def series(self, level: str, resource: str) -> dict[str, list[str]]:
        """Return the series of a patient or study, or the series itself, each with its images."""
        # A quarter of the time: without it, reading one resource costs in proportion to the archive there.
        if self._loopback.has_extended_find:
            find = {"Query": {}, f"Parent{LEVELS[level]}": resource}
            if level == "SERIES":
                return {resource: self._loopback.post("/tools/find", {**find, "Level": "Instance"})}
            found = self._loopback.post("/tools/find", {**find, "Level": "Series", "ResponseContent": ["Children"]})
        elif level == "SERIES":
            found = [self._loopback.get(f"/series/{resource}")]
        else:
            found = self._loopback.get(f"/{PLURAL[LEVELS[level]]}/{resource}/series")
        return {each["ID"]: each["Instances"] for each in found}

    def may_name_images(self, count: int) -> bool:
        """Return whether a job should name the images of a series of so many, as one that sends a piece of it does.

        Not where looking the names up takes longer than what the second association saves, which only Orthanc's own
        SQLite was seen to do.
        """
        if self._system.get("DatabaseBackendPlugin") or self._system["ApiVersion"] < SLOW_NAMES_API_VERSION:
            return True
        images = self._loopback.get("/statistics")["CountInstances"]
        return bool(images <= MAX_IMAGES_TO_NAME + MAX_IMAGES_PER_NAME * count)

    @functools.cached_property
    def _system(self) -> dict[str, Any]:
        return dict(self._loopback.get("/system"))

    def store(self, dicom: bytes) -> bool:
        """Store an instance; return whether it was not here before."""
        answer = self._loopback.request("POST", "/instances", dicom)
        return isinstance(answer, dict) and answer.get("Status") == "Success"

    def senders(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the AE titles that have sent instances; "" where one did not come by DICOM."""
        found = {}
        for start in range(0, len(instances), INSTANCES_PER_QUESTION):
            body = {"Resources": instances[start : start + INSTANCES_PER_QUESTION], "Metadata": True}
            for each in self._loopback.post("/tools/bulk-content", body):
                found[each["ID"]] = each.get("Metadata", {}).get("RemoteAET", "").strip()
        return found

    def remove(self, instances: Sequence[str]) -> None:
        """Delete instances."""
        self._loopback.post("/tools/bulk-delete", {"Resources": list(instances)})


def normalized(value: str) -> str:
    """Return an identifier as Orthanc compares it: without spaces around, regard to case, and what is not ASCII."""
    return value.encode("ascii", "ignore").decode().strip().upper()
