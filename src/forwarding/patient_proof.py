# SPDX-License-Identifier: AGPL-3.0-or-later
"""Proof that a destination has instances, and of the same patient: by what it answers when it is searched (C-FIND, QIDO-RS)."""

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from common.aets import ANY_CASE
from common.loopback import Loopback

# Of a level ("Instance", "Study") and a query, by keyword: the answers of a destination, by keyword too.
Find = Callable[[str, Mapping[str, str]], list[dict[str, str]]]


def proved_by_patient(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], find: Find, ours: str = ""
) -> set[str]:
    """Return which of these instances a destination says it has, in their series, their study and of their patient.

    Instances are as `/tools/bulk-content` gives them. Where one has a `Place` too, with the identifiers by keyword of patient,
    study and series as this server has them, these are not asked for.

    `ours` is the AE title of this server: what can be retrieved from here is no proof.

    Raises
    ------
    ValueError : it has some of another patient, or does not say of which; or it means those that this server has.
    """
    by_series: dict[str, dict[str, str]] = {}
    for key, one in instances.items():
        by_series.setdefault(one["ParentSeries"], {})[one["MainDicomTags"].get("SOPInstanceUID", "")] = key
    proved, strange = set[str](), set[str]()
    for series, here in _places(loopback, by_series, instances.values()):
        of_study = {"StudyInstanceUID": here["StudyInstanceUID"]}
        place = {**of_study, "SeriesInstanceUID": here["SeriesInstanceUID"]}
        answers = find("Instance", {"PatientID": "", **place, "SOPInstanceUID": ""})
        retrieved_from = (bare(aet) for each in answers for aet in str(each.get("RetrieveAETitle") or "").split("\\"))
        if ours and any(ANY_CASE.same(aet, ours) for aet in retrieved_from):
            raise ValueError(f"{name} says that what it has is to be retrieved from {ours}, as this server is called")
        at_study: list[dict[str, str]] | None = None
        for answer in answers:
            instance = by_series[series].get(bare(answer.get("SOPInstanceUID")))
            if instance is None or not is_part(place, answer):
                continue
            patients = {bare(answer.get("PatientID"))}
            if patients == {""}:  # PS3.4 C.6.2.1 does not oblige it to say so at this level, but at the study's
                if at_study is None:
                    at_study = find("Study", {"PatientID": "", **of_study})
                patients = {bare(one.get("PatientID")) for one in at_study if is_part(of_study, one)}
            patient = bare(here["PatientID"])
            (proved if patient and patients == {patient} else strange).add(instance)
    if strange - proved:
        raise ValueError(
            f"{name} has not proved to have {len(strange - proved)} of {len(instances)} instances: it has their UIDs, but of "
            "another patient, or does not say of which"
        )
    return proved


def _places(
    loopback: Loopback, wanted: Iterable[str], instances: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield each of these series, and the identifiers of patient, study and series that it has here."""
    known = {one["ParentSeries"]: one["Place"] for one in instances if "Place" in one}
    yield from known.items()
    if unknown := sorted({*wanted} - known.keys()):
        for series in loopback.post("/tools/bulk-content", {"Resources": unknown}):
            study = loopback.get(f"/studies/{series['ParentStudy']}")
            yield (
                series["ID"],
                {
                    "PatientID": study["PatientMainDicomTags"].get("PatientID", ""),
                    "StudyInstanceUID": study["MainDicomTags"]["StudyInstanceUID"],
                    "SeriesInstanceUID": series["MainDicomTags"]["SeriesInstanceUID"],
                },
            )


def bare(value: Any) -> str:
    """Return a value without what DICOM pads it with."""
    return value.strip(" \0") if isinstance(value, str) else ""


def is_part(place: Mapping[str, str], answer: Mapping[str, Any]) -> bool:
    """Return whether an answer is of this place: some destinations answer with more than they were asked for."""
    return all(bare(answer.get(tag, uid)) == uid for tag, uid in place.items())


def is_this_machine(host: str) -> bool:
    """Return whether a host is, by one of its addresses, the machine that this runs on: only its own can be bound."""
    for family, _, _, _, where in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind(where)
            return True
    return False
