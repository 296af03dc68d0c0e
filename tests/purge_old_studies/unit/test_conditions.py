# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies: a request means the studies that it says; one that could mean more is refused, with what is allowed."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest

TODAY = datetime.date(2024, 3, 31)


@pytest.fixture(scope="module")
def module(source_for_module: Any) -> Any:
    return source_for_module("purge_old_studies.conditions")


def refusal(module: Any, found: dict[str, Any], has_labels: bool = True) -> str:
    """Return why such a request is refused, up to a day of long ago unless it is about days."""
    asked = found if not found or "older-than" in found else {"since": "20000101", **found}
    with pytest.raises(module.Refused) as refused:
        module.conditions(asked, TODAY, has_labels=has_labels)
    assert refused.value.status == 400
    return str(refused.value.message)


def test_what_is_not_said_narrows_nothing_and_adds_nothing(module: Any) -> None:
    found = module.conditions({"since": "20000101"}, TODAY)
    assert found == module.Conditions(datetime.date(2000, 1, 1))
    assert (found.by, found.query, found.labels, found.labels_constraint) == ("StudyDate", {}, (), "All")
    assert (found.limit, found.undated, found.received_until, found.only_if_at) == (None, False, "", ())
    assert found.proof == "StorageCommitment"


def test_what_is_said_is_meant(module: Any) -> None:
    asked = {
        "older-than": "1m", "by": "received", "Query": {"ModalitiesInStudy": "CT\\MR"}, "Labels": ["a-1", "B_2"],
        "LabelsConstraint": "None", "limit": 3, "undated": "received", "only-if-at": ["PACS"], "proof": "C-FIND",
    }  # fmt: skip
    found = module.conditions(asked, TODAY)
    assert found == module.Conditions(
        datetime.date(2024, 2, 29), "received", {"ModalitiesInStudy": "CT\\MR"}, ("a-1", "B_2"), "None", 3, "received",
        only_if_at=("PACS",), proof="C-FIND",
    )  # fmt: skip
    assert module.Conditions.from_json(module.json.dumps(found.as_json())) == found


