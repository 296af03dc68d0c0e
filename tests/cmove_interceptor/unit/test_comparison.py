# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a modality has is compared with what is here by UIDs; what it does not say counts as more, never as nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Script

STUDY = {"Level": "STUDY", "StudyInstanceUID": "1", "PatientID": "P"}


class Far:
    """A modality with one study of two series: its answers by level, or the error that it answers with."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, list[dict[str, str]] | None] = {
            "Study": [{"StudyInstanceUID": "1", "PatientID": "P"}],
            "Series": [
                {"StudyInstanceUID": "1", "SeriesInstanceUID": uid, "NumberOfSeriesRelatedInstances": number}
                for uid, number in (("1.1", "2"), ("1.2", "1"))
            ],
            "Instance": [
                {"StudyInstanceUID": "1", "SeriesInstanceUID": series, "SOPInstanceUID": uid}
                for series, uid in (("1.1", "a"), ("1.1", "b"), ("1.2", "c"))
            ],
        }

    def post(self, path: str, body: Any) -> Any:
        assert path == "/modalities/far/query"
        self.asked.append((body["Level"], body["Query"]))
        if self.answers[body["Level"]] is None:
            raise self.error(500, 'DicomAssociation - C-FIND SCU to AET "FAR": Refused: OutOfResources')
        return {"ID": body["Level"]}

    def get(self, path: str) -> Any:
        return self.answers[path.split("/")[2]]

    def request(self, _method: str, _path: str) -> None:
        pass


class Here:
    """What is here: SOP Instance UIDs by series."""

    def __init__(self, **series: str) -> None:
        self.series = {uid.replace("_", "."): set(images) for uid, images in series.items()}

    def sop_instance_uids(self, fields: dict[str, str]) -> set[str]:
        if fields["Level"] == "SERIES":
            return self.series.get(fields["SeriesInstanceUID"], set())
        return set().union(*self.series.values())

    def instances(self, _fields: Any) -> list[str]:
        return sorted(self.sop_instance_uids({"Level": "STUDY"}))


ALL = {"_1_1": "ab", "_1_2": "c"}


class Compared:
    def __init__(self, start: Callable[..., Script], source: Any, standin: StandIn) -> None:
        start("cmove_interceptor")
        self.standin = standin
        self.far = Far(source("common.loopback").LoopbackError)
        self._class = source("cmove_interceptor.comparison").Comparison
        self._said: set[str] = set()

    def has_more(self, here: Here, fields: Any = STUDY, **answer: str) -> bool:
        comparison = self._class(self.far, here, "far", lambda: None, self._said)
        found: bool = comparison.has_more(fields, answer or {"StudyInstanceUID": "1"})
        return found

    def warnings(self) -> list[str]:
        return [text for level, text in self.standin.logs if level == "warning" and "does not answer C-FIND" in text]


@pytest.fixture
def compared(start: Callable[..., Script], source: Any, orthanc_standin: StandIn) -> Compared:
    return Compared(start, source, orthanc_standin)


def here(**series: str) -> Here:
    return Here(**{name[1:]: images for name, images in series.items()})


def number(text: str) -> dict[str, str]:
    return {"StudyInstanceUID": "1", "NumberOfStudyRelatedInstances": text}


@pytest.mark.parametrize(
    ("series", "more"),
    [
        (ALL, False),
        ({**ALL, "_1_3": "z"}, False),
        ({"_1_1": "ab", "_1_2": "z"}, True),
        ({"_1_1": "az", "_1_2": "c"}, True),
        ({"_1_3": "xyz"}, True),
        ({}, True),
    ],
)
def test_images_are_compared_by_their_uids(compared: Compared, series: dict[str, str], more: bool) -> None:
    assert compared.has_more(here(**series), **number("3")) is more
    assert compared.warnings() == []


def test_where_a_number_tells_more_nothing_else_is_asked(compared: Compared) -> None:
    assert compared.has_more(here(**ALL), **number("4")) is True
    assert compared.has_more(here(), **number("")) is True
    assert compared.far.asked == []


def test_what_a_modality_answers_besides_is_not_compared(compared: Compared) -> None:
    for level, answer in {"Series": {"SeriesInstanceUID": "2.1"}, "Instance": {"SOPInstanceUID": "x"}}.items():
        answers = compared.far.answers[level]
        assert answers is not None
        answers.append({"StudyInstanceUID": "2", "SeriesInstanceUID": "2.1", **answer})
    assert compared.has_more(here(**ALL), **number("3")) is False


@pytest.mark.parametrize("how", ["refuses", "is empty", "gives no UIDs"])
@pytest.mark.parametrize(
    ("series", "more"),
    [(ALL, False), ({"_1_1": "xy", "_1_2": "z"}, False), ({"_1_1": "abx"}, True), ({"_1_1": "a", "_1_2": "cz"}, True)],
)
def test_without_the_level_image_series_and_their_numbers_count(
    compared: Compared, series: dict[str, str], more: bool, how: str
) -> None:
    compared.far.answers["Instance"] = {
        "refuses": None, "is empty": [], "gives no UIDs": [{"SeriesInstanceUID": "1.1"}, {"SeriesInstanceUID": "1.2"}]
    }[how]  # fmt: skip
    for _ in range(2):
        assert compared.has_more(here(**series), **number("3")) is more
    assert len(compared.warnings()) == 1
    assert "modality:far" in compared.warnings()[0]
    assert [level for level, _ in compared.far.asked].count("Instance") == 2  # once for each move


def test_without_uids_and_without_numbers_it_is_fetched(compared: Compared) -> None:
    compared.far.answers["Instance"] = None
    for series in compared.far.answers["Series"] or []:
        del series["NumberOfSeriesRelatedInstances"]
    assert compared.has_more(here(**ALL), **number("3")) is True


@pytest.mark.parametrize(("answer", "more"), [(number("3"), False), (number(""), True), (number("many"), True)])
def test_without_the_level_series_the_number_of_all_counts(
    compared: Compared, answer: dict[str, str], more: bool
) -> None:
    compared.far.answers["Series"] = None
    assert compared.has_more(here(**ALL), **answer) is more
    assert len(compared.warnings()) == 1


def test_a_patient_is_compared_study_by_study_also_if_answers_lack_the_patient_id(compared: Compared) -> None:
    fields = {**STUDY, "Level": "PATIENT", "StudyInstanceUID": ""}
    assert compared.has_more(here(**ALL), fields, PatientID="", NumberOfPatientRelatedInstances="3") is False
    assert compared.far.asked[0][1]["PatientID"] == "P"
    assert compared.has_more(here(_1_1="ab", _1_2="z"), fields, PatientID="P") is True


@pytest.mark.parametrize("fields", [{"Level": "STUDY"}, {"Level": "SERIES", "SeriesInstanceUID": "1.1"}])
def test_nothing_is_asked_for_without_the_identifiers_above_it(compared: Compared, fields: dict[str, str]) -> None:
    """It would mean all that the modality has."""
    assert compared.has_more(here(**ALL), {"StudyInstanceUID": "", **fields}, StudyInstanceUID="") is True
    assert compared.far.asked == []


def test_one_image_is_here_or_not(compared: Compared) -> None:
    fields = {**STUDY, "Level": "INSTANCE", "SOPInstanceUID": "a"}
    assert compared.has_more(here(**ALL), fields) is False
    assert compared.has_more(here(), fields) is True
    assert compared.far.asked == []
