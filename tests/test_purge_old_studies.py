# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py on a real Orthanc."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer

SCRIPT = Path(__file__).parent.parent / "purge_old_studies.py"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

# Dates as archives have them: the empty one and those that are no days sort before 20000101 as text.
DATES = ["19981231", "19991231", "20000101", "20000102", "20240101", "", "1999", "1999.12.31", "19991301", "20000231"]


def fill(server: OrthancServer, dates: list[str]) -> None:
    for number, date in enumerate(dates):
        server.store(make_study(patient_id=f"P{number}", study_date=date, instances=2))


def dates_left(server: OrthancServer) -> list[str]:
    return sorted(study["MainDicomTags"].get("StudyDate", "") for study in server.get("/studies?expand"))


@pytest.fixture(scope="module")
def unharmed(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """One archive for all that must not delete."""
    server = start_orthanc_for_module(SCRIPT)
    fill(server, ["19991231", "20240101"])
    return server


@pytest.fixture(autouse=True)
def _nothing_is_lost(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "unharmed" in request.fixturenames:
        assert dates_left(request.getfixturevalue("unharmed")) == ["19991231", "20240101"]


def test_every_study_dated_on_or_before_the_day_goes_and_no_other(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    fill(server, DATES)
    answer = server.request("GET", "/purge-old-studies", params={"since": "20000101"})
    assert (answer.status_code, answer.text.strip()) == (200, "3")
    assert dates_left(server) == sorted(set(DATES) - {"19981231", "19991231", "20000101"})
    assert server.request("GET", "/purge-old-studies", params={"since": "20000101"}).text.strip() == "0"


def test_json_comes_by_format_and_by_accept(unharmed: OrthancServer) -> None:
    expected = {"Deleted": 0, "Since": "19000101"}
    for arguments in ({"params": {"since": "19000101", "format": "json"}}, {"headers": {"Accept": "application/json"}}):
        answer = unharmed.request("GET", "/purge-old-studies", **{"params": {"since": "19000101"}, **arguments})
        assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    "query",
    ["", "since=", "since=2000", "since=20000231", "since=2000-01-01", "since=99999999", "since=٢٠٠٠٠١٠١", "since=-20000101",
     "since=20000101%0A", "since=20200101&limit=3", "since=20200101&format=xml", "Since=20200101", "since=20200101%00"],
)  # fmt: skip
def test_a_day_that_is_no_day_is_a_400_and_deletes_nothing(unharmed: OrthancServer, query: str) -> None:
    answer = unharmed.request("GET", f"/purge-old-studies?{query}")
    assert answer.status_code == 400
    assert answer.json()["Message"]


def test_a_day_yet_to_come_is_refused(unharmed: OrthancServer) -> None:
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)  # noqa: DTZ011
    answer = unharmed.request("GET", "/purge-old-studies", params={"since": f"{tomorrow:%Y%m%d}"})
    assert answer.status_code == 400
    assert "yet to come" in answer.json()["Message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_405_and_name_the_right_one(unharmed: OrthancServer, method: str) -> None:
    answer = unharmed.request(method, "/purge-old-studies?since=20240101")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none", "Sec-Purpose": "prefetch;prerender"},
    ],
)
def test_a_link_in_a_web_page_deletes_nothing_and_the_403_gives_the_command(
    unharmed: OrthancServer, headers: dict[str, str]
) -> None:
    answer = unharmed.request("GET", "/purge-old-studies?since=20240101", headers={"User-Agent": FIREFOX, **headers})
    assert answer.status_code == 403
    assert f"curl -u USER '{unharmed.url}/purge-old-studies?since=20240101'" in answer.json()["Message"]


def test_what_a_person_types_into_the_address_bar_works(unharmed: OrthancServer) -> None:
    headers = {"User-Agent": FIREFOX, "Sec-Fetch-Site": "none"}
    assert unharmed.request("GET", "/purge-old-studies?since=19000101", headers=headers).text.strip() == "0"


def test_more_studies_than_a_batch_all_go(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    for number in range(60):
        server.store(make_study(patient_id=f"P{number}", study_date="20010203"))
    assert server.get("/purge-old-studies", since="20010203", format="json")["Deleted"] == 60
    assert server.get("/studies") == []


def test_a_server_that_stands_open_is_told_so_at_start(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(
        SCRIPT, {"RemoteAccessAllowed": True, "AuthenticationEnabled": False, "HttpBindAddresses": ["127.0.0.1"]}
    )
    assert "whoever reaches this server may use its routes" in server.log
