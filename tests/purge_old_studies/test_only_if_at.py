# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py between real servers: by `OnlyIfAt` a study goes only if destinations prove to have all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydicom.dataset import Dataset

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
from testing.nodes import DicomNode, HttpNode, never_answer, pass_on_to
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import DCMTK_ENVIRONMENT, OrthancServer
from tests.audit_log.test_audit_log import KEY, USERS, wait_for_line
from tests.constants import script_with
from tests.purge_old_studies.helpers import SCRIPT, changed, deleted_in_history, ended, job
from tests.scripts import combine_scripts

QUICK = script_with(SCRIPT, {"REPORT_WITHIN_SECONDS": 4.0, "PEER_TIMEOUT_SECONDS": 1.0})
PLUGINS = {"Plugins": [str(python_plugin()), str(dicomweb_plugin())]}
NAME = "/purge-old-studies"
RULE = {"OlderThan": "7y", "Proof": "C-FIND"}
WAY = pytest.mark.parametrize(
    "way",
    [{"only-if-at": ["THERE"]}, {"only-if-at": ["THERE"], "proof": "C-FIND"}]
    + [{"only-if-at": [name]} for name in ("peer:TWIN", "dicomweb:TWIN")],
    ids=["storage commitment", "C-FIND", "peer", "DICOMweb"],
)


class Pair(NamedTuple):
    """The server that purges, and one that is each kind of destination."""

    here: OrthancServer
    there: OrthancServer


@pytest.fixture(scope="module")
def module_pair(start_orthanc_for_module: StartOrthanc) -> Iterator[Pair]:
    there = start_orthanc_for_module(
        None, {**PLUGINS, "DicomAlwaysAllowFind": True}, aet="THERE", start=False, environment=DCMTK_ENVIRONMENT
    )
    rules = [
        {**RULE, "Name": name, "At": "00:00", "Days": ["Monday"], "OnlyIfAt": [at]}
        for name, at in (("typo", "THERRE"), ("two", "TWIN"), ("right", "THERE"))
    ]
    section = {"PurgeOldStudies": {"KeepReceivedDays": 0, "Rules": rules}}
    here = start_orthanc_for_module(
        QUICK, {**PLUGINS, **section}, aet="HERE", start=False, environment=DCMTK_ENVIRONMENT
    )
    there.configuration["DicomModalities"] = {"HERE": here.as_modality()}
    with HttpNode(lambda request: pass_on_to(here.url)(request)) as proxy, HttpNode(never_answer()) as silent:
        here.configuration |= {
            "DicomModalities": {"THERE": there.as_modality(), "SELF": ["ME", "127.0.0.1", here.dicom_port]},
            "OrthancPeers": {"TWIN": there.as_peer(), "LOOP": here.as_peer(), "SILENT": silent.as_peer()},
            "DicomWeb": {
                "Servers": {"TWIN": [f"{there.url}/dicom-web/"], "BACK": [f"{proxy.url}/dicom-web/"]},
            },
        }
        there.start()
        here.start()
        yield Pair(here, there)
        here.kill()
        there.kill()


@pytest.fixture
def pair(module_pair: Pair) -> Pair:
    """Both are empty."""
    for server in module_pair:
        for study in server.get("/studies"):
            server.delete(f"/studies/{study}")
    return module_pair


class Mute(DicomNode):
    """A node that takes each request to commit itself, and never reports."""

    def _report(self, request: Dataset) -> None:
        pass


def study(patient: str = "A", **more: Any) -> list[bytes]:
    return make_study(**{"patient_id": patient, "study_date": "20010101", "instances": 3, **more})


def purge(here: OrthancServer, **more: Any) -> dict[str, Any]:
    """The end of a purge of everything, with why studies stay, by their patient."""
    patients = {one["ID"]: one["PatientMainDicomTags"]["PatientID"] for one in here.get("/studies?expand")}
    asked = {"since": "20200101", "dry-run": False, "async": True, **more}
    found = ended(here, here.post(NAME, asked)["ID"])
    return {**found, "Why": {patients[each["ID"]]: each["Reason"] for each in found["NotDeleted"]}}


def patients(server: OrthancServer) -> list[str]:
    return sorted(one["PatientMainDicomTags"]["PatientID"] for one in server.get("/studies?expand"))


