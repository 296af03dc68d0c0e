# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which requests are written down, and whose each is; without a server."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, Script, eventually
from tests.route_table import NOBODY, ROUTES

KEY = "a key of more than thirty-two characters"
OWN = "Bearer own"
STUDY = "11111111-22222222-33333333-44444444-55555555"
# What a GET of our routes may be without a line: it shows what a script does or owes, and no image, nor whose it is.
NOT_WATCHED = {
    *("/scripts", "/scripts/health", "/audit-log/newest", "/audit-log/routes", "/audit-log/status"),
    *("/purge-old-studies/jobs", "/purge-old-studies/jobs/x", "/purge-old-studies/history",
      "/purge-old-studies/rules/x/dry-run"),
    *("/anonymize-series/jobs", "/anonymize-series/jobs/x", "/anonymize-series/held"),
    *("/auto-retries/jobs", "/auto-retries/jobs/x", "/cmove-interceptor/requests", "/with-private-tags/status"),
    *("/dicom-events/dead-letters", "/dicom-events/dead-letters/x", "/purge-old-studies/routes"),
    *(f"/auto-forward-{kind}/{part}" for kind in ("dicomweb", "modality", "peer")
      for part in ("deliveries", "deliveries/x", "destinations", "rules", "catch-up")),
    *(f"/with-private-tags/{part}" for part in ("series", "series/x", "studies/x/series", "patients/x/series")),
    *("/dicom-events/catch-up", "/dashboard/routes", "/dashboard/files/x/x", "/dashboard/summary", "/dashboard/flow"),
    # the DICOMweb plugin's own requests, with a ticket
    *("/dicom-web/auto-forward-dicomweb/files/x", "/dicom-web/purge-old-studies/files/x"),
}  # fmt: skip


@pytest.fixture
def watch(source: Callable[[str], Any]) -> Callable[..., Any]:
    module = source("audit_log.watching")

    def look(uri: str, method: int = 1, configuration: dict[str, Any] | None = None, **more: Any) -> Any:
        headers = {"authorization": more.pop("token", "Basic YWxpY2U6eA=="), **more.pop("headers", {})}
        watcher = module.RequestWatcher(configuration or {}, lambda: OWN)
        return watcher.seen(uri, {"method": method, "ip": "10.0.0.7", "headers": headers, **more})

    return look


@pytest.fixture
def of_script(source: Callable[[str], Any]) -> Callable[..., Any]:
    module = source("audit_log.watching")
    requests = source("common.own_requests")

    def look(method: str, path: str, *more: Any) -> Any:
        watcher = module.RequestWatcher({}, lambda: OWN)
        return watcher.seen_of_script("purge_old_studies", requests.OwnRequest(method, path, *more))

    return look


def test_each_of_our_routes_is_watched_or_is_known_to_show_no_image_and_nobody(watch: Any) -> None:
    for route in ROUTES:
        method, _, pattern = route.partition(" ")
        path = re.sub(r"\(([^()|]*\|)*[^()]*\)", "x", pattern)
        watched = watch(path, {"GET": 1, "POST": 2, "DELETE": 4}[method]) is not None
        known = method == "GET" and (path in NOT_WATCHED or path.rpartition("/")[2] == "status" or path.count("/") == 1)
        known = known or route == "POST /dashboard/may-act"  # which does nothing
        acts_or_shows = path in ("/purge-old-studies", "/audit-log")
        assert watched is (acts_or_shows or not known), route


@pytest.mark.parametrize(
    "uri",
    [
        "/pydicom/1",
        "/series/1/thumbnail",
        "/studies/1/thumbnail/",
        "/anonymize-series/register",
        "/audit-log/",
        "/web-viewer/series/1",
        "/web-viewer/instances/jpeg95-1_0",
        "/osimis-viewer/images/1/0/high-quality",
        "/wsi/tiles/1/0/0/0",
        "/transfers/chunks/1",
        "/instances/1/numpy",
        "/instances/1/content/7fe0-0010",
        "/instances/1/content/7FE0-0010/0",
        "/instances/1/content/7fe00010/0",
        "/instances/1/content/PixelData/0",
        "/instances/1/content/0088-0200/0/7fe0,0010",
        "/instances/1/content/0042-0011",
        "/dicom-web/studies",
        "/dicom-web/studies/1.2/series/1.3",
        "/wado",
    ],
)
def test_what_shows_an_image_or_whose_it_is_is_watched(watch: Any, uri: str) -> None:
    assert watch(uri).uri == uri


