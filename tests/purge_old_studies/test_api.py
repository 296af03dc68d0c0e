# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: what its routes take and refuse, and that what they refuse deletes nothing."""

from __future__ import annotations

import concurrent.futures
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.purge_old_studies.helpers import DATES, SCRIPT, dates_left, deleted_in_history, ended, fill
from tests.scripts import combine_scripts

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


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


def test_json_comes_by_format_and_by_accept(unharmed: OrthancServer) -> None:
    expected = {"Deleted": 0, "Since": "19000101"}
    for arguments in ({"params": {"since": "19000101", "format": "json"}}, {"headers": {"Accept": "application/json"}}):
        answer = unharmed.request("GET", "/purge-old-studies", **{"params": {"since": "19000101"}, **arguments})
        assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    "query",
    ["", "since=", "since=2000", "since=20000231", "since=2000-01-01", "since=99999999", "since=٢٠٠٠٠١٠١", "since=-20000101",
     "since=20000101%0A", "since=20200101&limit=0", "since=20200101&format=xml", "Since=20200101"],
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


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_other_methods_are_405_and_name_the_right_one(unharmed: OrthancServer, method: str) -> None:
    answer = unharmed.request(method, "/purge-old-studies?since=20240101")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET,POST")


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
    assert unharmed.request("GET", "/purge-old-studies?since=19000101", headers=headers).text.startswith("Purged 0 ")


def test_a_server_that_stands_open_is_told_so_at_start(start_briefly: StartOrthanc) -> None:
    server = start_briefly(
        SCRIPT, {"RemoteAccessAllowed": True, "AuthenticationEnabled": False, "HttpBindAddresses": ["127.0.0.1"]}
    )
    assert "whoever reaches this server may use its routes" in server.log


WRONG = [
    {},
    {"since": "20200101", "older-than": "7y"},
    {"since": 20200101},
    {"since": None},
    {"since": "20200101", "dryrun": True},
    {"since": "20200101", "dry-run": "yes"},
    {"since": "20200101", "dry-run": 1},
    {"since": "20200101", "limit": 0},
    {"since": "20200101", "limit": -3},
    {"since": "20200101", "limit": True},
    {"since": "20200101", "limit": 2.5},
    {"since": "20200101", "undated": "yes"},
    {"since": "20200101", "keep-received-days": -1},
    {"since": "20200101", "keep-received-days": 1.5},
    {"since": "20200101", "keep-received-days": True},
    {"since": "20200101", "keep-received-days": None},
    {"since": "20200101", "keep-received-days": 100_000},
    {"since": "20200101", "by": "ContentDate"},
    {"since": "20200101", "Query": {}, "query": {}},
    {"since": "20200101", "Query": "ModalitiesInStudy"},
    {"since": "20200101", "Query": {"Modality": "CT"}},
    {"since": "20200101", "Query": {"StudyDate": "2020"}},
    {"since": "20200101", "Query": {"ModalitiesInStudy": ""}},
    {"since": "20200101", "Query": {"ModalitiesInStudy": "C*"}},
    {"since": "20200101", "Query": {"PatientID": "*"}},
    {"since": "20200101", "Query": {"PatientID": "A\\"}},
    {"since": "20200101", "Query": {"PatientID": "A\\B*"}},
    {"since": "20200101", "Query": {"PatientID": 5}},
    {"since": "20200101", "Query": {"PatientBirthDate": "-19500101"}},
    {"since": "20200101", "Labels": []},
    {"since": "20200101", "Labels": [""]},
    {"since": "20200101", "LabelsConstraint": "All"},
    {"since": "20200101", "format": "xml"},
    {"older-than": "7"},
    {"older-than": "0d"},
    {"older-than": 7},
    {"older-than": "99999y"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_what_can_not_be_right_is_a_400_that_says_so_by_post_and_by_get(
    unharmed: OrthancServer, wrong: dict[str, Any]
) -> None:
    answer = unharmed.request("POST", "/purge-old-studies", json=wrong)
    assert (answer.status_code, bool(answer.json()["Message"])) == (400, True)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in wrong.items()}
    if (
        not isinstance(wrong.get("since", ""), int) and wrong.get("Labels") != []
    ):  # in a query these are fine, or a label
        assert unharmed.request("GET", "/purge-old-studies", params=texts).status_code == 400


@pytest.mark.parametrize(
    "body",
    [b'{"since": "20200101", "since": "19000101"}', b"[]", b"null", b'"20200101"', b"{", b"\xff", b"[" * 100_000,
     b'{"a": "' + b"]" * 1000 + b'", "b": ' + b"[" * 900,
     b"since=20200101", b'{"since": "20200101"} {}'],
)  # fmt: skip
def test_a_body_that_is_not_one_object_of_parameters_is_a_400(unharmed: OrthancServer, body: bytes) -> None:
    assert unharmed.request("POST", "/purge-old-studies", data=body).status_code == 400


NAMES = st.sampled_from(
    [
        "since",
        "older-than",
        "by",
        "Query",
        "Labels",
        "limit",
        "undated",
        "keep-received-days",
        "dry-run",
        "force",
        "async",
        "format",
        "x",
    ]
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from(["19000101", "20000101", "7y", "90d", "true", "json", '{"PatientID": "P0"}', "\x00", "%s", "'", "\uff19"]),
    st.dictionaries(st.sampled_from(["PatientID", "StudyDate", "x", ""]), st.text(max_size=5), max_size=2),
    st.lists(st.text(max_size=3), max_size=2),
)  # fmt: skip


@given(asked=st.dictionaries(NAMES, VALUES, max_size=4), by_get=st.booleans())
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parameters_made_up_at_random_never_give_a_500_and_never_delete(
    unharmed: OrthancServer, asked: dict[str, Any], by_get: bool
) -> None:
    asked["dry-run"] = asked.get("dry-run") if isinstance(asked.get("dry-run"), str) else True  # what is valid deletes
    if by_get:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asked.items()}
        answer = unharmed.request("GET", "/purge-old-studies", params=texts)
    else:
        answer = unharmed.request("POST", "/purge-old-studies", json=asked)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200 and asked.get("format") == "json":
        assert answer.json()["DryRun"]


