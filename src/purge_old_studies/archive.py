# SPDX-License-Identifier: AGPL-3.0-or-later
"""The studies of this Orthanc: chosen, looked at again, and deleted."""

from __future__ import annotations

import dataclasses
import datetime
import http
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orthanc

from common.loopback import Loopback, LoopbackError
from common.own_requests import asked_by, report_request
from common.routes import one_line
from common.undelivered import SCRIPTS_THAT_OWE, Undelivered

from .clock import Clock
from .conditions import Conditions
from .elsewhere import Elsewhere, Proving
from .index import Index, if_there
from .settings import Settings
from .studies import Study, came_lately, fits

WINDOW = 120  # studies looked at once more before they go; as one search it costs in proportion to the archive
SIZED = 30  # studies whose sizes are asked for at once: few, for they may have thousands of instances
PIECE = 500  # instances a request of a study that is larger than twice this, which alone would hold stores up


@dataclasses.dataclass(frozen=True)
class Choice:
    """The studies that are to be deleted, and how many others stay although they are meant, by the reason."""

    studies: Sequence[Study]
    undelivered: Mapping[str, int]
    size: float = 0  # bytes of the studies, where it was asked for


def in_order(studies: Iterable[Study], asked: Conditions) -> list[Study]:
    """Return studies, the oldest first, undated ones last."""
    # Of one day those that arrived first go first: they lie side by side in Orthanc's index, and go faster.
    return sorted(studies, key=lambda study: (study.day(asked.by) or datetime.date.max, study.received, study.id))


