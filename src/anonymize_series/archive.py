# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is asked of this Orthanc, where anything may have been deleted meanwhile."""

from common.archive import instances_of
from common.identifiers import PLURAL
from common.loopback import Loopback, LoopbackError


class Archive:
    """The resources of this Orthanc. Each call raises `LoopbackError` if Orthanc can't answer now."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback

    def file(self, instance: str) -> bytes | None:
        """Return the file of an instance, or None if it was deleted."""
        try:
            return self._loopback.request_raw("GET", f"/instances/{instance}/file")[1]
        except LoopbackError as error:
            if error.status != 404:
                raise
            return None

    def level_of(self, resource: str) -> str | None:
        """Return whether this is a Study, a Series or an Instance; None if there is no such one."""
        for level in ("Study", "Series", "Instance"):
            try:
                self._loopback.get(f"/{PLURAL[level]}/{resource}")  # 1.10.1 answers 400 to …/instances of another level
            except LoopbackError as error:
                if error.status != 404:
                    raise
            else:
                return level
        return None

    def instances(self, level: str, resource: str) -> list[str]:
        """Return the instances of a resource, none if it was deleted."""
        return instances_of(self._loopback, level, resource)

    def tag(self, level: str, resource: str, keyword: str) -> str:
        """Return a main DICOM tag of a resource, "" if it has none."""
        return str(self._loopback.get(f"/{PLURAL[level]}/{resource}")["MainDicomTags"].get(keyword, ""))

    def study_uid(self, instance: str) -> str:
        """Return the StudyInstanceUID of an instance, "" if it has none."""
        return str(self._loopback.get(f"/instances/{instance}/study")["MainDicomTags"].get("StudyInstanceUID", ""))

    def metadata(self, instances: list[str]) -> dict[str, dict[str, str]]:
        """Return the metadata of those instances that are there."""
        found = self._loopback.post("/tools/bulk-content", {"Resources": instances, "Metadata": True})
        return {each["ID"]: each.get("Metadata", {}) for each in found}

    def delete(self, instance: str) -> None:
        """Delete an instance, if it is there."""
        try:
            self._loopback.request("DELETE", f"/instances/{instance}")
        except LoopbackError as error:
            if error.status != 404:
                raise
