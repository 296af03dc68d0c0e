# SPDX-License-Identifier: AGPL-3.0-or-later
"""The studies of this Orthanc: found, looked at again, and deleted, by loopback HTTP."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import http
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orthanc

from common.answers import one_line
from common.loopback import LoopbackError

from .conditions import Conditions
from .settings import Settings
from .studies import Study, identifiers, is_meant, matches

PAGE = 500  # studies read at a time: each question reads through all that match
WINDOW = 120  # studies looked at once more before they go; as one search it costs in proportion to the archive
FEW = 10  # studies of one question before 1.12.5: hardly anybody else gets at Orthanc's index before it is answered
PIECE = 500  # instances a request of a study that is larger than twice this, which alone would hold stores up
UNKNOWN_RESOURCE = (17, 3)  # codes of OrthancException; 3 is what the protection of an unknown patient gives


class Archive:
    """The studies of this Orthanc, by loopback HTTP: through the SDK what takes long would hold stores up."""

    def __init__(self, loopback: Any, settings: Settings) -> None:
        self._loopback, self._settings = loopback, settings
        self._tells_protection = True  # until it says that it does not

    @functools.cached_property
    def _system(self) -> dict[str, Any]:
        found: dict[str, Any] = self._loopback.get("/system")
        return found

    @property
    def _extended(self) -> bool:
        # Then a list is read in pages, with all that is asked of it; there, reading one study costs in proportion to the
        # archive. Before, a single one is quick, and a page costs in proportion to what stands before it.
        return bool(self._loopback.finds_more)

    @functools.cached_property
    def has_labels(self) -> bool:
        found = re.match(r"(\d+)\.(\d+)", self._system["Version"])
        return self._extended or (found is not None and (int(found[1]), int(found[2])) >= (1, 12))

    def chosen(self, asked: Conditions) -> list[Study]:
        """The studies that are to go, the oldest first, undated ones last."""
        # Orthanc's index leaves out what is not ASCII, so that `?` misses letters with accents there; `is_meant` has all.
        query = {tag: value for tag, value in asked.query.items() if "?" not in value}
        if asked.by == "StudyDate" and not asked.undated:
            query["StudyDate"] = f"-{asked.last:%Y%m%d}"
        meant = [study for study in self._matching(query) if is_meant(study, asked)]
        # Not while a page is read: who is protected may be a call of the SDK, and would wait for the page.
        found = dict[str, Study]()
        for start in range(0, len(meant), WINDOW):
            some = meant[start : start + WINDOW]
            protection = self.protection(some)
            found |= {study.id: study for study in some if not self.why_kept(study, protection)}
        # Of one day those that arrived first go first: they lie side by side in Orthanc's index, and go faster.
        aged = sorted((study.day(asked.by) or datetime.date.max, study.received, name) for name, study in found.items())
        return [found[name] for *_, name in aged[: asked.limit]]

    def _matching(self, query: Mapping[str, str]) -> Iterator[Study]:
        pages = self._pages(query) if self._extended else self._before_pages(query)
        return map(self._study, itertools.chain.from_iterable(pages))

    def _pages(self, query: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
        for since in itertools.count(0, PAGE):
            # Counted here, not when they are looked at again: each question that counts reads through the archive once more.
            page = self._search(
                self._find(query, Since=since, Limit=PAGE, RequestedTags=["NumberOfStudyRelatedInstances"])
            )
            yield page
            if len(page) < PAGE:
                return

    def _before_pages(self, query: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
        if self._loopback.finds_all:
            studies = self._loopback.post("/tools/find", self._find(query, Expand=False))
        else:
            studies = self._loopback.get("/studies")  # `is_meant` looks at each
        for start in range(0, len(studies), PAGE):
            page = self._content("Study", studies[start : start + PAGE])
            yield page if self._loopback.finds_all else self._of_modality(page, query.get("ModalitiesInStudy"))

    def _of_modality(self, studies: list[dict[str, Any]], wanted: str | None) -> list[dict[str, Any]]:
        """Those with a series of a wanted modality: what `is_meant` can't see of a study."""
        if not wanted:
            return studies
        series = self._content("Series", [study["ID"] for study in studies])
        meant = {each["ParentStudy"] for each in series if matches(each["MainDicomTags"].get("Modality", ""), wanted)}
        return [study for study in studies if study["ID"] in meant]

    def _find(self, query: Mapping[str, str], **more: Any) -> dict[str, Any]:
        # Without regard to case, since pages can't be had with it; `is_meant` has it.
        find = {"Level": "Study", "Query": dict(query), "Expand": True, **more}
        if self._extended:
            find["ResponseContent"] = ["MainDicomTags", "Metadata", "Parent", "Labels"]
        return find

    def _search(self, find: Mapping[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._loopback.post("/tools/find", find)
        return found

    def _content(self, level: str, studies: Sequence[str]) -> list[dict[str, Any]]:
        """What is there of some studies at a level, before 1.12.5."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(studies), FEW):
            some = {"Resources": studies[start : start + FEW], "Level": level}
            found += self._loopback.post(
                "/tools/bulk-content", {**some, "Metadata": bool(self._settings.keep_metadata)}
            )
        return found

    def again(self, studies: Sequence[tuple[str, str]]) -> dict[str, Study]:
        """What some studies, given by identifier and StudyInstanceUID, are now; those that are not there are left out.

        Over HTTP alone: a call of the SDK would wait for what is being deleted, and hold the interpreter meanwhile.
        """
        wanted, counts = [study for study, _ in studies], Counter[str]()
        if self._extended:
            # With regard to case, that is a sixth faster; UIDs have none. It is refused along with Since.
            query = {"StudyInstanceUID": "\\".join(uid for _, uid in studies)}
            found = self._search(self._find(query, CaseSensitive=True))
        else:
            found = self._content("Study", wanted)
            for series in self._content("Series", wanted):
                counts[series["ParentStudy"]] += len(series["Instances"])
        there = {each["ID"]: each for each in found}
        return {
            study: dataclasses.replace(self._study(there[study]), instances=counts[study])
            for study in wanted
            if study in there
        }

    def _study(self, found: Mapping[str, Any]) -> Study:
        metadata = found.get("Metadata", {})
        return Study(
            found["ID"],
            found["ParentPatient"],
            {**found.get("PatientMainDicomTags", {}), **found.get("MainDicomTags", {})},
            str(metadata.get("LastUpdate") or found.get("LastUpdate") or ""),
            frozenset(found.get("Labels", ())),
            frozenset(metadata),
            int(found.get("RequestedTags", {}).get("NumberOfStudyRelatedInstances") or 0),
        )

    def protection(self, studies: Iterable[Study]) -> dict[str, bool]:
        """Whether the patients of some studies are protected, as far as one question tells; of others `why_kept` asks.

        Orthanc 1.13.0 tells; there, asking for one patient at a time takes time in proportion to the archive.
        """
        patients = {study.tags.get("PatientID", "") for study in studies} - {""}
        asked = [patient for patient in patients if not re.search(r"[*?\\]", patient)]  # no wildcards, no lists
        if not (asked and self._tells_protection and self._extended):
            return {}
        find = {"Level": "Patient", "Query": {"PatientID": "\\".join(asked)}, "Expand": True, "CaseSensitive": True}
        try:
            found = self._search({**find, "ResponseContent": ["IsProtected"]})
        except LoopbackError as error:
            if error.status != http.HTTPStatus.BAD_REQUEST:
                raise
            self._tells_protection = False
            return {}
        return {each["ID"]: each["IsProtected"] for each in found}

    def why_kept(self, study: Study, protection: Mapping[str, bool]) -> str | None:
        """Why this study is never purged, or None; `protection` as `protection` tells."""
        if held := study.labels.intersection(self._settings.keep_labels):
            return f"it has the label {', '.join(sorted(held))}"
        if held := study.metadata.intersection(self._settings.keep_metadata):
            return f"it has the metadata {', '.join(sorted(held))}"
        is_protected = protection.get(study.patient)
        if is_protected is None:
            is_protected = bool(if_there(f"/patients/{study.patient}/protected"))
        if is_protected:
            return "its patient is protected"
        return None

    def count(self) -> int:
        return int(self._loopback.get("/statistics")["CountStudies"])

    def summary(self, studies: Sequence[Study], asked: Conditions) -> dict[str, Any]:
        """What a dry run tells."""
        years = Counter(str(day.year) if (day := study.day(asked.by)) else "undated" for study in studies)
        modalities: Counter[str] = Counter()
        size = 0
        for start in range(0, len(studies), WINDOW):
            window = {study.id: study for study in studies[start : start + WINDOW]}
            of_each: dict[str, set[str]] = {}
            for series in self._children("Series", window.values(), ["MainDicomTags", "Parent"]):
                of_each.setdefault(series["ParentStudy"], set()).add(
                    series["MainDicomTags"].get("Modality", "") or "none"
                )
            modalities.update(modality for study, found in of_each.items() if study in window for modality in found)
            size += self._bytes(window)
        ends = [identifiers(study) for study in studies[:: max(1, len(studies) - 1)][:2]]
        return {
            "DryRun": True,
            "Since": f"{asked.last:%Y%m%d}",
            "Studies": len(studies),
            "Bytes": size,
            "Years": dict(sorted(years.items())),
            "Modalities": dict(sorted(modalities.items())),
            "First": ends[0] if ends else None,
            "Last": ends[-1] if ends else None,
        }

    def _children(self, level: str, studies: Iterable[Study], content: Sequence[str]) -> list[dict[str, Any]]:
        if not self._extended:
            return self._content(level, [study.id for study in studies])
        uids = "\\".join(study.tags["StudyInstanceUID"] for study in studies)
        find = {"Level": level, "Query": {"StudyInstanceUID": uids}, "Expand": True, "ResponseContent": content}
        return self._search(find)

    def _bytes(self, studies: Mapping[str, Study]) -> int:
        """Bytes on the disk. From 1.12.5 the statistics of a single study cost in proportion to the archive."""
        if not self._extended:
            return sum(int((if_there(f"/studies/{study}/statistics") or {}).get("DiskSize", 0)) for study in studies)
        instances = self._children("Instance", studies.values(), ["Attachments"])
        return sum(int(file["CompressedSize"]) for instance in instances for file in instance["Attachments"])

    def delete(self, studies: Sequence[str]) -> dict[str, str]:
        """Delete some studies; those that are still there, with what Orthanc says."""
        try:
            self._loopback.post("/tools/bulk-delete", {"Resources": studies})
            return {}
        except LoopbackError:
            reasons = {study: self._delete_one(study) for study in studies}
            return {study: reason for study, reason in reasons.items() if reason}

    def _delete_one(self, study: str) -> str:
        try:
            self._loopback.request("DELETE", f"/studies/{study}")
        except LoopbackError as error:
            return "" if error.status == 404 else one_line(error)  # 404: the batch had deleted it before it failed
        return ""

    def delete_in_pieces(self, study: str, stopping: Callable[[], bool]) -> bool:
        """Delete instances of a large study, until so many are left that it can go as a whole; False if stopped."""
        try:
            for series in self._loopback.get(f"/studies/{study}")["Series"]:
                instances = self._loopback.get(f"/series/{series}")["Instances"]
                for start in range(0, len(instances), PIECE):
                    if stopping():
                        return False
                    self._loopback.post("/tools/bulk-delete", {"Resources": instances[start : start + PIECE]})
        except LoopbackError:
            pass  # deleting the whole tells
        return True


def if_there(path: str) -> Any:
    """What Orthanc says of one resource (through the SDK: microseconds); None if it is not there.

    Any other error is raised: who can't see whether a study is protected does not delete it.
    """
    try:
        return json.loads(orthanc.RestApiGet(path))
    except orthanc.OrthancException as error:
        if error.args[0] in UNKNOWN_RESOURCE:
            return None
        raise
