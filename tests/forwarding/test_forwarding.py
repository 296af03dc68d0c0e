# SPDX-License-Identifier: AGPL-3.0-or-later
"""src/forwarding/, the engine of both forwarders, on real Orthancs: rules, triggers, and destinations that misbehave."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from benchmarks.forward_kills import COUNTER, COUNTS, kill_in_turn
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
SCRIPT = script_with(BUILT, QUICK)
ROUTE = "/auto-forward-modality"


def deliveries(server: OrthancServer, **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.get(f"{ROUTE}/deliveries", **filters)["Items"]
    return items


def settled(server: OrthancServer, number: int) -> bool:
    """Whether there are so many deliveries, all of them ended."""
    states = [item["State"] for item in deliveries(server)]
    return len(states) == number and not {"waiting", "sending"} & set(states)


def where(server: OrthancServer) -> dict[tuple[str, str], int]:
    """Number of instances delivered, by level and destination."""
    found: dict[tuple[str, str], int] = {}
    for item in deliveries(server, state="done"):
        key = item["Level"], item["Destination"]
        found[key] = found.get(key, 0) + (item["Instances"] or 0)
    return found


def instances(server: OrthancServer) -> set[str]:
    return set(server.get("/instances"))


class Node:
    """A DICOM node of a test's own: `refuse` says which instances it does not take, `delay` how long each takes."""

    def __init__(self, aet: str, refuse: Any = lambda dataset: False, delay: float = 0) -> None:
        self.aet, self.refuse, self.delay, self.taken = aet, refuse, delay, list[str]()
        entity = AE(ae_title=aet)
        for sop_class in (CTImageStorage, Verification):
            entity.add_supported_context(sop_class)
        self._server: Any = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        assert self._server

    def _store(self, event: Any) -> int:
        time.sleep(self.delay)
        if self.refuse(event.dataset):
            return 0xA700  # refused: out of resources (DICOM PS3.4 B.2.3)
        self.taken.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def as_modality(self) -> list[Any]:
        return [self.aet, "127.0.0.1", self._server.socket.getsockname()[1]]

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def hanging() -> Iterator[list[Any]]:
    """A node that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield ["HANGS", "127.0.0.1", listening.getsockname()[1]]


# Rules


def test_rules_send_by_query_origin_level_and_matcher(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    matcher = tmp_path / "matcher.py"
    matcher.write_text(
        'def choose(resource):\n    return "C" if resource["Tags"]["PatientID"] == "MATCHED" else None\n'
    )
    rules: list[dict[str, Any]] = [
        {
            "Name": "ct and mr",
            "Destinations": ["A"],
            "Query": {
                "ModalitiesInStudy": "CT\\MR",
                "StudyDate": "20240101-20241231",
                "StudyInstanceUID": "1.2.3\\2.*",
            },
        },
        {"Name": "series", "Level": "Series", "Destinations": ["B"], "Query": {"Modality": "US"}},
        {"Name": "from the ward", "Destinations": ["B"], "Origin": {"RemoteAET": ["WARD*"]}},
        {"Name": "chosen", "Matcher": f"{matcher}:choose"},
    ]
    nodes = {name: start_orthanc(aet=name) for name in "ABC"}
    source = start_orthanc(
        SCRIPT,
        {
            "DicomModalities": {name: node.as_modality() for name, node in nodes.items()},
            "AutoForwardModality": {"RuleMode": "all", "Rules": rules},
        },
    )
    source.store(make_study(patient_id="CT2024", modality="CT", instances=2))
    source.store(make_study(patient_id="CT2020", modality="CT", study_date="20200101"))
    source.store(make_study(patient_id="US", modality="US", instances=3))
    source.store_scu(make_study(patient_id="WARD", modality="OT", instances=4), aet="WARD7")
    source.store(make_study(patient_id="MATCHED", modality="OT", instances=5))
    source.wait_until(lambda: settled(source, 4), what="deliver by four rules")
    assert where(source) == {("Study", "A"): 2, ("Series", "B"): 3, ("Study", "B"): 4, ("Study", "C"): 5}
    study = next(item["Study"] for item in deliveries(source, destination="A"))
    report = source.post(f"{ROUTE}/rules/test", {"Resource": study})
    assert [rule["Why"] for rule in report["Rules"]] == [
        "matches",
        "is for a Series, this is a Study",
        "no instance has this Origin",
        "Matcher chose no destination",
    ]
    assert report["Rules"][0]["Destinations"] == {"A": 2}
    assert [rule["Name"] for rule in source.get(f"{ROUTE}/rules")["Rules"]] == [rule["Name"] for rule in rules]


def test_the_first_rule_that_matches_decides_and_a_rule_with_an_unknown_destination_still_takes_its_studies(
    start_orthanc: StartOrthanc,
) -> None:
    node = start_orthanc(aet="NODE")
    rules: list[dict[str, Any]] = [
        {"Name": "secret", "Destinations": ["NOPE"], "Query": {"PatientID": "SECRET*"}},
        {"Name": "rest", "Destinations": ["NODE"]},
    ]
    source = start_orthanc(
        SCRIPT, {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {"Rules": rules}}
    )
    source.store(make_study(patient_id="SECRET1"))
    source.store(make_study(patient_id="OTHER"))
    source.wait_until(lambda: where(source) == {("Study", "NODE"): 1}, what="deliver the other")
    source.wait_until_stable()
    assert [item["State"] for item in deliveries(source, destination="NOPE")] == ["waiting"]
    patients = [patient["MainDicomTags"]["PatientID"] for patient in node.get("/patients?expand")]
    assert patients == ["OTHER"]
    assert "NOPE, which Orthanc does not know" in source.log


def test_a_query_that_orthanc_refuses_leaves_the_script_idle_with_the_rule_named(start_orthanc: StartOrthanc) -> None:
    source = start_orthanc(BUILT, {"AutoForwardModality": {"Rules": [{"Name": "typo", "Query": {"PatientNam": "A"}}]}})
    line = (
        "AutoForwardModality.Rules[0].Query.PatientNam (rule 'typo') is refused by Orthanc (did you mean PatientName?)"
    )
    source.wait_for_log(line)
    assert source.request("GET", f"{ROUTE}/status").status_code == 503


def test_a_matcher_that_fails_loses_nothing(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    node = start_orthanc(aet="NODE")
    broken = tmp_path / "broken"
    matcher = tmp_path / "matcher.py"
    matcher.write_text(
        f"import os\n\ndef choose(resource):\n    assert not os.path.exists({str(broken)!r})\n    return ['NODE']\n"
    )
    broken.touch()
    rules = [{"Name": "mine", "Matcher": f"{matcher}:choose"}]
    source = start_orthanc(
        SCRIPT, {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {"Rules": rules}}
    )
    source.store(make_study())
    source.wait_until(lambda: any(item["Error"] for item in deliveries(source)), what="fail")
    [item] = deliveries(source)
    assert item["Destination"] is None
    assert "AssertionError" in item["Error"]
    broken.unlink()
    source.wait_until(lambda: settled(source, 1), what="deliver")
    assert instances(node) == instances(source)


# Loops


def test_what_came_from_a_node_is_not_sent_back_to_it(start_orthanc: StartOrthanc) -> None:
    left = start_orthanc(SCRIPT, {"AutoForwardModality": {}, "OverwriteInstances": True}, aet="LEFT", start=False)
    right = start_orthanc(
        SCRIPT,
        {"DicomModalities": {"LEFT": left.as_modality()}, "AutoForwardModality": {}, "OverwriteInstances": True},
        aet="RIGHT",
    )
    left.configuration["DicomModalities"] = {"RIGHT": right.as_modality()}
    left.start()
    left.store(make_study(instances=3))
    left.wait_until(lambda: settled(left, 1), what="go there")
    right.wait_until_stable()
    right.wait_until(lambda: right.get(f"{ROUTE}/status")["State"] == "running", what="run")
    time.sleep(1.5)  # the right one has heard of the stable study by now: nothing must follow
    assert deliveries(right) == []
    assert len(deliveries(left)) == 1


def test_copies_that_orthanc_made_are_left_out_when_asked(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="NODE")
    source = start_orthanc(
        SCRIPT,
        {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {"SkipModified": True}},
    )
    source.store(make_study(patient_id="ORIGINAL"))
    source.wait_until(lambda: settled(source, 1), what="deliver the original")
    source.post(f"/studies/{source.get('/studies')[0]}/anonymize", {})
    source.wait_until_stable()
    source.store(make_study(patient_id="LATER"))
    source.wait_until(lambda: settled(source, 2), what="deliver the later one")
    assert len(instances(node)) == 2
    assert len(instances(source)) == 3


# Trigger Stored


def test_with_trigger_stored_a_study_is_whole_at_the_destination_long_before_it_is_stable(
    start_orthanc: StartOrthanc,
) -> None:
    node = start_orthanc(aet="NODE")
    source = start_orthanc(
        SCRIPT,
        {
            "DicomModalities": {"NODE": node.as_modality()},
            "AutoForwardModality": {"Trigger": "Stored"},
            "StableAge": 600,
        },
    )
    images = make_study(instances=20)
    for image in images:
        source.store(image)
    source.wait_until(lambda: instances(node) == instances(source), what="be whole", timeout=20)
    assert sum(item["Instances"] for item in deliveries(source)) == 20


def test_with_trigger_stored_nothing_goes_twice_when_the_study_becomes_stable(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="NODE", configuration={"OverwriteInstances": True})
    source = start_orthanc(
        SCRIPT,
        {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {"Trigger": "Stored"}},
    )
    source.store(make_study(instances=10))
    source.wait_until_stable()
    source.wait_until(lambda: instances(node) == instances(source), what="be whole")
    source.store(make_study(patient_id="LATER"))  # when this is through, so is what came before
    source.wait_until_stable()
    source.wait_until(lambda: instances(node) == instances(source), what="be whole again")
    stored = sum(change["ChangeType"] == "NewInstance" for change in node.get("/changes", limit=1000)["Changes"])
    assert stored == 11
    assert sum(item["Instances"] for item in deliveries(source)) == 11


# Destinations that misbehave


def test_refused_instances_stand_alone_and_do_not_hold_up_the_rest(start_orthanc: StartOrthanc) -> None:
    node = Node("PICKY", refuse=lambda dataset: int(dataset.InstanceNumber) % 2 == 0)
    try:
        source = start_orthanc(
            script_with(BUILT, {"FIRST_DELAY_SECONDS": 1.0}),
            {
                "DicomModalities": {"PICKY": node.as_modality()},
                "AutoForwardModality": {"Retry": {"GiveUpHours": 1}},
            },
        )
        source.store(make_study(instances=10))
        source.wait_until(lambda: len(set(node.taken)) == 5, what="take its half", timeout=60)
        source.wait_until(
            lambda: (
                sorted(item["State"] for item in deliveries(source) if item["Level"] == "Instance") == ["waiting"] * 5
            ),
            what="leave the refused ones alone",
            timeout=60,
        )
        [study] = source.get("/studies")
        assert all(item["Study"] == study for item in deliveries(source, study=study))
        assert all(item["Error"] for item in deliveries(source, state="waiting"))
    finally:
        node.close()


@pytest.mark.parametrize(("jobs", "number"), [(2, 1), (4, 2)])
def test_a_destination_that_hangs_holds_up_the_others_for_one_timeout_at_most(
    start_orthanc: StartOrthanc, hanging: list[Any], jobs: int, number: int
) -> None:
    node = start_orthanc(aet="NODE")
    hangs = {f"HANGS{count}": [f"HANGS{count}", *hanging[1:]] for count in range(number)}
    source = start_orthanc(
        BUILT,
        {
            "ConcurrentJobs": jobs,
            "DicomScuTimeout": 5,
            "DicomModalities": {**hangs, "NODE": node.as_modality()},
        },
    )
    for patient in range(4):
        source.store(make_study(patient_id=f"P{patient}"))
    source.wait_until_stable()
    begin = time.monotonic()
    source.wait_until(lambda: len(instances(node)) == 4, what="deliver to the one that answers", timeout=20)
    assert time.monotonic() - begin < 5 + 3
    source.kill()  # its jobs hang


def test_who_asks_while_the_destinations_are_read_is_not_told_that_there_are_none(start_orthanc: StartOrthanc) -> None:
    slow = """
