# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc says of its series and instances, and the metadata that the script writes there."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import orthanc

from common.loopback import Loopback, LoopbackError

from .entries import Wanted
from .values import Reading, decoded_values, private_elements


class Archive:
    """Reads and writes over loopback; `metadata` is how Orthanc calls the metadata that holds the values."""

    def __init__(self, loopback: Loopback, metadata: str, reading: Reading) -> None:
        self.loopback, self.metadata, self._reading = loopback, metadata, reading

    def newest_change(self) -> int:
        """Return the Seq of the newest change."""
        return int(self.loopback.get("/changes?last")["Last"])

    def changes(self, since: int, limit: int) -> Mapping[str, Any]:
        """Return a page of the log of changes: `Changes`, `Last`, `Done`."""
        page: Mapping[str, Any] = self.loopback.get(f"/changes?since={since}&limit={limit}")
        return page

    def all_series(self) -> list[str]:
        """Return the identifiers of all series."""
        return list(self.loopback.get("/series"))

    def instances_of(self, series: str) -> list[str]:
        """Return the identifiers of the instances of a series; none if it was deleted."""
        try:
            return list(self.loopback.get(f"/series/{series}")["Instances"])
        except LoopbackError as error:
            if error.status != 404:
                raise
            return []

    def series_of(self, instance: str) -> str:
        """Return the series of an instance; "" if it was deleted."""
        try:
            return str(self.loopback.get(f"/instances/{instance}/series")["ID"])
        except LoopbackError as error:
            if error.status != 404:
                raise
            return ""

    def has(self, level: str, resource: str) -> bool:
        """Return whether there is such a resource."""
        try:
            # Takes the same in an archive of any size. Of what is not there Orthanc 1.13.0 gives zeros, the others 404.
            return bool(self.loopback.get(f"/{level}/{resource}/statistics")["DicomDiskSize"] != "0")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return False

    def read(self, instance: str, wanted: Wanted) -> tuple[str, dict[str, Any]]:
        """Return the series of an instance, and the values of the entries that are in it; nothing if it was deleted."""
        try:
            content = functools.partial(self._content, instance)
            tags = {**self._behind_pixels(instance, wanted), **self.loopback.get(f"/instances/{instance}/tags")}
            numbers = private_elements(tags, wanted, content)
            if not numbers:
                return "", {}
            series = self.loopback.get(f"/instances/{instance}/series")["ID"]
            character_set = str(tags.get("0008,0005", {}).get("Value") or "")
            return series, {
                key: self._reading.value_of(
                    wanted.entries[key], tags[number], functools.partial(content, number), character_set
                )
                for key, number in numbers.items()
            }
        except LoopbackError as error:
            if error.status not in (404, 415):
                raise
            return "", {}

    def _behind_pixels(self, instance: str, wanted: Wanted) -> dict[str, Any]:
        """Return the elements behind the pixels of the groups that are wanted, without values: `/tags` ends at the pixels."""
        if not wanted.behind_pixels:
            return {}
        numbers = (number.replace("-", ",") for number in self.loopback.get(f"/instances/{instance}/content"))
        return {number: {} for number in numbers if int(number[:4], 16) in wanted.behind_pixels}

    def _content(self, instance: str, number: str) -> bytes:
        """Return the bytes of an element; of a sequence, how many items it has."""
        headers, content = self.loopback.request_raw("GET", f"/instances/{instance}/content/{number.replace(',', '-')}")
        if headers.get("Content-Type", "").startswith("application/json"):
            return f"a sequence; items: {len(json.loads(content))}".encode()
        return content

    def values_of(self, series: str) -> dict[str, Any]:
        """Return the values in the metadata of a series; none if it was deleted."""
        try:
            # Before Orthanc 1.12.5 it takes 0.02 ms in an archive of any size; since, up to some ms.
            metadata = json.loads(orthanc.RestApiGet(f"/series/{series}/metadata?expand"))
        except orthanc.OrthancException:
            return {}
        return decoded_values(metadata.get(self.metadata))

    def write_metadata(self, series: str, text: str) -> bool:
        """Write the metadata of a series; return whether the series is there."""
        path = f"/series/{series}/metadata/{self.metadata}"
        try:
            orthanc.RestApiPut(path, text.encode())  # takes 0.05 ms in an archive of any size
        except orthanc.OrthancException:
            try:
                headers, _ = self.loopback.request_raw("GET", path)
                etag = headers.get("ETag", "")
                self.loopback.request_raw("PUT", path, text.encode(), {"If-Match": etag})  # "CheckRevisions"
            except LoopbackError as error:
                if error.status != 404:
                    raise
                return False
        return True
