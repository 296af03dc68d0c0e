# SPDX-License-Identifier: AGPL-3.0-or-later
"""Small pieces of src/common: identifiers, wildcards, Accept, back-off."""

from __future__ import annotations

import pytest

from common.accept import preferred_type
from common.backoff import Backoff
from common.identifiers import orthanc_identifier
from common.wildcards import matches_any, matches_pattern
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc

TEXT, JSON = "text/plain", "application/json"


def test_an_identifier_is_the_one_that_orthanc_gives(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc("import orthanc\n")
    server.store(make_study(instances=1))
    for level in ("patients", "studies", "series", "instances"):
        (found,) = server.get(f"/{level}?expand")
        uids = server.get(f"/instances/{server.get('/instances')[0]}/simplified-tags")
        names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        depth = ("patients", "studies", "series", "instances").index(level) + 1
        assert orthanc_identifier(*(uids[name] for name in names[:depth])) == found["ID"]


@pytest.mark.parametrize(
    ("value", "pattern", "fits"),
    [
        ("CT1", "CT*", True),
        ("CT1", "CT?", True),
        ("CT12", "CT?", False),
        ("CT", "ct", False),
        ("[CT]", "[CT]", True),
        ("C", "[CT]", False),
        ("a\nb", "a*b", True),
        ("", "*", True),
        ("", "", True),
        ("a.c", "a.c", True),
        ("abc", "a.c", False),
        ("a" * 60, "*a" * 30 + "b", False),  # linear, where a regular expression would not end
    ],
)
def test_only_star_and_question_mark_are_wild(value: str, pattern: str, fits: bool) -> None:
    assert matches_pattern(value, pattern) is fits
    assert matches_any(value, ["nothing", pattern]) is fits


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("application/json", JSON),
        ("text/*;q=0.5, application/json", JSON),
        ("text/plain;q=0.5, */*;q=0.4", TEXT),
        ("application/*, text/plain;q=0", JSON),
        ("image/png", None),
        ("*/*;q=0", None),
        ("text/plain;q=rubbish, application/json;q=0.1", JSON),
    ],
)
def test_the_most_specific_range_decides_what_a_client_gets(accept: str | None, chosen: str | None) -> None:
    assert preferred_type(accept, (TEXT, JSON)) == chosen


def test_the_delay_doubles_up_to_the_longest_with_jitter() -> None:
    backoff = Backoff(first=10, longest=100)
    for attempts, most in ((1, 10), (2, 20), (4, 80), (5, 100), (1000, 100)):
        delays = [backoff.delay(attempts) for _ in range(50)]
        assert most / 2 <= min(delays) <= max(delays) <= most
        assert len(set(delays)) > 1