import time
import orthanc

def modalities(output, uri, **request):
    time.sleep(2)
    output.AnswerBuffer(orthanc.RestApiGet("/modalities?expand"), "application/json")

orthanc.RegisterRestCallback("/modalities", modalities)
"""
    source = start_orthanc(BUILT.read_text() + slow, {"DicomModalities": {"NODE": ["NODE", "127.0.0.1", 1]}})
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(source.get, f"{ROUTE}/destinations") for _ in range(3)]
        assert [list(each.result()) for each in asked] == [["NODE"]] * 3


def test_a_destination_gets_work_again_as_soon_as_it_answers(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="NODE")
    node.stop()
    source = start_orthanc(
        script_with(BUILT, {"FIRST_DELAY_SECONDS": 3000.0}),
        {"DicomModalities": {"NODE": node.as_modality()}},
    )
    source.store(make_study())
    source.wait_until(lambda: source.get(f"{ROUTE}/destinations")["NODE"]["Away"], what="see that it is away")
    node.start()
    source.wait_until(lambda: settled(source, 1), what="deliver although the next attempt was an hour away", timeout=15)
    assert instances(node) == instances(source)


def test_a_paused_destination_gets_nothing_until_it_is_resumed_also_over_a_restart(start_orthanc: StartOrthanc) -> None:
    node, other = start_orthanc(aet="NODE"), start_orthanc(aet="OTHER")
    source = start_orthanc(
        SCRIPT,
        {
            "DicomModalities": {"NODE": node.as_modality(), "OTHER": other.as_modality()},
            "AutoForwardModality": {},
        },
    )
    source.post(f"{ROUTE}/destinations/NODE/pause")
    source.store(make_study())
    source.wait_until(lambda: len(instances(other)) == 1, what="serve the other")
    source.restart()
    assert source.get(f"{ROUTE}/destinations")["NODE"]["Paused"] is True
    assert instances(node) == set()
    source.post(f"{ROUTE}/destinations/NODE/resume")
    source.wait_until(lambda: len(instances(node)) == 1, what="deliver")


def test_a_resource_is_sent_now_rules_or_not(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="NODE")
    source = start_orthanc(
        SCRIPT,
        {
            "DicomModalities": {"NODE": node.as_modality()},
            "AutoForwardModality": {"Rules": [{"Name": "none", "Query": {"PatientID": "NOBODY"}}]},
        },
    )
    source.store(make_study(instances=2, series=2))
    series = source.get("/series")[0]
    answer = source.request(
        "POST", f"{ROUTE}/send", json={"Resource": series, "Level": "Series", "Destinations": ["NODE"]}
    )
    assert answer.status_code == 202
    source.wait_until(lambda: settled(source, 1), what="deliver the series")
    assert len(instances(node)) == 2
    for body, status in (
        ({"Resource": "00000000-00000000-00000000-00000000-00000000"}, 404),
        ({"Resource": "../../system"}, 400),
        ({"Resource": series, "Level": "Instance"}, 400),
        ({"Resource": series, "Level": "Series", "Destinations": ["NOPE"]}, 400),
        ({"Resource": series, "Level": "Series", "Destinations": "NODE"}, 400),
    ):
        assert source.request("POST", f"{ROUTE}/send", json=body).status_code == status


def test_options_of_a_destination_that_orthanc_does_not_know_are_one_warning_for_it_may_be_added_later(
    start_orthanc: StartOrthanc,
) -> None:
    node = start_orthanc(aet="NODE")
    section = {"DestinationOptions": {"NODE": {"MaxJobs": 1}, "NOED": {"MaxJobs": 1}}}
    source = start_orthanc(SCRIPT, {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": section})
    line = "auto-forward-modality: DestinationOptions names NOED, which Orthanc does not know (yet); known are: NODE"
    source.wait_for_log(line)
    source.store(make_study())
    source.wait_until(lambda: settled(source, 1), what="deliver to the other")
    assert source.log.count(line) == 1
    source.assert_logged(line, level="warning")


def test_permissive_is_refused_by_name(start_orthanc: StartOrthanc) -> None:
    options = {"PACS": {"Options": {"Permissive": True}}}
    source = start_orthanc(SCRIPT, {"AutoForwardModality": {"DestinationOptions": options}})
    assert "AutoForwardModality.DestinationOptions.PACS.Options: found Permissive, which is not allowed" in source.log
    assert source.request("GET", f"{ROUTE}/status").status_code == 503


def test_metrics_tell_what_waits_and_how_much_goes_out(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="NODE")
    source = start_orthanc(SCRIPT, {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {}})
    seen: set[str] = set()

    def measured() -> bool:
        text = source.request("GET", "/tools/metrics-prometheus").text
        seen.update(line.split()[0] for line in text.splitlines() if float(line.split()[1]) > 0)
        return {"auto_forward_modality_done", "auto_forward_modality_instances_per_second"} <= seen

    source.store(make_study(instances=3))
    source.wait_until(measured, what="tell")


# Killed


def test_every_instance_arrives_although_sender_and_destination_are_killed_again_and_again(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    (tmp_path / "counter.py").write_text(COUNTER)
    node = start_orthanc(tmp_path / "counter.py", COUNTS, aet="NODE")
    section = {"DicomModalities": {"NODE": node.as_modality()}}
    found = kill_in_turn(start_orthanc(SCRIPT, section), [node], rounds=6, studies=3, seed=7)
    assert found.stored == 6 * 3 * 5
    assert found.missing == 0
    assert found.states.keys() <= {"done", "gone"}
    assert found.again < found.stored


def test_a_node_that_answers_echo_and_takes_nothing_is_not_sent_to_without_end(start_orthanc: StartOrthanc) -> None:
    refusing = start_orthanc(None, {"DicomAlwaysAllowStore": False}, aet="REFUSING")
    nodes = {"DicomModalities": {"REFUSING": refusing.as_modality()}, "StableAge": 1}
    server = start_orthanc(BUILT, nodes)
    server.store(make_study(instances=3))

    def rows() -> list[dict[str, Any]]:
        return list(server.get("/auto-forward-modality/deliveries")["Items"])

    server.wait_until(lambda: any(row["Attempts"] > 1 for row in rows()), what="try it twice")
    time.sleep(10)
    assert {row["State"] for row in rows()} == {"waiting"}
    assert sum(row["Attempts"] for row in rows()) < 30  # it was 17 a second