@WAY
def test_what_is_there_wholly_and_of_the_same_patient_goes_and_nothing_else(pair: Pair, way: dict[str, Any]) -> None:
    uids = {"StudyInstanceUID": "1.2.826.0.1.3680043.2.1143.1"}
    all_of_it, half = study("ALL", series=2, instances=60, rows=8, columns=8), study("HALF", instances=4)
    pair.here.store_scu(all_of_it + half + study("MINE", **uids) + study("NOWHERE"))
    pair.there.store_scu(all_of_it + half[:2] + study("OTHER", **uids))
    found = purge(pair.here, **way)
    assert (found["State"], found["Deleted"], found["Kept"], found["Failed"]) == ("partly", 1, 3, 0)
    assert patients(pair.here) == ["HALF", "MINE", "NOWHERE"]
    assert len(pair.here.get("/instances")) == 4 + 3 + 3
    name = way["only-if-at"][0].rpartition(":")[2]
    assert found["Why"]["HALF"] == f"{name} has not proved to have 2 of 4 instances"
    assert found["Why"]["NOWHERE"] == f"{name} has not proved to have 3 of 3 instances"
    of_another = f"{name} has not proved to have 3 of 3 instances"
    assert of_another in found["Why"]["MINE"]
    pair.there.store_scu(half[2:])
    assert purge(pair.here, **way)["Deleted"] == 1  # the next run asks again
    assert patients(pair.here) == ["MINE", "NOWHERE"]


def test_what_one_of_two_destinations_lacks_stays(pair: Pair) -> None:
    with DicomNode("NODE") as node:
        pair.here.put("/modalities/NODE", node.as_modality())
        pair.here.store_scu(study())
        pair.there.store_scu(study())
        both = {"only-if-at": ["THERE", "NODE"], "proof": "C-FIND"}
        assert purge(pair.here, **both)["Why"] == {"A": "NODE has not proved to have 3 of 3 instances"}
        pair.here.post("/modalities/NODE/store", pair.here.get("/studies")[0])
        assert purge(pair.here, **both)["State"] == "done"
    assert pair.here.get("/instances") == []


@pytest.mark.parametrize("proof", ["StorageCommitment", "C-FIND", "StorageCommitmentOnly"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("SELF", "SELF leads back to this server"),
        ("LOOP", "LOOP leads back to this server, or shares its database: 3 of 3 files are the same"),
        ("BACK", "BACK leads back to this server, or shares its database: it names the file that is here"),
    ],
)
def test_a_destination_that_leads_back_here_proves_nothing(pair: Pair, name: str, why: str, proof: str) -> None:
    pair.here.store_scu(study())
    assert why in purge(pair.here, **{"only-if-at": [name], "proof": proof})["Why"]["A"]
    assert len(pair.here.get("/instances")) == 3


def test_what_is_not_known_or_is_the_name_of_two_deletes_nothing_and_is_an_error_at_start(pair: Pair) -> None:
    pair.here.store_scu(study())
    pair.there.store_scu(study())
    typo = "Orthanc knows no destination 'THERRE' (did you mean THERE?), allowed: "
    two = "'TWIN' is the name of several destinations, allowed: peer:TWIN, dicomweb:TWIN"
    pair.here.assert_logged(f"purge_old_studies: PurgeOldStudies.Rules[0].OnlyIfAt: {typo}", "error")
    pair.here.assert_logged(f"purge_old_studies: PurgeOldStudies.Rules[1].OnlyIfAt: {two}", "error")
    for name, rule, why in (("THERRE", "typo", typo), ("TWIN", "two", two)):
        for dry in (True, False):
            answer = pair.here.request("POST", NAME, json={"since": "20200101", "only-if-at": [name], "dry-run": dry})
            assert (answer.status_code, answer.json()["Message"].startswith(f"only-if-at: {why}")) == (400, True)
        asked = pair.here.request("GET", f"{NAME}/rules/{rule}/dry-run")
        assert asked.json()["Message"].startswith(f"OnlyIfAt: {why}")
    dry_run = pair.here.get(f"{NAME}/rules/right/dry-run")
    assert (dry_run["Studies"], dry_run["OnlyIfAt"]) == (1, ["THERE"])
    assert len(pair.here.get("/instances")) == 3