def test_an_unknown_purge_is_a_404(unharmed: OrthancServer) -> None:
    for name in ("999", "x", "-1", "1e3", "\uff19", "99999999999999999999999"):
        assert unharmed.request("GET", f"/purge-old-studies/jobs/{name}").status_code == 404
        assert unharmed.request("POST", f"/purge-old-studies/jobs/{name}/cancel").status_code == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "since=x", "since=-1", "purge=", "day=1"])
def test_a_list_is_asked_for_properly_or_it_is_a_400(unharmed: OrthancServer, query: str) -> None:
    assert unharmed.request("GET", f"/purge-old-studies/history?{query}").status_code == 400


def test_combined_with_others_it_does_the_same(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    others = [SCRIPT.with_name("auto_forward_modality.py")]
    combined = combine_scripts(SCRIPT, *others, to=tmp_path / "combined.py")
    server = start_orthanc(combined)
    fill(server, DATES)
    assert server.get("/purge-old-studies", since="20000101").startswith("Purged 3 ")
    assert server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "async": True})["ID"] == 2
    assert ended(server, 2)["Deleted"] == 1
    server.kill()
    server.start()
    assert len(deleted_in_history(server)) == 4


def test_more_dry_runs_than_orthanc_has_threads_stop_nobody(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"HttpThreadsCount": 5})
    fill(server, ["20010101"] * 3)
    asked = {"params": {"since": "20200101", "dry-run": "true"}, "timeout": 30}
    with concurrent.futures.ThreadPoolExecutor(15) as callers:
        answers = [callers.submit(server.request, "GET", "/purge-old-studies", **asked) for _ in range(60)]
        assert {answer.result().status_code for answer in answers} <= {200, 503}
    assert server.request("GET", "/purge-old-studies", **asked).status_code == 200