@pytest.mark.parametrize(
    "uri", ["/instances/1/content", "/instances/1/content/0010-0010", "/instances/1/content/7fe0-00101"]
)
def test_what_shows_other_tags_is_not(watch: Any, uri: str) -> None:
    assert watch(uri) is None


@pytest.mark.parametrize(
    ("root", "path"), [("/rs/", "/rs"), ("pacs/dicomweb", "/pacs/dicomweb"), ("/", ""), (None, "/dicom-web")]
)
def test_dicomweb_is_watched_under_any_root(watch: Any, root: str | None, path: str) -> None:
    configuration = {"DicomWeb": {"Root": root, "WadoRoot": "/old-wado"} if root else None}
    assert watch(f"{path}/studies/1.2.3/series", 1, configuration).study_uid == "1.2.3"
    assert watch(f"{path}/instances", 1, configuration)
    assert bool(watch("/wado", 1, configuration)) is (root is None)
    assert bool(watch("/old-wado", 1, configuration, get={"studyUID": "1.2"})) is (root is not None)
    assert watch("/system", 1, configuration) is None


def test_a_get_that_deletes_is_an_attempt_to_delete_with_what_it_was_asked(watch: Any) -> None:
    seen = watch("/purge-old-studies", 1, get={"older-than": "10y\n", "by": "x" * 900})
    assert (seen.acts, seen.who["User"], seen.query["older-than"]) == (True, "alice", "10y")
    assert len(seen.query["by"]) == 200
    assert watch("/purge-old-studies/status") is None
    assert watch("/dicom-web/studies", 1, get={"PatientName": "Miller"}).query == {}


def test_what_scripts_ask_for_is_told_with_their_name_and_what_they_only_look_up_is_left_out(of_script: Any) -> None:
    seen = of_script("GET", "/instances/1/file?x=1")
    assert (seen.uri, seen.who, seen.acts) == ("/instances/1/file", {"Script": "purge_old_studies"}, False)
    asked = {"User": "alice", "Purge": 3}
    seen = of_script("POST", "/tools/bulk-delete", [STUDY], asked)
    assert seen.who == {"Script": "purge_old_studies", "AskedBy": asked}
    assert seen.deletes == [STUDY]
    assert of_script("GET", "/wado?studyUID=1.2").study_uid == "1.2"
    assert of_script("POST", "/modalities/PACS/store", [STUDY]).deletes == ()
    for reading in ("/tools/find", "/tools/bulk-content", "/auto-forward-peer/owed"):
        assert of_script("POST", reading) is None
    assert of_script("GET", f"/studies/{STUDY}") is None


def test_the_log_s_own_requests_are_left_out_and_what_a_stranger_says_is_not_believed(watch: Any) -> None:
    assert watch("/instances/1/file", token=OWN) is None
    assert watch("/instances/1/file")
    seen = watch("/tools/bulk-delete", 2, headers={"x-asked-by": '{"User": "bob"}'}, token="Bearer mine")  # noqa: S106
    assert (seen.who, seen.deletes) == ({"User": "(Bearer)", "IP": "10.0.0.7"}, ())


def test_a_script_says_what_it_asks_for_and_for_whom(source: Any, orthanc_standin: StandIn) -> None:
    requests = source("common.own_requests")
    requests.report_request("GET", "/system")  # alone: nobody is told
    heard: list[Any] = []
    orthanc: Any = orthanc_standin.module
    orthanc.report_request = lambda request: heard.append(request)
    asked = requests.asked_by({"User": "alice", "Rule": None})
    requests.report_request("POST", "/tools/bulk-delete", {"Resources": [STUDY]}, asked)
    requests.report_request("POST", "/instances", b"DICM")
    assert heard == [
        ("POST", "/tools/bulk-delete", [STUDY], {"User": "alice"}),
        ("POST", "/instances", (), {}),
    ]


# What becomes of it


@pytest.fixture
def tell(orthanc_standin: StandIn) -> Callable[..., None]:
    """What the runtime of a combined file calls when another script asks Orthanc for something."""
    orthanc: Any = orthanc_standin.module
    listeners: list[Callable[..., None]] = []
    orthanc.listen_to_requests = listeners.append
    return lambda *request: listeners[-1]("purge_old_studies", request)


