# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/rules.py: decisions that need no server."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from common.settings import SettingsError, read_settings
from forwarding.rules import DAYS, Origin, Rule, Window, has_origin, is_open, wrong_with

MONDAY = datetime.datetime(2024, 1, 1)  # noqa: DTZ001 - local, as a person writes it


@pytest.mark.parametrize(
    ("window", "hours"),
    [
        ({}, range(24)),
        ({"From": "08:00", "To": "18:00"}, range(8, 18)),
        ({"From": "20:00", "To": "06:00"}, [*range(6), *range(20, 24)]),
        ({"Days": ["Sun"], "From": "20:00", "To": "06:00"}, range(6)),  # the night that began on Sunday
        ({"Days": ["Mon"], "From": "20:00", "To": "06:00"}, range(20, 24)),
        ({"Days": ["Sat", "Sun"]}, []),
    ],
)
def test_a_destination_is_open_in_its_windows(window: dict[str, Any], hours: Any) -> None:
    read = read_settings(Window, "W", {"W": window})
    assert [hour for hour in range(24) if is_open([read], MONDAY.replace(hour=hour))] == list(hours)
    assert is_open([], MONDAY)


@pytest.mark.parametrize(
    "window", [{"From": "8"}, {"From": "25:00"}, {"To": "24:01"}, {"Days": ["Monday"]}, {"From": 8}]
)
def test_a_time_that_is_no_time_is_refused_by_its_key(window: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"W.{next(iter(window))}: found"):
        read_settings(Window, "W", {"W": window})


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({"Query": {"Modality": "CT"}}, "Query.Modality: a Study can't be asked for it"),
        ({"Level": "Patient", "Query": {"StudyDate": "20240101"}}, "Query.StudyDate: a Patient can't be asked for it"),
        ({"Level": "Series", "Query": {"ModalitiesInStudy": "CT"}}, "Query.ModalitiesInStudy: a Series can't"),
        ({"Query": {"ModalitiesInStudy": "C*"}}, "Query.ModalitiesInStudy: wildcards"),
        ({"Query": {"StudyDescription": ""}}, "Query.StudyDescription: found '', which everything matches"),
        ({"Query": {"StudyDate": "-"}}, "Query.StudyDate: found '-', which everything matches"),
        ({"Query": {"AccessionNumber": "A\\"}}, "Query.AccessionNumber: found 'A\\\\', which everything matches"),
        ({"Query": {"InstitutionName": "**"}}, "Query.InstitutionName: found '**', which everything matches"),
        ({"Query": {"StudyDate": "2020-01-31"}}, "Query.StudyDate: found '2020-01-31', allowed: a day as 20240131"),
        ({"Query": {"StudyDescription": 3}}, "Query.StudyDescription: found 3, allowed: a text"),
        ({"Origin": {"Method": ["Dicom"]}}, "Origin.Method: found 'Dicom', allowed: DicomProtocol"),
        ({"Matcher": "rules"}, "Matcher: found 'rules', allowed: module.py:function"),
    ],
)
def test_a_condition_that_a_level_cannot_answer_is_refused_by_its_key(rule: dict[str, Any], named: str) -> None:
    read = read_settings(Rule, "R", {"R": {"Name": "r", **rule}})
    complaint = wrong_with(read)
    assert complaint is not None
    assert complaint.startswith(named)


def test_what_a_level_can_answer_is_accepted() -> None:
    for level, query in (
        ("Patient", {"PatientID": "A*"}),
        ("Study", {"PatientID": "A*", "StudyDate": "20240101-", "ModalitiesInStudy": "CT\\MR"}),
        ("Series", {"StudyDescription": "*", "Modality": "CT", "BodyPartExamined": "HEAD"}),
    ):
        assert wrong_with(read_settings(Rule, "R", {"R": {"Name": "r", "Level": level, "Query": query}})) is None


@pytest.mark.parametrize("key", ["RemoteAET", "CalledAET", "RemoteIP", "Method", "User"])
def test_an_environment_variable_that_is_not_set_is_no_origin(key: str) -> None:
    """What says nothing of where it came from would match it: all that came over HTTP, for example."""
    with pytest.raises(SettingsError, match=rf"R\.Origin\.{key}: found .*is the environment variable set"):
        read_settings(Rule, "R", {"R": {"Name": "r", "Origin": {key: ["CT1", ""]}}})


def test_an_origin_is_met_when_every_condition_holds() -> None:
    origin = {"RemoteAET": "CT1", "CalledAET": "ORTHANC", "RemoteIP": "10.0.0.7", "Origin": "DicomProtocol"}
    assert has_origin(Origin(), origin)
    assert has_origin(Origin(remote_aet=("MR*", "CT?"), method=("DicomProtocol",)), origin)
    assert not has_origin(Origin(remote_aet=("CT1",), remote_ip=("10.1.*",)), origin)
    assert not has_origin(Origin(user=("alice",)), origin)


def test_a_bracket_in_a_pattern_is_a_plain_character() -> None:
    assert has_origin(Origin(remote_aet=("CT[1]",)), {"RemoteAET": "CT[1]"})
    assert not has_origin(Origin(remote_aet=("CT[12]",)), {"RemoteAET": "CT1"})


def test_every_day_has_a_name() -> None:
    assert [DAYS[(MONDAY + datetime.timedelta(days=day)).weekday()] for day in range(7)] == list(DAYS)
