# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/urls.py: what Orthanc says of a request that failed shows no password."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("while accessing http://u:secret@host:80/system", "while accessing http://host:80/system"),
        ("on: https://u:sec@ret@[::1]/x?key=secret and more", "on: https://[::1]/x and more"),
        ("HTTP://secret@host", "HTTP://host"),
        ("http://host/?key=secret", "http://host/"),
        ("http://host/studies/a@b.org", "http://host/studies/a@b.org"),
        ("two: http://a:secret@b/ http://c:secret@d/", "two: http://b/ http://d/"),
        ("one in another: http://a/http://b:secret@c/,x://d:secret@e", "one in another: http://a/http://c/,x://e"),
        ("an @ without a URL? Yes", "an @ without a URL? Yes"),
    ],
)
def test_users_passwords_and_queries_are_taken_out(source: Any, said: str, shown: str) -> None:
    assert source("common.urls").without_secrets(said) == shown


@pytest.mark.parametrize("part", ["a.", "://a", "a://", "://@", "://?", "@/"])
def test_a_long_text_holds_up_nobody(source: Any, part: str) -> None:
    """With a pattern that looks at it again and again, this would take hours."""
    text = "http://" + part * 300_000
    assert len(source("common.urls").without_secrets(text)) <= len(text)


def test_how_a_job_failed_and_what_orthanc_answers_show_none(source: Any) -> None:
    job = {"State": "Failure", "ErrorDetails": "while accessing http://u:secret@host/instances", "Content": {}}
    assert source("common.jobs").ending_of(job)[1] == "while accessing http://host/instances"
    assert source("anonymize_series.sending").why_not_all(job, ["1"]) == "while accessing http://host/instances"