@pytest.fixture
def audit(start: Callable[..., Script], clock: Clock, tell: Any) -> Script:
    return start("audit_log", {"AuditLog": {"Key": KEY, "WatchRequests": True}})


def lines(audit: Script, event: str) -> list[dict[str, Any]]:
    return [entry for entry in audit.get("/audit-log")["Items"] if entry["Event"] == event]


def ask(standin: StandIn, uri: str, method: int) -> None:
    allow = standin.callback("RegisterIncomingHttpRequestFilter")
    assert allow(uri, method=method, ip="10.0.0.7", headers={"authorization": "Basic YWxpY2U6eA=="}) is True


ASKED = {"User": "alice", "Purge": 3}


@pytest.mark.parametrize("watches", [True, None, False])
def test_a_purged_study_has_a_line_that_says_who_asked(
    start: Callable[..., Script], clock: Clock, tell: Any, watches: bool | None
) -> None:
    """Also where a filter of requests would lose memory; only the request itself has no line if nobody wants that."""
    audit = start("audit_log", {"AuditLog": {"Key": KEY, "WatchRequests": watches}})
    tell("POST", "/tools/bulk-delete", [STUDY], ASKED)
    for study in (STUDY, NOBODY):
        audit.change("DELETED", study, "STUDY")
    deleted, other = eventually(functools.partial(more_than, audit, 1))
    assert deleted["By"] == {"Script": "purge_old_studies", "AskedBy": ASKED}
    assert "By" not in other
    attempts = lines(audit, "post-attempt")
    assert [each["AskedBy"] for each in attempts] == ([] if watches is False else [ASKED])


def test_who_deletes_a_study_or_its_patient_is_named_where_the_rest_of_it_goes(
    audit: Script, orthanc_standin: StandIn, rest: Any, source: Any
) -> None:
    patient = source("common.identifiers").orthanc_identifier("P1")
    recorder = orthanc_standin.callback("RegisterIncomingHttpRequestFilter").__self__
    eventually(lambda: lines(audit, "started"))
    before = 0
    for study, asked in ((STUDY, f"/studies/{STUDY}"), (NOBODY, f"/patients/{patient}")):
        place = {"Study": study, "StudyInstanceUID": "1.2", "Patient": "P1"}
        for resource in (f"{study}-series", study, patient):
            recorder._places.keep(resource, place)
        ask(orthanc_standin, asked, 4)
        for resource, level in ((f"{study}-series", "SERIES"), (study, "STUDY"), (patient, "PATIENT")):
            audit.change("DELETED", resource, level)
        found = eventually(functools.partial(more_than, audit, before + 2))
        assert [entry.get("By", {}).get("User") for entry in found[before:]] == ["alice"] * 3
        before = len(found)


def more_than(audit: Script, count: int) -> list[dict[str, Any]]:
    found = lines(audit, "deleted")
    return found if len(found) > count else []


def test_a_request_of_long_ago_is_not_held_to_be_the_one_that_deletes(
    audit: Script, orthanc_standin: StandIn, clock: Clock, source: Any
) -> None:
    deleters = source("audit_log.deleters")
    ask(orthanc_standin, f"/studies/{STUDY}", 4)
    eventually(lambda: lines(audit, "delete-attempt"))
    clock.advance(deleters.REMEMBERED_SECONDS + 1)
    audit.change("DELETED", STUDY, "STUDY")
    [deleted] = eventually(lambda: lines(audit, "deleted"))
    assert "By" not in deleted
    some = deleters.Deleters()
    for number in range(deleters.MOST_REMEMBERED + 5):
        some.note([str(number)], {"User": "x"})
    assert len(some._requests) == deleters.MOST_REMEMBERED


def test_what_scripts_do_many_times_is_counted_and_what_people_change_is_not(
    audit: Script, orthanc_standin: StandIn, clock: Clock, tell: Any
) -> None:
    for number in range(3):
        tell("PUT", f"/series/{NOBODY}/metadata/{1024 + number}")
        ask(orthanc_standin, f"/series/{NOBODY}/metadata/{1024 + number}", 3)
    eventually(lambda: len(lines(audit, "put-attempt")) == 4)
    clock.advance(11)
    [counted] = eventually(lambda: [each for each in lines(audit, "put-attempt") if "Count" in each])
    assert (counted["Script"], counted["Count"]) == ("purge_old_studies", 3)