class Archive:
    """The studies of this Orthanc, by loopback HTTP: through the SDK what takes long would hold stores up."""

    def __init__(self, loopback: Loopback, settings: Settings, clock: Clock, elsewhere: Elsewhere) -> None:
        self._loopback, self._settings, self._clock = loopback, settings, clock
        self.index = Index(loopback, with_metadata=bool(settings.keep_metadata))
        self.undelivered = Undelivered(loopback, SCRIPTS_THAT_OWE if settings.keep_undelivered else ())
        self.elsewhere = elsewhere
        self._tells_protection = True  # until it says that it does not

    def chosen(self, asked: Conditions) -> Choice:
        """Return the studies that are to be deleted, the oldest first, undated ones last."""
        meant = self._meant(asked)
        # Not while a page is read: who is protected may be a call of the SDK, and would wait for the page.
        found, reasons = dict[str, Study](), Counter[str]()
        for start in range(0, len(meant), WINDOW):
            found |= {study.id: study for study in self._that_may_go(meant[start : start + WINDOW], reasons)}
        ordered = in_order(found.values(), asked)
        if asked.limit:
            ordered = self.elsewhere.in_turn(ordered, asked)[: asked.limit]
        return Choice(ordered, reasons)

    def oldest(self, asked: Conditions, most: int, size: float) -> Choice:
        """Return the oldest studies that may go, at most so many, and no more than free so many bytes.

        Guards are asked about the oldest only, some at a time: of an archive, nearly all may be meant. What has no size frees
        nothing, and stays.
        """
        meant, found, reasons, total = in_order(self._meant(asked), asked), list[Study](), Counter[str](), 0
        if asked.only_if_at:
            left = [study for study in meant if not self.elsewhere.has_lacked(study, asked)]
            where = ", ".join(asked.only_if_at)
            reasons.update({f"{where} did not prove to have them within the last hours": len(meant) - len(left)})
            meant, reasons = self.elsewhere.in_turn(left, asked), +reasons
        for start in range(0, len(meant), SIZED):
            if len(found) == most or total >= size:
                break
            some = self._that_may_go(meant[start : start + SIZED], reasons)
            sizes = self.index.sizes_of(some)
            for study in some:
                if len(found) < most and total < size and sizes.get(study.id):
                    found.append(study)
                    total += sizes[study.id]
        return Choice(found, reasons, total)

    def _meant(self, asked: Conditions) -> list[Study]:
        """Return the studies that the conditions name, whatever keeps them. Raises `Refused`: `OnlyIfAt` can't be asked."""
        self.elsewhere.destinations(asked.only_if_at)
        # Orthanc's index leaves out what is not ASCII, so that `?` misses letters with accents there; `is_meant` has all.
        query = {tag: value for tag, value in asked.query.items() if "?" not in value}
        if asked.by == "StudyDate" and not asked.undated:
            query["StudyDate"] = f"-{asked.last:%Y%m%d}"
        fitting = [study for study in map(self._study, self.index.matching(query)) if fits(study, asked)]
        meant = [study for study in fitting if not came_lately(study, asked)]
        if asked.received_until and (unknown := sum(not study.arrived for study in fitting)):
            orthanc.LogWarning(
                f"purge_old_studies: {unknown} studies stay, since Orthanc does not know when they came in"
            )
        return meant

    def _that_may_go(self, studies: Sequence[Study], reasons: Counter[str]) -> list[Study]:
        """Return the studies that no guard keeps; count in `reasons` those that are not delivered."""
        protection = self.protection(studies)
        some = [study for study in studies if not self.why_kept(study, protection)]
        undelivered = self.why_undelivered(some)
        reasons.update(undelivered.values())
        return [study for study in some if study.id not in undelivered]

    def again(self, studies: Sequence[tuple[str, str]]) -> dict[str, Study]:
        """Return what some studies, given by identifier and StudyInstanceUID, are now; those that are not there are left out.

        Over HTTP alone: a call of the SDK would wait for what is being deleted, and hold the interpreter meanwhile.
        """
        wanted, counts = [study for study, _ in studies], Counter[str]()
        if self.index.is_extended:
            # With regard to case, that is a sixth faster; UIDs have none. It is refused along with Since.
            query = {"StudyInstanceUID": "\\".join(uid for _, uid in studies)}
            found = self.index.search(self.index.find(query, CaseSensitive=True))
        else:
            found = self.index.content("Study", wanted)
            for series in self.index.content("Series", wanted):
                counts[series["ParentStudy"]] += len(series["Instances"])
        there = {each["ID"]: each for each in found}
        return {
            study: dataclasses.replace(self._study(there[study]), instances=counts[study])
            for study in wanted
            if study in there
        }

    def _study(self, found: Mapping[str, Any]) -> Study:
        metadata = found.get("Metadata", {})
        received = str(metadata.get("LastUpdate") or found.get("LastUpdate") or "")
        return Study(
            found["ID"],
            found["ParentPatient"],
            {**found.get("PatientMainDicomTags", {}), **found.get("MainDicomTags", {})},
            received,
            self._clock.arrival(received),
            frozenset(found.get("Labels", ())),
            frozenset(metadata),
            int(found.get("RequestedTags", {}).get("NumberOfStudyRelatedInstances") or 0),
        )

    def protection(self, studies: Iterable[Study]) -> dict[str, bool]:
        """Return whether the patients of some studies are protected, as far as one question shows; `why_kept` asks for others.

        Orthanc 1.13.0 shows it; there, asking for one patient at a time takes time in proportion to the archive.
        """
        patients = {study.tags.get("PatientID", "") for study in studies} - {""}
        asked = [patient for patient in patients if not re.search(r"[*?\\]", patient)]  # no wildcards, no lists
        if not (asked and self._tells_protection and self.index.is_extended):
            return {}
        find = {"Level": "Patient", "Query": {"PatientID": "\\".join(asked)}, "Expand": True, "CaseSensitive": True}
        try:
            found = self.index.search({**find, "ResponseContent": ["IsProtected"]})
        except LoopbackError as error:
            if error.status != http.HTTPStatus.BAD_REQUEST:
                raise
            self._tells_protection = False
            return {}
        return {each["ID"]: each["IsProtected"] for each in found}

    def why_kept(self, study: Study, protection: Mapping[str, bool]) -> str | None:
        """Return why this study is never purged, or None; `protection` as `protection` returns it."""
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

    def why_undelivered(self, studies: Iterable[Study]) -> dict[str, str]:
        """Return why some of these studies stay since another script is not done with them."""
        return self.undelivered.why_kept({study.id: study.patient for study in studies})

    def proving(self, asked: Conditions) -> Proving:
        """Return what asks the destinations of `OnlyIfAt`, for one purge."""
        return Proving(self.elsewhere, self.index, asked)

    def delete_instances(
        self, studies: Mapping[str, Sequence[str]], who: Mapping[str, Any], stopping: Callable[[], bool]
    ) -> str | None:
        """Delete these instances of studies, and no other; what Orthanc says if it can't, else ""; None if stopped."""
        instances = [instance for some in studies.values() for instance in some]
        # With its last instance a study goes: whoever keeps a record is told who asked for that.
        report_request("POST", "/tools/bulk-delete", {"Resources": [*studies]}, asked_by(who))
        try:
            for start in range(0, len(instances), PIECE):
                if stopping():
                    return None
                self._bulk_delete(instances[start : start + PIECE], who)
        except LoopbackError as error:
            return one_line(error) or repr(error)
        return ""

    def delete(self, studies: Sequence[str], who: Mapping[str, Any]) -> dict[str, str]:
        """Delete some studies; those that are still there, with what Orthanc says. `who` asked for it."""
        try:
            self._bulk_delete(studies, who)
            return {}
        except LoopbackError:
            reasons = {study: self._delete_one(study, who) for study in studies}
            return {study: reason for study, reason in reasons.items() if reason}

    def _bulk_delete(self, resources: Sequence[str], who: Mapping[str, Any]) -> None:
        self._loopback.request_raw("POST", "/tools/bulk-delete", {"Resources": resources}, asked_by(who))

    def _delete_one(self, study: str, who: Mapping[str, Any]) -> str:
        try:
            self._loopback.request_raw("DELETE", f"/studies/{study}", headers=asked_by(who))
        except LoopbackError as error:
            return "" if error.status == 404 else one_line(error)  # 404: the batch had deleted it before it failed
        return ""

    def delete_in_pieces(self, study: str, who: Mapping[str, Any], stopping: Callable[[], bool]) -> bool:
        """Delete instances of a large study, until so many are left that it can go as a whole; False if stopped."""
        try:
            for series in self._loopback.get(f"/studies/{study}")["Series"]:
                instances = self._loopback.get(f"/series/{series}")["Instances"]
                for start in range(0, len(instances), PIECE):
                    if stopping():
                        return False
                    self._bulk_delete(instances[start : start + PIECE], who)
        except LoopbackError:
            pass  # deleting the whole study shows it
        return True