def test_a_destination_that_is_away_keeps_all_until_it_is_back(pair: Pair) -> None:
    pair.here.put("/modalities/LATER", ["THERE", "127.0.0.1", 1])
    for patient in "ABCDE":
        pair.here.store_scu(study(patient, instances=1))
        pair.there.store_scu(study(patient, instances=1))
    for proof in ("C-FIND", "StorageCommitment"):
        found = purge(pair.here, **{"only-if-at": ["LATER"], "proof": proof})
        assert (found["Kept"], found["Deleted"]) == (5, 0)
        assert all("LATER has not proved to have it" in why for why in found["Why"].values())
        assert found["Why"]["E"].endswith("(this purge does not ask it again)")
    pair.here.put("/modalities/LATER", pair.there.as_modality())
    assert purge(pair.here, **{"only-if-at": ["LATER"]})["Deleted"] == 5


def test_one_that_takes_connections_and_says_nothing_does_not_hold_up_a_purge_for_ever(pair: Pair) -> None:
    with AwkwardNode("DEAF", never_answers=True) as node:
        known = dict(zip(("AET", "Host", "Port"), node.as_modality(), strict=True))
        pair.here.put("/modalities/DEAF", {**known, "Timeout": 2})
        for patient in "ABCDE":
            pair.here.store_scu(study(patient, instances=1))
        for where in ({"only-if-at": ["DEAF"], "proof": "C-FIND"}, {"only-if-at": ["SILENT"]}):
            found = purge(pair.here, **where)
            assert (found["Kept"], found["Deleted"]) == (5, 0)
    assert len(pair.here.get("/instances")) == 5


def test_a_node_that_drops_silently_or_reports_nothing_or_knows_no_commitment_keeps_all(
    pair: Pair, storescp: StoreScp
) -> None:
    pair.here.put("/modalities/SCP", storescp.as_modality())
    with (
        AwkwardNode("DROPS", filters=lambda dataset: dataset.InstanceNumber == 2) as drops,
        Mute("MUTE") as mute,
    ):
        pair.here.put("/modalities/DROPS", drops.as_modality())
        pair.here.put("/modalities/MUTE", mute.as_modality())
        pair.here.store_scu(study())
        for name in ("SCP", "DROPS", "MUTE"):
            pair.here.post(f"/modalities/{name}/store", pair.here.get("/studies")[0])
        by_find = purge(pair.here, **{"only-if-at": ["DROPS"], "proof": "C-FIND"})
        assert by_find["Why"] == {"A": "DROPS has not proved to have 1 of 3 instances"}
        for name in ("SCP", "MUTE"):
            assert "has not proved to have it" in purge(pair.here, **{"only-if-at": [name]})["Why"]["A"]
        assert "storage commitment within 4 s" in pair.here.get(f"{NAME}/history", limit=1000)["Items"][-2]["Reason"]
        assert "has not proved" in purge(pair.here, **{"only-if-at": ["SCP"], "proof": "C-FIND"})["Why"]["A"]
    assert len(pair.here.get("/instances")) == 3


def test_a_study_of_more_than_a_thousand_images_goes_too(pair: Pair) -> None:
    files = study(instances=1010, rows=8, columns=8)
    pair.here.store_scu(files)
    pair.there.store_scu(files[:-1])
    for way in ({"only-if-at": ["THERE"], "proof": "C-FIND"}, {"only-if-at": ["peer:TWIN"]}):
        assert purge(pair.here, **way)["Why"]["A"].endswith("has not proved to have 1 of 1010 instances")
    assert len(pair.here.get("/instances")) == 1010
    pair.there.store_scu(files[-1:])
    found = purge(pair.here, **{"only-if-at": ["THERE"], "proof": "C-FIND"})
    assert (found["State"], found["Why"]) == ("done", {})
    assert pair.here.get("/instances") == []
    assert len(pair.there.get("/instances")) == 1010


HOLD_INSTANCES = "\nArchive.delete_instances = _held(Archive.delete_instances)\n"