def test_what_a_purge_is_about_does_not_change_while_it_runs(module: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        module.conditions({"since": "20000101"}, TODAY).last = TODAY


def test_a_purge_that_was_begun_by_an_older_version_means_the_same_after_a_restart(module: Any) -> None:
    text = '{"last": "20000101", "by": "StudyDate", "query": {}, "labels": ["x"], "limit": 2}'
    assert module.Conditions.from_json(text) == module.Conditions(datetime.date(2000, 1, 1), labels=("x",), limit=2)


@pytest.mark.parametrize("proof", ["StorageCommitment", "C-FIND"])
def test_its_record_names_destinations_and_proof_only_where_they_count(module: Any, proof: str) -> None:
    plain = module.Conditions(datetime.date(2000, 1, 1), proof=proof)
    assert {"only_if_at", "proof"} & plain.as_json().keys() == set()
    asked = module.Conditions(datetime.date(2000, 1, 1), only_if_at=("A", "B"), proof=proof)
    assert asked.as_json() == {**plain.as_json(), "only_if_at": ["A", "B"], "proof": proof}


@pytest.mark.parametrize(
    ("more", "number", "words"),
    [
        ({}, 1, "1 study dated on or before 20000101"),
        ({}, 0, "0 studies dated on or before 20000101"),
        ({}, 2, "2 studies dated on or before 20000101"),
        ({"by": "received"}, 2, "2 studies received on or before 20000101"),
        ({"undated": True}, 2, "2 studies dated on or before 20000101, or without a date"),
        (
            {"undated": "received"},
            2,
            "2 studies dated on or before 20000101, or without a date and received by then",
        ),
        ({"undated": True, "by": "received"}, 2, "2 studies received on or before 20000101"),
    ],
)
def test_it_says_in_words_which_studies_are_meant(module: Any, more: dict[str, Any], number: int, words: str) -> None:
    assert module.Conditions(datetime.date(2000, 1, 1), **more).in_words(number) == words


def test_a_day_or_an_age_must_be_there_and_not_both(module: Any) -> None:
    give = "give the last day (since=YYYYMMDD) or the age (older-than=7y) of what is to go"
    both = {"since": "20000101", "older-than": "7y"}
    assert refusal(module, both) == f"since and older-than stand both there: {give}"
    assert refusal(module, {}) == f"since is missing: {give}"


@pytest.mark.parametrize("since", ["20000132", "2000", "", "2000-01-01"])
def test_what_is_no_day_is_refused(module: Any, since: str) -> None:
    assert refusal(module, {"since": since}) == f"since is {since!r}, allowed: a day of the calendar as YYYYMMDD"


def test_a_day_to_come_is_refused_and_today_is_not(module: Any) -> None:
    assert module.conditions({"since": "20240331"}, TODAY).last == TODAY
    assert refusal(module, {"since": "20240401"}) == (
        "since is 20240401, a day yet to come; allowed: up to today, 20240331"
    )


def test_what_is_no_age_is_refused(module: Any) -> None:
    assert refusal(module, {"older-than": "7"}) == "older-than is '7', allowed: an age such as 90d, 18m or 7y"


@pytest.mark.parametrize(
    ("age", "today", "day"),
    [("1d", "20240301", "20240229"), ("90d", "20260101", "20251003"), ("1m", "20240331", "20240229"),
     ("1m", "20230331", "20230228"), ("1m", "20240229", "20240129"), ("3m", "20240331", "20231231"),
     ("4m", "20240331", "20231130"), ("12m", "20240229", "20230228"), ("1y", "20240229", "20230228"),
     ("1y", "20241231", "20231231"), ("7y", "20261121", "20191121"), ("13m", "20240131", "20221231"),
     ("2025y", "20261121", "00011121"), ("2026y", "20261121", None), ("9d", "00010110", "00010101"),
     ("10d", "00010110", None), ("99999d", "20261121", "17530206"), ("100000d", "20261121", None), ("0d", "20240301", None),
     ("7", "20240301", None), ("y", "20240301", None), ("7Y", "20240301", None), ("-7y", "20240301", None),
     ("7 y", "20240301", None), ("7y\n", "20240301", None), ("\u0667y", "20240301", None)],
)  # fmt: skip
def test_ages_are_days_months_and_years_of_the_calendar_back(
    module: Any, age: str, today: str, day: str | None
) -> None:
    found = module.day_back(age, datetime.date.fromisoformat(today))
    assert (found.strftime("%Y%m%d").zfill(8) if found else None) == day


def test_a_constraint_and_a_proof_need_what_they_are_about(module: Any) -> None:
    assert refusal(module, {"LabelsConstraint": "Any"}) == "LabelsConstraint needs Labels"
    assert refusal(module, {"proof": "C-FIND"}) == "proof needs only-if-at"


def test_labels_are_refused_where_orthanc_has_none(module: Any) -> None:
    assert (
        refusal(module, {"Labels": ["x"]}, has_labels=False) == "Labels: this Orthanc has none, they came with 1.12.0"
    )
    assert module.conditions({"since": "20000101"}, TODAY, has_labels=False).labels == ()


@pytest.mark.parametrize(
    ("label", "can_be"),
    [("x", True), ("A-Z_09", True), ("x" * 64, True), ("x" * 65, False), ("", False), ("ä", False), ("a b", False),
     ("x\n", False)],
)  # fmt: skip
def test_a_label_that_orthanc_can_not_have_is_refused(module: Any, label: str, can_be: bool) -> None:
    """It would restrict nothing, or protect nothing."""
    assert module.is_label(label) is can_be
    if can_be:
        assert module.conditions({"since": "20000101", "Labels": ["y", label]}, TODAY).labels == ("y", label)
    else:
        assert "can't be one, allowed: letters, digits, - and _" in refusal(module, {"Labels": ["y", label]})


@pytest.mark.parametrize(
    ("tag", "value", "why"),
    [
        ("StudyDate", "20000101", "days are given by since or older-than, not by StudyDate"),
        ("0008,0020", "20000101", "days are given by since"),
        ("0008-0020", "20000101", "days are given by since"),
        ("PatientsName", "x", "'PatientsName' is not kept of each study; did you mean PatientName?"),
        ("BodyPartExamined", "x", "'BodyPartExamined' is not kept of each study; allowed: AccessionNumber, "),
        ("PatientID", "", "PatientID '' would match every study; leave it out"),
        ("PatientID", "*", "would match every study"),
        ("PatientID", " ** ", "would match every study"),
        ("PatientID", "x\\", "would match every study"),
        ("PatientID", "x\\*", "would match every study"),
        ("PatientID", "a\tb", "PatientID has characters that no value of DICOM has here"),
        ("ModalitiesInStudy", "C?", "ModalitiesInStudy takes no wildcards; several stand side by side: CT\\MR"),
        ("ModalitiesInStudy", "C*", "ModalitiesInStudy takes no wildcards"),
        ("PatientID", "a*\\b", "PatientID is a list, which takes no wildcards"),
        ("PatientID", "a\\b?", "PatientID is a list, which takes no wildcards"),
        ("StudyTime", "-1200", "StudyTime takes no range; to Orthanc an empty value would lie in it"),
        ("PatientBirthDate", "1970-", "PatientBirthDate takes no range"),
    ],
)
def test_a_query_that_would_match_more_than_it_says_or_nothing_is_refused(
    module: Any, tag: str, value: str, why: str
) -> None:
    said = refusal(module, {"Query": {"PatientSex": "F", tag: value}})
    assert said.startswith("Query: ")
    assert why in said


@pytest.mark.parametrize(
    "query",
    [{"PatientID": "a*"}, {"PatientID": "a-b"}, {"PatientName": "Ä?"}, {"PatientID": "a\\b"}, {"StudyTime": "1200"},
     {"ModalitiesInStudy": "CT\\MR"}],
)  # fmt: skip
def test_a_query_that_narrows_is_taken_as_it_is(module: Any, query: dict[str, str]) -> None:
    assert module.conditions({"since": "20000101", "Query": query}, TODAY).query == query


def test_every_tag_that_orthanc_keeps_of_a_study_may_narrow(module: Any) -> None:
    query = dict.fromkeys(module.QUERY_TAGS, "x")
    assert module.conditions({"since": "20000101", "Query": query}, TODAY).query == query


def test_until_when_a_study_must_have_come_in_is_counted_in_days(module: Any) -> None:
    moment = datetime.datetime(2024, 3, 31, 12, tzinfo=datetime.UTC).timestamp()
    assert module.received_until(1.5, moment) == "20240330T000000"
    assert module.received_until(0, moment) == ""
