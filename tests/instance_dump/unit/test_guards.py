# SPDX-License-Identifier: AGPL-3.0-or-later
"""instance_dump without a server: what it shows, and what it refuses to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.dicom import make_study
from testing.standin import Answer, StandIn
from tests.fakes import FakeOrthanc, Script

INSTANCE = "-".join(["0123abcd"] * 5)


@pytest.fixture
def dump(start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn) -> Callable[..., Answer]:
    [content] = make_study(PatientName="Doe^Jane", StudyDescription="x" * 1000)
    rest.answers["GET", f"/instances/{INSTANCE}"] = {"FileSize": str(len(content))}
    rest.answers["GET", f"/instances/{INSTANCE}/file"] = content
    start("instance_dump")

    def get(query: str = "", instance: str = INSTANCE, **headers: str) -> Answer:
        return orthanc_standin.http("GET", f"/pydicom/{instance}{query}", headers=headers)

    return get


def test_an_instance_is_shown_as_text_or_as_json(dump: Callable[..., Answer]) -> None:
    assert "Doe^Jane" in dump().text
    assert dump("?format=json").json()["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    assert dump(accept="application/dicom+json").headers["Content-Type"] == "application/dicom+json"


def test_pixels_and_long_values_are_left_out(dump: Callable[..., Answer]) -> None:
    assert "… (cut, of" in dump().text
    assert dump("?format=json").json()["7FE00010"] == {
        "vr": "OW",
        "BulkDataURI": f"../instances/{INSTANCE}/content/7fe0-0010",
    }


def test_no_browser_may_take_a_value_for_a_page(dump: Callable[..., Answer]) -> None:
    assert all(dump(f"?format={each}").headers["X-Content-Type-Options"] == "nosniff" for each in ("text", "json"))


@pytest.mark.parametrize("instance", ["x", "..", INSTANCE.upper(), f"{INSTANCE}0"])
def test_what_is_no_identifier_reaches_no_route_of_orthanc(
    dump: Callable[..., Answer], rest: FakeOrthanc, instance: str
) -> None:
    assert dump(instance=instance).status == 404
    assert rest.requests == []


def test_a_file_that_is_too_large_is_not_read(dump: Callable[..., Answer], rest: FakeOrthanc) -> None:
    rest.answers["GET", f"/instances/{INSTANCE}"] = {"FileSize": str(10**9)}
    assert dump().status == 413
    assert [path for _, path, _ in rest.requests] == [f"/instances/{INSTANCE}"]


def test_what_is_not_there_is_a_404_and_an_orthanc_that_does_not_answer_a_503(
    dump: Callable[..., Answer], rest: FakeOrthanc
) -> None:
    rest.answers["GET", f"/instances/{INSTANCE}/file"] = rest.error(404)
    assert dump().status == 404
    rest.answers["GET", f"/instances/{INSTANCE}/file"] = rest.error(0)
    assert dump().status == 503


def test_what_pydicom_can_not_read_is_a_415(dump: Callable[..., Answer], rest: FakeOrthanc) -> None:
    content = rest.answers["GET", f"/instances/{INSTANCE}/file"]
    syntax = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    assert syntax in content
    deflated = syntax.replace(b"\x14", b"\x16").replace(b".1\x00", b".1.99")
    length = int.from_bytes(content[140:144], "little") + 2
    broken = content[:140] + length.to_bytes(4, "little") + content[144:].replace(syntax, deflated)
    rest.answers["GET", f"/instances/{INSTANCE}/file"] = broken  # says that it is deflated, and is not
    answer = dump()
    assert (answer.status, "Doe" in answer.text) == (415, False)


def test_a_caller_too_many_is_a_503_and_holds_nobody_up(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, dump: Callable[..., Answer]
) -> None:
    start("instance_dump", {"HttpThreadsCount": 3})  # one at a time
    within: list[Any] = []

    def read(*_: Any) -> Any:
        if not within:
            within.append(dump().status)
        return {"FileSize": "1"}

    rest.answers["GET", f"/instances/{INSTANCE}"] = read
    assert dump().status == 200
    assert within == [503]
    assert dump().status == 200  # and it is free again


@pytest.mark.parametrize(("query", "status"), [("?format=xml", 400), ("?formt=text", 400)])
def test_a_wrong_parameter_is_named(dump: Callable[..., Answer], query: str, status: int) -> None:
    assert dump(query).status == status
    assert dump(accept="image/png").status == 406
