# SPDX-License-Identifier: AGPL-3.0-or-later
"""What lies between the slashes of a path climbs nowhere, whoever made it up."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.path_segments import fits_in_path, harmless_segment, has_dot_segments


@pytest.mark.parametrize(
    "path", ["..", "/a/../b", "/a/./b", "/a/..", "/%2e%2E/", "/a/.%2e", "/a%2F..%2fb", "/a\\..\\b", "."]
)
def test_a_part_that_climbs_is_found_in_whatever_way_it_is_written(path: str) -> None:
    assert has_dot_segments(path)


@pytest.mark.parametrize("path", ["", "/", "/a/b", "/a..b/..c/...", "/1.2.3/.well-known", "/a//b"])
def test_other_dots_are_no_harm(path: str) -> None:
    assert not has_dot_segments(path)


@given(st.text(st.sampled_from("./\\%2eEfF\0a"), max_size=8))
@example("..")
@example("../..")
@example("..\\a")
@example("")
def test_no_value_climbs_also_for_a_server_that_decodes_before_it_splits(value: str) -> None:
    segment = harmless_segment(urllib.parse.quote(value, safe=""))
    assert not has_dot_segments(segment)
    assert segment
    assert "/" not in segment
    assert "\0" not in urllib.parse.unquote(segment)
    if not re.search(r"(^|[/\\])\.\.?([/\\]|$)|\0|^$", value):
        assert urllib.parse.unquote(segment) == value


@pytest.mark.parametrize("uid", ["1.2.840.1", "1.2.3-x", "9", ".5", "..a.."])
def test_uids_as_they_are_met_fit_in_a_path(uid: str) -> None:
    assert fits_in_path(uid)


@pytest.mark.parametrize("uid", ["", ".", "..", "1/2", "1.2?a=b", "1 2", "1\\2", "1\0", "1%2F", "é", "1#"])
def test_what_would_choose_another_path_does_not(uid: str) -> None:
    assert not fits_in_path(uid)


# Where values and templates become paths

CLIMBING = ["http://host/a/../b", "http://host/%2E%2e/x", "http://host/a/.", "http://host/a%2F..%2Fb"]


@pytest.mark.parametrize("url", CLIMBING)
def test_a_service_of_the_cmove_interceptor_has_no_such_template(source: Any, url: str) -> None:
    settings = source("cmove_interceptor.settings")
    assert "no part . or .." in settings._url(f"{url}?id={{PatientID}}")
    assert settings._url("http://host/a..b/{PatientID}?path=/../x") is None


@pytest.mark.parametrize("url", CLIMBING)
def test_a_webhook_has_no_such_url(source: Any, url: str) -> None:
    broker = {"Type": "webhook", "WebhookConfig": {"URL": url}}
    [named] = source("dicom_events.named").read_brokers(source("dicom_events.settings").Settings(broker=broker))
    assert "WebhookConfig.URL" in named.complaint
    assert "no part . or .." in named.complaint


@pytest.mark.parametrize(
    ("template", "patient", "path"),
    [
        ("/a/{PatientID}/b", "..", "/a/__/b"),
        ("/a/{PatientID}/b", "../../x", "/a/__%2F__%2Fx/b"),
        ("/a/{PatientID}/b", "", "/a/_/b"),
        ("/a/.{PatientID}/b", ".", "/a/__/b"),
        ("/a/.{PatientID}/b", "", "/a/_/b"),
        ("/a/{PatientID}{PatientID}/b", ".", "/a/__/b"),
        ("/a/{PatientID}/b", "x/1", "/a/x%2F1/b"),
        ("/a//{PatientID}", "1.2", "/a//1.2"),
    ],
)
def test_a_value_makes_no_part_of_a_url_vanish_or_climb(source: Any, template: str, patient: str, path: str) -> None:
    filled = source("cmove_interceptor.templates").filled_url
    assert filled(f"http://host{template}?q={{PatientID}}", {"PatientID": patient}) == (
        f"http://host{path}?q={urllib.parse.quote(patient, safe='')}"
    )


@pytest.mark.parametrize("uid", ["..", "1/../../x", "1?limit=1", ""])
@pytest.mark.parametrize("which", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_nothing_is_asked_of_a_dicomweb_server_by_a_uid_that_would_lead_elsewhere(
    source: Any, rest: Any, uid: str, which: str
) -> None:
    """And what can't be asked for is not proved to have arrived."""
    asked: list[Any] = []

    def answer(_path: str, body: Any) -> list[Any]:
        asked.append(body)
        return []

    rest.answers["POST", "/dicom-web/servers/cloud/get"] = answer
    loopback = source("common.loopback").Loopback({})
    servers = source("forwarding.dicomweb").DicomWebServers({}, loopback, is_wanted=False)
    query = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    assert servers._find(loopback, "cloud", "Instance", query | {which: uid}) == []
    assert asked == []
    servers._find(loopback, "cloud", "Instance", query)
    assert asked[0]["Uri"] == "/studies/1.2/series/1.2.3/instances"
