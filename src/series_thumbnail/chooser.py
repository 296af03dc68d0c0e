# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is shown of a series, a study or an instance, and what is kept of it with the series."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from common.loopback import Loopback, LoopbackError
from common.routes import Refused

from .options import RenderOptions
from .pictures import Picture, make_picture, with_note, without_note
from .renderer import Renderer
from .selection import from_the_middle, in_order, is_ordered, numbers

MAX_SERIES = 100  # of a study, that are looked at for one of images


class Chooser:
    """Chooses what is drawn, and keeps the choice and the picture with the series.

    Parameters
    ----------
    chosen, kept : how Orthanc calls the metadata and the attachment.
    kept_options : of the picture that is kept with a series.
    """

    def __init__(
        self, loopback: Loopback, renderer: Renderer, chosen: str, kept: str, kept_options: RenderOptions
    ) -> None:
        self._loopback, self._renderer = loopback, renderer
        self._chosen, self._kept, self.kept_options = chosen, kept, kept_options

    def series(self, series: str, options: RenderOptions, has_grown: bool) -> Picture:
        """Return the picture of a series: the kept one, else one of the instance chosen before, else of one chosen now.

        `has_grown`: something has arrived since; choose again.
        """
        metadata = self._loopback.get(f"/series/{series}/metadata?expand")
        chosen, last_update = metadata.get(self._chosen), metadata.get("LastUpdate", "")
        picture = None
        if chosen and not has_grown:
            picture = self._kept_picture(series, chosen, last_update) if options == self.kept_options else None
            picture = picture or self._of_chosen(chosen, series, options)
            if (
                picture is not None and options != self.kept_options
            ):  # for the others, `keep` counts, while nobody waits
                picture.count = self.count("series", series)
        if picture is None:
            instances = self._instances(series)
            picture = self._renderer.draw_first(from_the_middle(in_order(instances)), options)
            picture.count = len(instances)
        picture.last_update, picture.was_chosen = last_update, picture.instance == chosen
        return picture

    def study(
        self, study: str, options: RenderOptions, series_picture: Callable[[str, RenderOptions], Picture]
    ) -> Picture:
        """Return the picture of the first series that is no icon, else the icon of the first."""
        first, count = None, self.count("studies", study)
        for series in self._series_of(study)[:MAX_SERIES]:
            picture = series_picture(series, options)
            first = first or picture
            if not picture.is_icon:
                return dataclasses.replace(picture, count=count, request_keys=[])
        if first is None:
            raise Refused(404, f"There is no study {study!r}, or it has no series")
        return dataclasses.replace(first, count=count, request_keys=[])

    def instance(self, instance: str, options: RenderOptions) -> Picture:
        """Return the picture of one instance, of its middle frame."""
        picture = self._renderer.draw_first(iter([instance]), options)
        picture.count = 1
        return picture

    def count(self, level: str, resource: str) -> int:
        """Return how many instances it has now; this alone costs Orthanc the same in an archive of any size."""
        found = self._loopback.get(f"/{level}/{resource}/statistics")
        if found["DicomDiskSize"] == "0":
            return 0  # what is not there: only Orthanc 1.13.0 answers so, the others 404
        return int(found.get("CountInstances", 1))

    def keep(self, series: str, picture: Picture) -> None:
        """Write the choice and, unless it is an icon, the picture to the series."""
        if picture.count is None:
            picture.count = self.count("series", series)
        if not picture.is_icon:
            content = with_note(picture.content, self._note(picture.instance, picture.count, picture.last_update))
            path = f"/series/{series}/attachments/{self._kept}"
            self._put(path, f"{path}/data", content)
        if not picture.was_chosen:
            path = f"/series/{series}/metadata/{self._chosen}"
            self._put(path, path, picture.instance.encode())

    def _put(self, path: str, reading: str, content: bytes) -> None:
        try:
            self._loopback.request_raw("PUT", path, content)
        except LoopbackError as error:
            if error.status != 409:
                raise
            # With "CheckRevisions" what is there already is replaced only by who has seen it.
            headers, _ = self._loopback.request_raw("GET", reading)
            self._loopback.request_raw("PUT", path, content, {"If-Match": headers.get("ETag", "")})

    def _note(self, instance: str, count: int, last_update: str) -> str:
        return f"thumbnail 2 {self.kept_options.size} {self.kept_options.quality} {instance} {count} {last_update}"

    def _kept_picture(self, series: str, chosen: str, last_update: str) -> Picture | None:
        """Return the attachment, if it was made of the series as it is now."""
        try:
            _, attachment = self._loopback.request_raw("GET", f"/series/{series}/attachments/{self._kept}/data")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return None
        content, note = without_note(attachment)
        if not note:
            return None
        picture = make_picture(content, self.kept_options, chosen)
        picture.count, picture.is_kept = self.count("series", series), True
        return picture if note == self._note(chosen, picture.count, last_update) else None

    def _of_chosen(self, instance: str, series: str, options: RenderOptions) -> Picture | None:
        """Return the picture of the instance that the metadata names, if it is one of the series."""
        try:
            if self._renderer.source(instance).series != series:
                return None  # or a PatientID that Orthanc has in another encoding: then it is chosen again
            return self._renderer.draw_first(iter([instance]), options)
        except LoopbackError as error:
            if error.status not in (400, 404):
                raise
            return None

    def _instances(self, series: str) -> list[dict[str, Any]]:
        """Return the instances of a series with their main tags, as they arrived."""
        if not self._loopback.has_extended_find:
            return list(self._loopback.get(f"/series/{series}/instances?expand"))  # in the order of arrival on 1.10.1
        query = {"Level": "Instance", "Query": {}, "ParentSeries": series, "ResponseContent": ["MainDicomTags"]}
        found = list(self._loopback.post("/tools/find", query))
        if found and not is_ordered(found):
            query["ResponseContent"] = ["MainDicomTags", "Metadata"]
            found = sorted(
                self._loopback.post("/tools/find", query), key=lambda each: each["Metadata"].get("ReceptionDate", "")
            )
        return found

    def _series_of(self, study: str) -> list[str]:
        """Return the series of a study by their Series Number."""
        if self._loopback.has_extended_find:
            query = {"Level": "Series", "Query": {}, "ParentStudy": study, "ResponseContent": ["MainDicomTags"]}
            found = self._loopback.post("/tools/find", query)
        else:
            found = self._loopback.get(f"/studies/{study}/series?expand")
        number = {each["ID"]: numbers(each["MainDicomTags"].get("SeriesNumber"), 1) or (math.inf,) for each in found}
        return sorted(number, key=lambda series: (number[series], series))
