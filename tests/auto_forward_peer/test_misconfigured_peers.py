# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_forward_peer.py sends to Orthancs only, and with Verify it asks whether they have what they took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.nodes import HttpAnswer, HttpNode, HttpRequest, Respond, answer_json, login_page, pass_on_to, redirect_to
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
SCRIPT = script_with(ROOT / "auto_forward_peer.py", QUICK)
ROUTE = "/auto-forward-peer"
SECURED = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "opensesame"}}
# It says {"Status": "FilteredOut"} with 200 of the second image of each series.
FILTERS = "function ReceivedInstanceFilter(dicom, origin, info)\n  return dicom.InstanceNumber ~= '2'\nend\n"


def rows(server: OrthancServer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.get(f"{ROUTE}/deliveries")["Items"]
    return items


def states(server: OrthancServer) -> list[str]:
    return [row["State"] for row in rows(server)]


def to(url: str, *credentials: str, **section: Any) -> dict[str, Any]:
    return {"OrthancPeers": {"PEER": [url, *credentials]}, "AutoForwardPeer": section}


@pytest.fixture
def node() -> Iterator[HttpNode]:
    with HttpNode(login_page()) as each:
        yield each


def redirect_with_secrets(request: HttpRequest) -> HttpAnswer:
    return HttpAnswer(
        301, headers={"Location": f"https://eve:hush@pacs.example:8443/orthanc{request.path}?token=abc#x"}
    )


WRONG: dict[str, tuple[Respond, str]] = {
    "a redirect": (redirect_with_secrets, "PEER redirects to https://pacs.example:8443/orthanc/: what is sent there"),
    "a redirect that keeps POST": (redirect_to("https://pacs.example", 308), "PEER redirects to https://pacs.example/"),
    "a redirect to nowhere": (lambda _: HttpAnswer(302), "PEER redirects to no address"),
    "a login page": (login_page(), "PEER is no Orthanc: it answers GET /system with a page of HTML (a login?)"),
    "another service": (answer_json({"Version": "2.0"}), "PEER is no Orthanc: it answers GET /system with something that no"),
    "a list": (answer_json([]), "PEER is no Orthanc"),
    "nothing": (lambda _: HttpAnswer(200), "PEER is no Orthanc"),
    "another path": (answer_json({}, 404), "PEER answers 404 to GET /system: is its URL in OrthancPeers right?"),
    "a wrong password": (answer_json({}, 401), "PEER answers 401 to GET /system, which its user in OrthancPeers must be"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_nothing_is_sent_to_what_is_no_orthanc_until_it_is_one(
    start_orthanc: StartOrthanc, node: HttpNode, wrong: str
) -> None:
    node.respond, reason = WRONG[wrong]
    source = start_orthanc(SCRIPT, to(f"{node.url}/", "alice", "opensesame"))
    source.store(make_study(instances=2))
    source.wait_for_log("sends nothing to PEER, until this is corrected")
    source.assert_logged(f"until this is corrected: {reason}", level="error")
    source.wait_until(lambda: rows(source)[0]["Error"].startswith(reason), what="say why it waits")
    assert states(source) == ["waiting"]
    shown = source.get(f"{ROUTE}/destinations")["PEER"]
    assert shown["Misconfigured"] is True
    assert shown["Error"].startswith(reason)
    source.store(make_study(patient_id="LATER"))
    source.wait_until(
        lambda: [row["Error"][: len(reason)] for row in rows(source)] == [reason] * 2, what="say it twice"
    )
    assert {(each.method, each.path) for each in node.asked} == {("GET", "/system")}
    assert node.asked[0].headers["authorization"].startswith("Basic ")
    assert source.log.count("sends nothing to PEER") == 1
    assert not any(secret in source.log for secret in ("hush", "token", "opensesame"))
    if wrong in ("a redirect", "a login page"):
        there = start_orthanc(aet="THERE", configuration=SECURED)
        node.respond = pass_on_to(there.url)
        source.wait_until(lambda: states(source) == ["done", "done"], timeout=60, what="heal")
        assert len(there.get("/instances")) == 3
        assert source.get(f"{ROUTE}/destinations")["PEER"] == {
            **shown, "Misconfigured": False, "Error": "", "Totals": {**shown["Totals"], "waiting": 0, "done": 2},
        }  # fmt: skip
        assert [row["Error"] for row in rows(source)] == ["", ""]


def test_what_a_peer_took_since_it_was_an_orthanc_last_goes_again(start_orthanc: StartOrthanc, node: HttpNode) -> None:
    there = start_orthanc(aet="THERE")
    node.respond = pass_on_to(there.url)
    source = start_orthanc(SCRIPT, to(f"{node.url}/"))
    source.store(make_study(patient_id="FIRST"))
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    node.respond = login_page()
    source.store(make_study(patient_id="LOST"))
    source.wait_until(lambda: states(source)[-1] == "done" and len(rows(source)) == 2, what="believe it")
    assert len(there.get("/instances")) == 1
    source.put(
        "/peers/ANOTHER", ["http://127.0.0.1:9/"]
    )  # what is known of peers is looked at again, also a minute later
    source.wait_for_log("sends nothing to PEER")
    source.wait_until(lambda: states(source)[-1] == "waiting", what="take back what may be lost")
    node.respond = pass_on_to(there.url)
    source.wait_until(lambda: set(states(source)) == {"done"}, timeout=60, what="deliver again")
    assert len(there.get("/instances")) == 2


def test_what_was_sent_before_a_restart_is_confirmed_after_it(start_orthanc: StartOrthanc, node: HttpNode) -> None:
    there = start_orthanc(aet="THERE")
    node.respond = pass_on_to(there.url)
    source = start_orthanc(SCRIPT, to(f"{node.url}/"))
    source.store(make_study(patient_id="FIRST"))
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    node.respond = login_page()
    source.store(make_study(patient_id="LOST"))
    source.wait_until(lambda: states(source)[-1] == "done" and len(rows(source)) == 2, what="believe it")
    source.kill()
    source.start()
    source.wait_until(lambda: "waiting" in states(source), what="take back what may be lost")
    node.respond = pass_on_to(there.url)
    source.wait_until(lambda: set(states(source)) == {"done"}, timeout=60, what="deliver again")
    assert len(there.get("/instances")) == 2


def test_a_peer_that_can_not_answer_now_is_away_and_gets_all_later(start_orthanc: StartOrthanc, node: HttpNode) -> None:
    there = start_orthanc(aet="THERE")
    node.respond = answer_json({}, 503)
    source = start_orthanc(SCRIPT, to(f"{node.url}/"))
    source.store(make_study())
    source.wait_for_log("did not reach PEER (attempt 1): PEER can't be asked who it is: it answers 503 to GET /system")
    assert not node.requests("POST", "/instances")
    node.respond = pass_on_to(there.url)
    source.wait_until(lambda: states(source) == ["done"], what="deliver")


def test_a_peer_is_asked_through_the_proxy_that_orthanc_goes_through(
    start_orthanc: StartOrthanc, node: HttpNode
) -> None:
    there = start_orthanc(aet="THERE", configuration=SECURED)
    node.respond = pass_on_to("")  # a proxy is asked for whole URLs
    configuration = {
        **to(f"{there.url}/", "alice", "opensesame", DeleteAfterForward=True),
        "HttpProxy": f"bob:secret@127.0.0.1:{node.port}",
    }
    source = start_orthanc(SCRIPT, configuration, environment={"NO_PROXY": "", "no_proxy": ""})
    source.store_scu(make_study(instances=2))
    source.wait_until(lambda: source.get("/instances") == [], what="deliver and prove")
    assert len(there.get("/instances")) == 2
    for path in ("/system", "/instances", "/tools/bulk-content"):
        asked = [each for each in node.asked if each.path == there.url + path]
        assert asked, path
        assert {each.headers["proxy-authorization"] for each in asked} == {"Basic Ym9iOnNlY3JldA=="}
    assert "secret" not in source.log


@pytest.mark.parametrize("redirects", [False, True], ids=["an Orthanc", "a redirect"])
def test_a_peer_whose_password_only_orthanc_knows_is_asked_by_orthanc_and_for_redirects_once_without(
    start_orthanc: StartOrthanc, node: HttpNode, redirects: bool
) -> None:
    there = start_orthanc(aet="THERE", configuration=SECURED)
    behind = pass_on_to(there.url)

    def redirect(request: HttpRequest) -> HttpAnswer:
        """As a proxy that wants another address: what is sent there comes as a GET."""
        if not request.path.startswith("/at/"):
            return HttpAnswer(301, headers={"Location": f"/at{request.path}"})
        return behind(HttpRequest(request.method, request.path.removeprefix("/at"), request.headers, request.body))

    node.respond = redirect if redirects else behind
    source = start_orthanc(SCRIPT, {"OrthancPeersInDatabase": True, "AutoForwardPeer": {}})
    source.put("/peers/PEER", [f"{node.url}/", "alice", "opensesame"])
    source.store(make_study())
    if redirects:
        source.wait_for_log("PEER redirects to http://127.0.0.1:")
        assert states(source) == ["waiting"]
        assert there.get("/instances") == []
    else:
        source.wait_until(lambda: states(source) == ["done"], what="deliver")
        assert sum("authorization" not in each.headers for each in node.asked) == 1
    assert "opensesame" not in source.log


# Verify


def verified(there: OrthancServer, **section: Any) -> dict[str, Any]:
    return to(*there.as_peer(), DestinationOptions={"PEER": {"Verify": True}}, **section)


def test_with_verify_what_a_peer_filters_is_sent_again_and_dead_at_last_and_the_rest_is_done(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    lua = tmp_path / "filters.lua"
    lua.write_text(FILTERS)
    there = start_orthanc(aet="THERE", configuration={**SECURED, "LuaScripts": [str(lua)]})
    retry = {"Retry": {"GiveUpHours": 3 / 3600}}
    source = start_orthanc(SCRIPT, verified(there, **retry))
    source.store(make_study(series=2, instances=3))
    study = source.get("/studies")[0]
    source.wait_until(lambda: states(source) == ["done", "dead"], what="give up what is filtered")
    whole, missing = rows(source)
    assert (whole["Level"], whole["Instances"], whole["Error"]) == ("Study", 4, "")
    assert (missing["Level"], missing["Instances"], missing["Study"]) == ("Instance", 2, study)
    assert missing["Error"] == "PEER took 2 instances and does not have 2 of them (Verify)"
    assert missing["Attempts"] > 1
    assert len(there.get("/instances")) == 4
    source.store(make_study(series=3, instances=1))  # a late series: it does not wait for what is dead
    source.wait_until(lambda: len(there.get("/instances")) == 5, what="go on")
    there.configuration["LuaScripts"] = []
    there.restart()
    source.post(f"{ROUTE}/deliveries/{missing['ID']}/retry")
    source.wait_until(lambda: set(states(source)) == {"done"}, what="deliver the rest")
    assert set(there.get("/instances")) == set(source.get("/instances"))


def test_without_verify_a_peer_may_pass_images_on_and_delete_them(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    lua = tmp_path / "filters.lua"
    lua.write_text(FILTERS)
    there = start_orthanc(aet="THERE", configuration={"LuaScripts": [str(lua)]})
    source = start_orthanc(SCRIPT, to(*there.as_peer()))
    source.store(make_study(instances=2))
    source.wait_until(lambda: states(source) == ["done"], what="deliver")


def test_with_verify_all_is_done_in_the_end_although_orthanc_is_killed_and_the_question_fails(
    start_orthanc: StartOrthanc, node: HttpNode
) -> None:
    there = start_orthanc(aet="THERE")
    behind, broken = pass_on_to(there.url), [True]

    def respond(request: HttpRequest) -> HttpAnswer:
        if request.path == "/tools/bulk-content" and broken:
            return HttpAnswer(500)
        return behind(request)

    node.respond = respond
    source = start_orthanc(SCRIPT, to(f"{node.url}/", DestinationOptions={"PEER": {"Verify": True}}))
    for number in range(5):
        source.store(make_study(patient_id=f"P{number}", instances=30))
    source.wait_until(lambda: len(there.get("/instances")) == 150, what="send")
    source.wait_for_log("PEER took it, and can't be asked whether it has it: PEER answers 500")
    assert "done" not in states(source)
    source.kill()
    source.start()
    sent = len(node.requests("POST", "/instances"))
    broken.clear()
    source.wait_until(lambda: states(source) == ["done"] * 5, what="confirm all")
    assert len(node.requests("POST", "/instances")) <= sent + 150  # what was sent is asked for, not sent for ever


def test_verify_of_a_peer_that_only_orthanc_can_ask_is_refused_before_anything_is_sent(
    start_orthanc: StartOrthanc,
) -> None:
    there = start_orthanc(aet="THERE", configuration=SECURED)
    section = {"DestinationOptions": {"PEER": {"Verify": True}}}
    source = start_orthanc(SCRIPT, {"OrthancPeersInDatabase": True, "AutoForwardPeer": section})
    source.put("/peers/PEER", there.as_peer())
    source.store(make_study())
    source.wait_for_log("Orthanc does not tell the password of PEER")
    assert states(source) == ["waiting"]
    assert there.get("/instances") == []


def test_what_a_person_sends_whole_is_verified_too(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    lua = tmp_path / "filters.lua"
    lua.write_text(FILTERS)
    there = start_orthanc(aet="THERE", configuration={"LuaScripts": [str(lua)]})
    source = start_orthanc(SCRIPT, {**verified(there), "StableAge": 3600})
    source.store(make_study(instances=3))
    source.post(f"{ROUTE}/send", {"Resource": source.get("/studies")[0]})
    source.wait_until(lambda: [row["Instances"] for row in rows(source)] == [2, 1], what="find the one that is missing")
    assert states(source)[0] == "done"
    assert rows(source)[1]["Error"].startswith("PEER took 3 instances and does not have 1 of them")


# Other scripts that send to peers


def test_auto_retries_runs_no_job_again_to_what_is_no_orthanc(start_orthanc: StartOrthanc, node: HttpNode) -> None:
    there = start_orthanc(aet="THERE")
    node.respond = answer_json({}, 503)
    configuration = {"OrthancPeers": {"PEER": node.as_peer()}, "AutoRetries": {}}
    source = start_orthanc(script_with(ROOT / "auto_retries.py", QUICK), configuration)
    study = source.store(make_study())[0]["ParentStudy"]
    source.post("/peers/PEER/store", {"Resources": [study], "Synchronous": False})

    def error() -> str:
        return " ".join(row["Error"] for row in source.get("/auto-retries/jobs")["Items"])

    source.wait_until(lambda: "PEER can't be asked who it is: it answers 503" in error(), what="try again")
    node.respond = login_page()
    source.wait_until(lambda: "PEER is no Orthanc" in error(), what="find out")
    assert len(node.requests("POST", "/instances")) == 1
    node.respond = pass_on_to(there.url)
    source.wait_until(lambda: source.get("/auto-retries/jobs")["Items"][0]["State"] == "done", what="deliver")
    assert len(there.get("/instances")) == 1


def test_a_copy_is_sent_to_an_orthanc_only_and_is_not_deleted_for_what_is_none(
    start_orthanc: StartOrthanc, node: HttpNode
) -> None:
    there = start_orthanc(aet="THERE")
    section = {"Secret": "s" * 32, "Recipes": {"out": {"Peer": "PEER", "DeleteCopy": True}}}
    configuration = {"OrthancPeers": {"PEER": node.as_peer()}, "AnonymizeSeries": section}
    source = start_orthanc(script_with(ROOT / "anonymize_series.py", QUICK), configuration)
    study = source.store(make_study(modality="MR"))[0]["ParentStudy"]
    source.wait_until(lambda: source.request("GET", "/anonymize-series/status").ok, what="start")
    source.post(f"/anonymize-series/{study}", {"Recipe": "out"})
    source.wait_for_log("PEER is no Orthanc: it answers GET /system with a page of HTML")
    assert not node.requests("POST", "/instances")
    assert len(source.get("/instances")) == 2  # the copy is here
    node.respond = pass_on_to(there.url)
    source.wait_until(lambda: len(there.get("/instances")) == 1, what="deliver")
    source.wait_until(lambda: len(source.get("/instances")) == 1, what="delete the copy")


# What the DICOMweb plugin 1.7 says of its jobs, for answers that list two of three instances, one as failed, and all.
STOW_JOBS: list[tuple[dict[str, Any], str]] = [
    (
        {
            "State": "Failure",
            "ErrorDescription": "Error encountered within the plugin engine",
            "ErrorDetails": "",
            "Content": {
                "FunctionErrorCode": 9,
                "FunctionErrorDescription": "Error in the network protocol",
                "FunctionErrorDetails": "The STOW-RS server was only able to receive 2 instances out of 3",
                "InstancesCount": "3",
                "NetworkSizeMB": "0",
            },
        },
        "The STOW-RS server was only able to receive 2 instances out of 3",
    ),
    ({"State": "Failure", "Content": {}, "ErrorDescription": "Error encountered"}, "Error encountered"),
    ({"State": "Success", "Content": {"InstancesCount": "2", "NetworkSizeMB": "0"}}, "it sent 2 of 3 copies"),
    ({"State": "Success", "Content": {"InstancesCount": 3, "FailedInstancesCount": 1}}, "it sent 2 of 3 copies"),
    ({"State": "Success", "Content": {"InstancesCount": "3", "NetworkSizeMB": "0"}}, ""),
    ({"State": "Success", "Content": {}}, ""),
]


@pytest.mark.parametrize(("job", "why"), STOW_JOBS)
def test_a_job_that_did_not_deliver_all_copies_is_a_failure_that_says_why(
    orthanc_standin: StandIn, job: dict[str, Any], why: str
) -> None:
    assert orthanc_standin.load(ROOT / "anonymize_series.py").why_not_all(job, ["a", "b", "c"]) == why