def test_killed_between_proof_and_deletion_it_asks_anew_and_what_grew_meanwhile_stays(
    start_briefly: StartOrthanc,
) -> None:
    there = start_briefly(None, {"DicomAlwaysAllowFind": True}, aet="THERE")
    known = {"DicomModalities": {"THERE": there.as_modality()}}
    here = start_briefly(changed() + HOLD_INSTANCES, known, aet="HERE")
    studies = {patient: study(patient) for patient in ("STAYS THERE", "GROWS", "GOES THERE")}
    for files in studies.values():
        here.store_scu(files[:2])
        there.store_scu(files[:2])
    gone_there = [one["ID"] for one in there.get("/studies?expand") if "GOES" in str(one["PatientMainDicomTags"])]
    (here.folder / "hold").touch()
    asked = {"since": "20200101", "dry-run": False, "async": True, "only-if-at": ["THERE"], "proof": "C-FIND"}
    number = here.post(NAME, asked)["ID"]
    here.wait_until(lambda: (here.folder / "held").exists(), what="prove all, and be about to delete")
    here.wait_until(lambda: here.store_scu(studies["GROWS"][2:]) or True, what="grow")
    here.kill()
    there.delete(f"/studies/{gone_there[0]}")
    (here.folder / "hold").unlink()
    here.start()
    found = ended(here, number)
    assert (found["Deleted"], found["Kept"]) == (1, 2)
    reasons = {each["Reason"] for each in found["NotDeleted"]}
    assert "THERE has not proved to have 2 of 2 instances" in reasons
    assert patients(here) == ["GOES THERE", "GROWS"]
    assert len(here.get("/instances")) == 2 + 3
    assert len(deleted_in_history(here)) == 1
    assert job(here, number)["Conditions"]["only_if_at"] == ["THERE"]


def test_rules_by_space_free_room_with_what_is_elsewhere_and_pass_over_what_is_not(
    start_briefly: StartOrthanc, tmp_path: Path
) -> None:
    there = start_briefly(None, {"DicomAlwaysAllowFind": True}, aet="THERE")
    rule = {**RULE, "Name": "room", "WhenDiskAbove": "1MB", "DownTo": "0.7MB", "OlderThan": "1d", "AtMost": 3}
    rule |= {"OldestBy": "StudyDate", "OnlyIfAt": ["THERE"]}
    section = {"DiskLookSeconds": 1, "KeepReceivedDays": 0, "Rules": [rule]}
    known = {"DicomModalities": {"THERE": ["THERE", "127.0.0.1", 1]}}
    here = start_briefly(SCRIPT, {**known, "PurgeOldStudies": section}, aet="HERE")
    for number in range(12):  # of 100 KB each; the oldest four are nowhere else
        files = study(
            f"P{number:02}", study_date=f"20010{1 + number // 6}{10 + number}", instances=1, rows=224, columns=224
        )
        here.store_scu(files)
        if number >= 4:
            there.store_scu(files)
    line = "rule room frees nothing: THERE does not answer"
    here.wait_for_log(line)
    before = len(here.get(f"{NAME}/jobs")["Items"])
    assert len(here.get("/studies")) == 12
    here.put("/modalities/THERE", there.as_modality())
    here.wait_until(lambda: here.get("/statistics")["TotalDiskSize"] < "700000" and len(here.get("/studies")) <= 7)
    assert {"P00", "P01", "P02", "P03"} <= set(patients(here))
    assert len(here.get("/studies")) >= 6
    assert here.log.count(line) == 1
    assert before <= 2  # while it was away, no more purges began that keep all


def test_an_audit_log_beside_it_says_who_asked_for_a_study_that_went(
    start_briefly: StartOrthanc, tmp_path: Path
) -> None:
    script = combine_scripts(SCRIPT.parent / "audit_log.py", SCRIPT, to=tmp_path / "all.py")
    configuration = {
        "AuditLog": {"Key": KEY, "WatchRequests": True, "Path": "log"},
        "AuthenticationEnabled": True,
        "RegisteredUsers": USERS,
    }
    with DicomNode("NODE") as node:
        server = start_briefly(script, {**configuration, "DicomModalities": {"NODE": node.as_modality()}})
        server.store_scu(study())
        [resource] = server.get("/studies")
        server.post("/modalities/NODE/store", resource)
        asked = {"since": "20200101", "only-if-at": "NODE", "proof": "C-FIND"}
        answer = server.request("GET", NAME, params=asked, auth=("bob", "builder"))
    assert answer.text == "Purged 1 study dated on or before 20200101\n"
    line = wait_for_line(server, Event="deleted", Level="Study", Resource=resource)
    assert (line["By"]["Script"], line["By"]["AskedBy"]["User"]) == ("purge_old_studies", "bob")
