# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_forward_modality.py on a real Orthanc, to real destinations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.constants import QUICK, script_with

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
SCRIPT = script_with(BUILT, QUICK)


def to(*destinations: OrthancServer | StoreScp, **section: Any) -> dict[str, Any]:
    """The configuration of a forwarder to these."""
    modalities = {destination.aet: destination.as_modality() for destination in destinations}
    return {"DicomModalities": modalities, "AutoForwardModality": section}


def deliveries(server: OrthancServer, **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.get("/auto-forward-modality/deliveries", **filters)["Items"]
    return items


def states(server: OrthancServer) -> list[str]:
    return [item["State"] for item in deliveries(server)]


def instances(server: OrthancServer) -> set[str]:
    return set(server.get("/instances"))


def test_a_stable_study_reaches_every_listed_destination_and_the_ledger_says_so(start_orthanc: StartOrthanc) -> None:
    first, second = start_orthanc(aet="FIRST"), start_orthanc(aet="SECOND")
    source = start_orthanc(SCRIPT, to(first, second, Destinations=["FIRST", "SECOND"]))
    source.store_scu(make_study(instances=3))
    source.wait_until(lambda: states(source) == ["done", "done"], what="deliver to both")
    assert instances(first) == instances(second) == instances(source)
    assert {item["Destination"] for item in deliveries(source)} == {"FIRST", "SECOND"}
    assert [item["Instances"] for item in deliveries(source)] == [3, 3]


def test_without_a_list_every_node_gets_it_also_one_that_is_added_later(start_orthanc: StartOrthanc) -> None:
    first, second = start_orthanc(aet="FIRST"), start_orthanc(aet="SECOND")
    source = start_orthanc(SCRIPT, {**to(first), "DicomModalitiesInDatabase": True})
    # In the database the configuration's entries are not known: both are put there.
    source.put("/modalities/first", first.as_modality())
    source.store(make_study(patient_id="A"))
    source.wait_until(lambda: states(source) == ["done"], what="deliver to the first")
    source.put("/modalities/second", second.as_modality())
    source.store(make_study(patient_id="B"))
    source.wait_until(lambda: states(source) == ["done"] * 3, what="deliver to both")
    assert len(instances(first)) == 2
    assert len(instances(second)) == 1


def test_every_study_arrives_although_the_destination_was_away_and_orthanc_was_killed(
    start_orthanc: StartOrthanc,
) -> None:
    destination = start_orthanc(aet="AWAY")
    destination.stop()
    source = start_orthanc(SCRIPT, to(destination))
    for number in range(5):
        source.store_scu(make_study(patient_id=f"P{number}", instances=2))
    source.wait_until(lambda: any(item["Attempts"] > 0 for item in deliveries(source)), what="try to deliver")
    source.kill()
    source.start()
    destination.start()
    source.wait_until(lambda: len(instances(destination)) == 10 and set(states(source)) == {"done"}, what="deliver all")
    assert instances(destination) == instances(source)
    assert len(instances(source)) == 10


def test_a_study_whose_stability_a_kill_swallowed_is_found_again(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    source = start_orthanc(SCRIPT, {**to(destination), "StableAge": 3})
    source.store(make_study(instances=3))
    source.kill()  # within StableAge: Orthanc will never say that this study is stable
    source.start()
    source.wait_until(lambda: states(source) == ["done"], what="deliver", timeout=30)
    assert instances(destination) == instances(source)


def test_a_late_image_goes_alone(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    source = start_orthanc(SCRIPT, to(destination))
    images = make_study(instances=4)
    source.store(images[:3])
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    source.store(images[3])
    source.wait_until(lambda: states(source) == ["done", "done"], what="deliver the late image")
    assert [item["Instances"] for item in deliveries(source)] == [3, 1]
    assert instances(destination) == instances(source)


def test_an_image_stored_again_unchanged_is_not_sent_again_and_an_overwritten_one_is(
    start_orthanc: StartOrthanc,
) -> None:
    destination = start_orthanc(aet="DEST")
    images = make_study(instances=2)
    source = start_orthanc(SCRIPT, {**to(destination), "OverwriteInstances": False})
    source.store(images)
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    source.store(images)
    source.wait_until_stable()
    source.restart()
    source.configuration["OverwriteInstances"] = True
    source.restart()
    source.store(images[0])
    source.wait_until(lambda: states(source) == ["done", "done"], what="deliver the overwritten one")
    assert [item["Instances"] for item in deliveries(source)] == [2, 1]


def test_what_was_deleted_meanwhile_ends_as_gone_and_the_rest_of_a_study_arrives(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    destination.stop()
    source = start_orthanc(SCRIPT, to(destination))
    source.store(make_study(patient_id="GONE"))
    source.store(make_study(patient_id="PART", instances=2))
    source.wait_until(lambda: len(deliveries(source)) == 2 and deliveries(source)[0]["Attempts"] > 0, what="try one")
    patients = {patient["MainDicomTags"]["PatientID"]: patient["ID"] for patient in source.get("/patients?expand")}
    source.delete(f"/patients/{patients['GONE']}")
    source.delete(f"/instances/{source.get('/instances')[0]}")
    destination.start()
    source.wait_until(lambda: sorted(states(source)) == ["done", "gone"], what="settle both")
    assert instances(destination) == instances(source)
    assert len(instances(source)) == 1


def test_installing_it_on_an_archive_sends_nothing_until_something_arrives(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    source = start_orthanc(None)
    source.store(make_study(patient_id="OLD"))
    source.wait_until_stable()
    source.stop()
    with_script = start_orthanc(SCRIPT, to(destination), start=False)
    source.configuration |= {
        key: with_script.configuration[key] for key in ("Plugins", "PythonScript", "DicomModalities")
    }
    source.start()
    source.wait_until(lambda: source.log.count("the ledger") == 1, what="warn once")
    source.store(make_study(patient_id="NEW"))
    source.wait_until(lambda: states(source) == ["done"], what="deliver the new one")
    assert [study["PatientMainDicomTags"]["PatientID"] for study in destination.get("/studies?expand")] == ["NEW"]


def test_what_arrives_before_a_new_ledger_has_found_its_place_is_forwarded_although_orthanc_is_killed(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    # As happens on a busy machine: the script's thread comes to ask for its place only after the first study.
    slow = tmp_path / "auto_forward_modality.py"
    text = SCRIPT.read_text()
    place = '        """Take the place in the log;'
    assert text.count(place) == 1
    slow.write_text(text.replace(place, f"        time.sleep(4)\n{place}"))
    destination = start_orthanc(aet="DEST")
    source = start_orthanc(slow, to(destination))
    source.store(make_study(patient_id="EARLY"))
    source.wait_until_stable()
    source.kill()
    source.start()
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    assert instances(destination) == instances(source)


@pytest.mark.parametrize("loss", ["deleted", "noise", "cut"])
def test_a_lost_ledger_never_sends_the_archive_again(start_orthanc: StartOrthanc, loss: str) -> None:
    destination = start_orthanc(aet="DEST", configuration={"OverwriteInstances": True})
    source = start_orthanc(SCRIPT, to(destination))
    source.store(make_study(patient_id="OLD", instances=3))
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    source.stop()
    [ledger] = source.folder.rglob("auto_forward_modality.sqlite")
    for file in ledger.parent.glob("auto_forward_modality.sqlite-*"):
        file.unlink()
    if loss == "deleted":
        ledger.unlink()
    elif loss == "noise":
        ledger.write_bytes(bytes(range(256)) * 64)
    else:
        ledger.write_bytes(ledger.read_bytes()[:5000])
    source.start()
    source.wait_until(
        lambda: source.log.count("what arrives from now on is forwarded") == 2,
        what="warn once a start with a new ledger",
    )
    source.store(make_study(patient_id="NEW"))
    source.wait_until(lambda: states(source) == ["done"], what="deliver the new one")
    new_at_destination = [
        change for change in destination.get("/changes", limit=1000)["Changes"] if change["ChangeType"] == "NewInstance"
    ]
    assert len(new_at_destination) == 4
    if loss != "deleted":
        assert len(list(ledger.parent.glob("*.corrupt-*"))) == 1


def test_a_job_that_lives_on_after_a_kill_is_known_and_nothing_goes_out_twice(start_orthanc: StartOrthanc) -> None:
    # Each image again gives a NewInstance: what goes out twice shows.
    destination = start_orthanc(aet="DEST", configuration={"OverwriteInstances": True, "StableAge": 60})
    source = start_orthanc(SCRIPT, to(destination))
    source.store(make_study(instances=900))
    # Orthanc saves its jobs a moment after they were submitted: what it never saved has to be submitted again.
    source.wait_until(lambda: len(instances(destination)) > 300, what="send a part")
    source.kill()
    source.start()
    source.wait_until(lambda: states(source) == ["done"], what="deliver the rest", timeout=60)
    assert instances(destination) == instances(source)
    changes = destination.get("/changes", limit=4000)["Changes"]
    again = sum(change["ChangeType"] == "NewInstance" for change in changes) - 900
    # Orthanc itself begins a job anew from its last saved step; a second job would double everything.
    assert again < 900
    [delivery] = deliveries(source)
    assert delivery["Attempts"] == 1


def test_a_wrong_value_leaves_the_script_idle_and_orthanc_running(start_orthanc: StartOrthanc) -> None:
    source = start_orthanc(SCRIPT, {"AutoForwardModality": {"Retry": {"GiveUpHours": "soon"}}})
    line = 'AutoForwardModality.Retry.GiveUpHours: found "soon", allowed: a number, at least 0'
    assert sum(line in each for each in source.log.splitlines() if each.startswith("E")) == 1
    for path in ("status", "deliveries", "deliveries/1"):
        answer = source.request("GET", f"/auto-forward-modality/{path}")
        assert answer.status_code == 503
        assert line in answer.json()["Message"]


def test_an_unknown_destination_is_an_error_that_lists_the_known_and_the_rest_go_on(
    start_orthanc: StartOrthanc,
) -> None:
    destination = start_orthanc(aet="DEST")
    source = start_orthanc(SCRIPT, to(destination, Destinations=["NOPE", "DEST"]))
    source.store(make_study())
    source.wait_until(lambda: deliveries(source, destination="DEST", state="done"), what="deliver")
    assert [item["State"] for item in deliveries(source, destination="NOPE")] == ["waiting"]
    assert "Destinations names NOPE, which Orthanc does not know; known are: DEST" in source.log


@pytest.mark.parametrize("limit", [0, 1])  # LimitFindResults cuts what Orthanc answers to a search
def test_backfill_sends_what_the_archive_held_by_day_and_counts_first(start_orthanc: StartOrthanc, limit: int) -> None:
    destination = start_orthanc(aet="DEST")
    source = start_orthanc(SCRIPT, {**to(destination, Destinations=[]), "LimitFindResults": limit})
    for number, date in enumerate(
        ["20231231", "20240101", "20240102", "20240103", "20240215", "20240301", "", "20240299"]
    ):
        source.store(make_study(patient_id=f"P{number}", study_date=date))
    source.wait_until_stable()
    source.put("/modalities/LATER", destination.as_modality())
    wanted = {"From": "20240101", "To": "20240229", "DryRun": True}
    assert source.post("/auto-forward-modality/backfill", wanted)["Studies"] == 4
    assert deliveries(source) == []
    answer = source.request(
        "POST", "/auto-forward-modality/backfill", json={**wanted, "DryRun": False, "Destination": "LATER"}
    )
    assert (answer.status_code, answer.json()["Deliveries"]) == (202, 4)
    source.wait_until(lambda: states(source) == ["done"] * 4, what="deliver all")
    dates = sorted(study["MainDicomTags"]["StudyDate"] for study in destination.get("/studies?expand"))
    assert dates == ["20240101", "20240102", "20240103", "20240215"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("{", "JSON"),
        ("[" * 5000, "nested"),
        ('{"From":' * 2000, "nested"), ("[]", "object"), ("{}", "From and To"), ('{"From": "20240101"}', "From and To"),
        ('{"From": "20240230", "To": "20240301"}', "From is"), ('{"From": "20240102", "To": "20240101"}', "From and To"),
        ('{"From": "20240101", "To": "20240101", "Destination": "NOPE"}', "Destination"),
        ('{"From": "20240101", "To": "20240101", "DryRun": "yes"}', "DryRun"),
        ('{"From": "20240101", "To": "20240101", "Destinations": []}', "Destinations"),
    ],
)  # fmt: skip
def test_a_wrong_backfill_is_a_400_that_names_the_parameter(
    idle_forwarder: OrthancServer, body: str, named: str
) -> None:
    answer = idle_forwarder.request("POST", "/auto-forward-modality/backfill", data=body)
    assert answer.status_code == 400
    assert named in answer.json()["Message"]


@pytest.fixture(scope="module")
def idle_forwarder(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(SCRIPT)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("state=asleep", "state"),
        ("limit=0x10", "limit"),
        ("limit=1001", "limit"),
        ("since=-1", "since"),
        ("sate=done", "sate"),
    ],
)
def test_a_wrong_parameter_of_the_list_is_a_400_that_names_it(
    idle_forwarder: OrthancServer, query: str, named: str
) -> None:
    answer = idle_forwarder.request("GET", f"/auto-forward-modality/deliveries?{query}")
    assert answer.status_code == 400
    assert named in answer.json()["Message"]


def test_unknown_deliveries_are_404_and_wrong_methods_405(idle_forwarder: OrthancServer) -> None:
    assert idle_forwarder.request("GET", "/auto-forward-modality/deliveries/99999999999999999999").status_code == 404
    assert idle_forwarder.request("POST", "/auto-forward-modality/deliveries/7/retry").status_code == 404
    answer = idle_forwarder.request("PUT", "/auto-forward-modality/deliveries", data="{}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_another_sites_page_can_send_nothing(idle_forwarder: OrthancServer) -> None:
    body = {"From": "20240101", "To": "20240101"}
    url = "/auto-forward-modality/backfill"
    assert idle_forwarder.request("POST", url, json=body, headers={"Origin": "https://evil.example"}).status_code == 403
    assert idle_forwarder.request("POST", url, json=body, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    form = {"User-Agent": "Mozilla/5.0", "Content-Type": "text/plain", "Origin": idle_forwarder.url}
    assert idle_forwarder.request("POST", url, json=body, headers=form).status_code == 415
    assert idle_forwarder.request("POST", url, json=body, headers={"Origin": idle_forwarder.url}).status_code == 202


def test_the_list_is_paged_and_filtered_and_a_delivery_can_be_retried_and_dropped(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    destination.stop()
    source = start_orthanc(SCRIPT, to(destination, Retry={"GiveUpHours": 0}))
    for number in range(3):
        source.store(make_study(patient_id=f"P{number}"))
    source.wait_until(lambda: states(source) == ["dead"] * 3, what="give up")
    page = source.get("/auto-forward-modality/deliveries", limit=2, state="dead")
    assert (page["Total"], len(page["Items"]), page["Totals"]["dead"]) == (3, 2, 3)
    rest = source.get("/auto-forward-modality/deliveries", limit=2, since=page["Next"])
    assert (len(rest["Items"]), rest["Next"]) == (1, None)
    study = rest["Items"][0]["Study"]
    assert [item["ID"] for item in deliveries(source, study=study)] == [rest["Items"][0]["ID"]]
    assert "refused" in page["Items"][0]["Error"].lower() or "Operation now in progress" in page["Items"][0]["Error"]
    destination.start()
    first, second = (item["ID"] for item in page["Items"])
    source.post(f"/auto-forward-modality/deliveries/{first}/retry")
    source.delete(f"/auto-forward-modality/deliveries/{second}")
    source.wait_until(lambda: states(source) == ["done", "dead"], what="deliver the retried one")
    assert len(instances(destination)) == 1
    assert source.request("POST", f"/auto-forward-modality/deliveries/{first}/retry").status_code == 409


def test_with_reconcile_off_it_forwards_what_this_orthanc_receives(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    source = start_orthanc(SCRIPT, to(destination, Reconcile=False))
    source.store(make_study(instances=2))
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    assert instances(destination) == instances(source)


def test_without_the_http_server_it_stays_idle_and_says_so(start_orthanc: StartOrthanc) -> None:
    source = start_orthanc(SCRIPT, {"HttpServerEnabled": False})
    source.wait_for_log("auto-forward-modality stays idle: it needs Orthanc's HTTP server")


def test_it_works_with_authentication(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST")
    secured = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "opensesame"}}
    source = start_orthanc(SCRIPT, {**to(destination), **secured})
    source.store(make_study())
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    assert "opensesame" not in source.log


@pytest.mark.parametrize("script", ["auto_forward_modality.py", "cmove_interceptor.py"])
@pytest.mark.parametrize(("before", "expected"), [(None, "1"), ("1", "1"), ("0", "0")])
def test_full_speed_is_switched_on_when_the_script_loads_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, script: str, before: str | None, expected: str
) -> None:
    monkeypatch.setenv("TCP_NODELAY", before or "")
    if before is None:
        monkeypatch.delenv("TCP_NODELAY")
    standin = StandIn()
    with standin.installed():
        standin.load(BUILT.with_name(script))
    assert os.environ.get("TCP_NODELAY") == expected
