# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compares what a modality has with what is here: by SOP Instance UIDs, or by numbers where it does not give those."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.identifiers import UID_TAG_OF
from common.loopback import Loopback, LoopbackError
from common.routes import one_line

from .archive import Archive, normalized
from .move_request import LEVELS, Fields

COUNT_TAGS = {
    "Patient": "NumberOfPatientRelatedInstances",
    "Study": "NumberOfStudyRelatedInstances",
    "Series": "NumberOfSeriesRelatedInstances",
}


class UnansweredError(Exception):
    """A modality does not say what it has at a level."""


class Comparison:
    """Answers of one modality to C-FIND, compared with what is here.

    Parameters
    ----------
    check_time : raises if too much time has passed; called before each C-FIND.
    said : the modalities of which the log has that they give no SOP Instance UIDs.
    """

    def __init__(
        self, loopback: Loopback, archive: Archive, name: str, check_time: Callable[[], None], said: set[str]
    ) -> None:
        self._loopback, self._archive, self._name = loopback, archive, name
        self._check_time, self._said = check_time, said
        self._gives_uids = True

    def has_more(self, fields: Fields, answer: Mapping[str, Any]) -> bool:
        """Return whether the modality has images of an answer, which means these fields, that are not here."""
        level = LEVELS[fields["Level"]]
        if level == "Instance":
            return not self._archive.instances(fields)
        here = self._archive.sop_instance_uids(fields)
        number = _number(answer, level)
        if not here or (number is not None and number > len(here)):
            return True
        series = self._series(level, {**fields, **{tag: text for tag, text in answer.items() if text}})
        if not series:
            return number is None
        return any(self._series_has_more(each, here) for each in series)

    def _series(self, level: str, answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the series of an answer; none if the modality does not say."""
        if level == "Series":
            return [answer]
        try:
            studies = [answer] if level == "Study" else self._find("Study", {"PatientID": answer["PatientID"]})
            uids = [study["StudyInstanceUID"] for study in studies]
            return [
                {**series, "StudyInstanceUID": uid}
                for uid in uids
                for series in self._find("Series", {"StudyInstanceUID": uid}, COUNT_TAGS["Series"])
            ]
        except UnansweredError as error:
            self._say(error)
            return []

    def _series_has_more(self, series: Mapping[str, Any], here: set[str]) -> bool:
        if self._gives_uids:
            try:
                wanted = {name: series[name] for name in ("StudyInstanceUID", "SeriesInstanceUID")}
                return not {str(each["SOPInstanceUID"]).strip() for each in self._find("Instance", wanted)} <= here
            except UnansweredError as error:
                self._say(error)
                self._gives_uids = False  # nor will it give those of the next series
        number = _number(series, "Series")
        one = {"Level": "SERIES", "SeriesInstanceUID": series["SeriesInstanceUID"]}
        return number is None or number > len(self._archive.sop_instance_uids(one))

    def _find(self, level: str, wanted: Mapping[str, str], *more: str) -> list[Mapping[str, Any]]:
        """Return the answers to a C-FIND for what is there: some, and each with the UID of its level.

        Raises
        ------
        UnansweredError : there are none.
        """
        self._check_time()
        tag, name = UID_TAG_OF[level], urllib.parse.quote(self._name, safe="")
        query = {**dict.fromkeys((tag, *more), ""), **wanted}
        try:
            if not all(wanted.values()):
                raise UnansweredError(
                    f"it gives no {' and '.join(wanted)}"
                )  # without one, all that it has would be meant
            found = self._loopback.post(f"/modalities/{name}/query", {"Level": level, "Query": query})["ID"]
            answers = self._loopback.get(f"/queries/{found}/answers?expand&simplify")
            self._loopback.request("DELETE", f"/queries/{found}")
        except LoopbackError as error:
            raise UnansweredError(str(error)) from None
        # One that does not look at a key answers with all that it has.
        meant = [each for each in answers if all(is_about(each, *one) for one in wanted.items()) and each.get(tag)]
        if not meant:
            raise UnansweredError(f"it gives no {tag}")
        return meant

    def _say(self, why: UnansweredError) -> None:
        if self._name not in self._said:
            self._said.add(self._name)
            orthanc.LogWarning(
                f"cmove_interceptor: modality:{one_line(self._name)} does not answer C-FIND down to the level IMAGE "
                f"({one_line(why)}): what is here is compared with its numbers of images, and is fetched if it gives none"
            )


def _number(answer: Mapping[str, Any], level: str) -> int | None:
    """Return how many images an answer says that there are, or None."""
    text = str(answer.get(COUNT_TAGS[level]) or "").strip()
    return int(text) if text.isdecimal() else None


def is_about(answer: Mapping[str, Any], tag: str, text: str) -> bool:
    """Return whether an answer to C-FIND has the identifier that was asked for, or does not say."""
    found = normalized(str(answer.get(tag) or ""))
    return found in ("", normalized(text))
