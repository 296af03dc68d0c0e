# SPDX-License-Identifier: AGPL-3.0-or-later
"""DeleteAfterForward of both forwarders, between real Orthancs: nothing is deleted here that is not proved to be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parent.parent
NODES, PEERS = (script_with(ROOT / f"auto_forward_{kind}.py", QUICK) for kind in ("modality", "peer"))
DELETES: dict[str, Any] = {"DeleteAfterForward": True}
C_FIND = {"DestinationOptions": {"THERE": {"Proof": "C-FIND"}}}
# What its sender was told is stored, and is not: the second image of each series.
FORGETS = "function ReceivedInstanceFilter(dicom, origin, info)\n  return dicom.InstanceNumber ~= '2'\nend\n"


def rows(server: OrthancServer, task: str = "delete") -> list[dict[str, Any]]:
    name = "auto-forward-peer" if "OrthancPeers" in server.configuration else "auto-forward-modality"
    return [row for row in server.get(f"/{name}/deliveries")["Items"] if row["Task"] == task]


def states(server: OrthancServer, task: str = "delete") -> list[str]:
    return [row["State"] for row in rows(server, task)]


def to_node(start_orthanc: StartOrthanc, **section: Any) -> tuple[OrthancServer, OrthancServer]:
    """One that forwards, and a node that knows it, as Storage Commitment needs."""
    there = start_orthanc(aet="THERE", start=False)
    here = start_orthanc(NODES, aet="HERE", start=False)
    there.configuration["DicomModalities"] = {"HERE": here.as_modality()}
    here.configuration |= {
        "DicomModalities": {"THERE": there.as_modality()},
        "AutoForwardModality": {**DELETES, **section},
    }
    return here, there


def to_peer(start_orthanc: StartOrthanc, **section: Any) -> tuple[OrthancServer, OrthancServer]:
    secured = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "opensesame"}}
    there = start_orthanc(aet="THERE", configuration=secured, start=False)
    peers = {"OrthancPeers": {"THERE": there.as_peer()}, "AutoForwardPeer": {**DELETES, **section}}
    return start_orthanc(PEERS, peers, aet="HERE", start=False), there


@pytest.fixture(params=["storage commitment", "C-FIND", "peer"])
def pair(start_orthanc: StartOrthanc, request: pytest.FixtureRequest) -> tuple[OrthancServer, OrthancServer]:
    if request.param == "peer":
        return to_peer(start_orthanc)
    return to_node(start_orthanc, **(C_FIND if request.param == "C-FIND" else {}))


def test_what_the_destination_proved_to_have_is_deleted_here(pair: tuple[OrthancServer, OrthancServer]) -> None:
    here, there = pair
    there.start()
    here.start()
    here.store_scu(make_study(series=2, instances=3))
    sent = set(here.get("/instances"))
    here.wait_until(lambda: states(here) == ["done"], what="delete")
    assert here.get("/instances") == here.get("/patients") == []
    assert set(there.get("/instances")) == sent
    assert len(sent) == 6
    here.wait_for_log("6 instances, which THERE proved to have")


def test_what_is_missing_there_stays_here_whatever_the_job_said(
    pair: tuple[OrthancServer, OrthancServer], tmp_path: Path
) -> None:
    here, there = pair
    lua = tmp_path / "forgets.lua"
    lua.write_text(FORGETS)
    there.configuration["LuaScripts"] = [str(lua)]
    there.start()
    here.start()
    here.store_scu(make_study(instances=3))
    here.wait_for_log("THERE has not proved to have 1 of 3 instances. It will be asked again")
    assert states(here, "send") == ["done"]
    here.wait_until(lambda: rows(here)[0]["Attempts"] > 1, what="ask again")
    assert len(here.get("/instances")) == 3
    there.configuration["LuaScripts"] = []
    there.restart()
    study = here.get("/studies")[0]
    name = "auto-forward-peer" if "OrthancPeers" in here.configuration else "auto-forward-modality"
    here.post(f"/{name}/send", {"Resource": study})  # a person mends it
    here.wait_until(lambda: here.get("/instances") == [], what="delete")
    assert len(there.get("/instances")) == 3


def test_a_node_that_knows_no_storage_commitment_loses_us_nothing(
    start_orthanc: StartOrthanc, storescp: StoreScp
) -> None:
    here = start_orthanc(NODES, {"DicomModalities": {"NODE": storescp.as_modality()}, "AutoForwardModality": DELETES})
    here.store(make_study(instances=2))
    here.wait_until(lambda: rows(here) and rows(here)[0]["Attempts"] > 1, what="ask twice")
    assert len(storescp.files()) == len(here.get("/instances")) == 2
    assert states(here) == ["waiting"]


def test_nothing_goes_while_one_destination_lacks_it_or_another_level_still_waits(start_orthanc: StartOrthanc) -> None:
    here, there = to_node(start_orthanc)
    away = start_orthanc(aet="AWAY", start=False)
    away.configuration["DicomModalities"] = {"HERE": here.as_modality()}
    here.configuration["DicomModalities"]["AWAY"] = away.as_modality()
    here.configuration["AutoForwardModality"] |= {
        "RuleMode": "all",
        "Rules": [
            {"Name": "series", "Level": "Series", "Destinations": ["THERE"]},
            {"Name": "studies", "Level": "Study", "Destinations": ["AWAY"]},
        ],
    }
    there.start()
    here.start()
    here.store(make_study(instances=2))
    here.wait_until(lambda: "done" in states(here, "send") and rows(here, "send")[-1]["Attempts"] > 0, what="send one")
    here.wait_until(lambda: all(row["Error"] for row in rows(here, "send") if row["State"] == "waiting"), what="fail")
    assert len(here.get("/instances")) == 2
    assert "done" not in states(here)
    away.start()
    here.wait_until(lambda: here.get("/instances") == [], timeout=90, what="delete")
    assert len(there.get("/instances")) == len(away.get("/instances")) == 2


def test_an_image_that_comes_late_is_forwarded_before_it_goes(start_orthanc: StartOrthanc) -> None:
    here, there = to_node(start_orthanc, Trigger="Stored")
    # It takes each image, and reports what it has only when it knows us: until then the proof does not come.
    knows_us = there.configuration.pop("DicomModalities")
    there.start()
    here.start()
    files = make_study(instances=4)
    here.store(files[:3])
    here.wait_until(lambda: len(there.get("/instances")) == 3, what="send the first")
    here.wait_until_stable()
    assert states(here) == ["waiting"]
    here.store(files[3:])
    here.wait_until(lambda: len(there.get("/instances")) == 4, what="send the last")
    assert len(here.get("/instances")) == 4
    there.configuration["DicomModalities"] = knows_us
    there.restart()
    here.wait_until(lambda: here.get("/instances") == [], timeout=60, what="delete")
    assert len(there.get("/instances")) == 4


def test_a_protected_patient_and_what_only_a_person_sent_stay(start_orthanc: StartOrthanc) -> None:
    here, there = to_node(start_orthanc)
    here.configuration["StableAge"] = 3
    there.start()
    here.start()
    here.store(make_study(patient_id="KEPT"))
    patient = here.get("/patients")[0]
    here.put(f"/patients/{patient}/protected", b"1")
    here.wait_for_log("its patient is protected")
    here.post("/auto-forward-modality/send", {"Resource": here.get("/studies")[0]})
    here.wait_until(lambda: states(here, "send") == ["done", "done"], what="send")
    assert here.get("/patients") == [patient]


def test_killed_while_it_deletes_it_goes_on_and_deletes_no_more_than_was_proved(start_orthanc: StartOrthanc) -> None:
    here, there = to_peer(start_orthanc)
    there.start()
    here.start()
    for number in range(5):
        here.store_scu(make_study(patient_id=f"P{number}", instances=40))
    here.wait_until(lambda: len(here.get("/instances")) < 200, what="delete some")
    here.kill()
    here.start()
    here.wait_until(lambda: here.get("/instances") == [], timeout=60, what="delete all")
    here.wait_until(lambda: set(states(here)) <= {"done", "gone"}, what="end all rows")
    assert len(there.get("/instances")) == 200


def test_what_a_peer_gave_us_is_not_deleted_here_for_it_may_count_on_us(start_orthanc: StartOrthanc) -> None:
    here, there = to_peer(start_orthanc)
    there.start()
    here.start()
    here.store(make_study(instances=2))  # over HTTP, from the machine on which the peer runs
    here.wait_for_log("it came in over HTTP from the address of THERE")
    assert len(here.get("/instances")) == 2


@pytest.mark.parametrize("script", [NODES, PEERS], ids=["nodes", "peers"])
def test_it_is_refused_where_images_may_be_overwritten(start_orthanc: StartOrthanc, script: Path) -> None:
    section = "AutoForwardModality" if script == NODES else "AutoForwardPeer"
    server = start_orthanc(script, {section: {"DeleteAfterForward": True}, "OverwriteInstances": True})
    line = server.wait_for_log(f"{section}.DeleteAfterForward")
    assert "OverwriteInstances" in line
    assert server.request("GET", f"/{script.stem.replace('_', '-')}/status").status_code == 503
