# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_forward_dicomweb.py between real Orthancs with the DICOMweb plugin; what all forwarders share is tested in forwarding/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
from testing.nodes import HttpNode, pass_on_to
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
SCRIPT = script_with(ROOT / "auto_forward_dicomweb.py", QUICK)
PLUGINS = {"Plugins": [str(python_plugin()), str(dicomweb_plugin())]}
USERS = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "opensesame"}}
DELETES: dict[str, Any] = {"DeleteAfterForward": True}
# What its sender was told is stored, and is not: the second image of each series.
FORGETS = "function ReceivedInstanceFilter(dicom, origin, info)\n  return dicom.InstanceNumber ~= '2'\nend\n"


def server_of(there: OrthancServer, root: str = "dicom-web") -> list[str]:
    """What an Orthanc writes in `DicomWeb.Servers` to send to another one."""
    return [f"{there.url}/{root}/", "alice", "opensesame"]


def to(*servers: OrthancServer, **section: Any) -> dict[str, Any]:
    known = {there.aet: server_of(there) for there in servers}
    return {**PLUGINS, "DicomWeb": {"Servers": known}, "AutoForwardDicomweb": section}


def rows(server: OrthancServer, task: str = "send") -> list[dict[str, Any]]:
    items = server.get("/auto-forward-dicomweb/deliveries")["Items"]
    return [row for row in items if row["Task"] == task]


def states(server: OrthancServer, task: str = "send") -> list[str]:
    return [row["State"] for row in rows(server, task)]


def instances(server: OrthancServer) -> set[str]:
    return set(server.get("/instances"))


@pytest.fixture
def there(start_orthanc: StartOrthanc) -> OrthancServer:
    return start_orthanc(None, {**PLUGINS, **USERS}, aet="THERE")


def test_a_stable_study_reaches_the_server_with_its_user_and_password(
    start_orthanc: StartOrthanc, there: OrthancServer
) -> None:
    here = start_orthanc(SCRIPT, to(there))
    here.store(make_study(series=2, instances=3))
    here.wait_until(lambda: states(here) == ["done"], what="deliver")
    assert instances(there) == instances(here)
    assert len(instances(there)) == 6
    assert "opensesame" not in here.log
    [job] = [here.get(f"/jobs/{row['Job']}") for row in rows(here)]
    assert (job["Type"], job["State"]) == ("DicomWebStowClient", "Success")


def test_a_server_that_is_away_gets_all_when_it_is_back_also_after_a_kill(
    start_orthanc: StartOrthanc, there: OrthancServer
) -> None:
    here = start_orthanc(SCRIPT, to(there))
    there.stop()
    here.store(make_study(instances=2))
    here.wait_until(lambda: rows(here) and rows(here)[0]["Error"], what="fail")
    assert "Error in the network protocol" in rows(here)[0]["Error"]
    here.wait_until(lambda: here.get("/auto-forward-dicomweb/destinations")["THERE"]["Away"], what="notice")
    here.kill()
    here.start()
    there.start()
    here.wait_until(lambda: set(states(here)) == {"done"}, timeout=60, what="deliver")
    assert instances(there) == instances(here)


def test_a_kill_while_a_job_is_under_way_loses_nothing(start_orthanc: StartOrthanc, there: OrthancServer) -> None:
    """The plugin's jobs end with the process: the row knows it, and is sent again."""
    here = start_orthanc(SCRIPT, to(there, Trigger="Stored"))
    for number in range(4):
        here.store(make_study(patient_id=f"P{number}", instances=4))
        here.wait_until(lambda: "sending" in states(here), what="send")
        here.kill()
        here.start()
    here.wait_until(lambda: len(instances(there)) == 16, timeout=90, what="deliver")
    here.wait_until(lambda: set(states(here)) == {"done"}, timeout=60, what="know it")
    assert instances(there) == instances(here)


def test_a_wrong_password_is_tried_again_and_is_no_reason_to_cut_a_study(
    start_orthanc: StartOrthanc, there: OrthancServer
) -> None:
    configuration = to(there)
    configuration["DicomWeb"]["Servers"]["THERE"][2] = "wrong"
    here = start_orthanc(SCRIPT, configuration)
    here.store(make_study(instances=4))
    here.wait_until(lambda: rows(here) and rows(here)[0]["Attempts"] > 1, what="try again")
    assert [row["Instances"] for row in rows(here)] == [4]
    assert "Bad credentials" in rows(here)[0]["Error"]
    here.stop()
    here.configuration["DicomWeb"]["Servers"]["THERE"][2] = "opensesame"
    here.start()
    here.wait_until(lambda: states(here) == ["done"], timeout=60, what="deliver")


def test_without_the_plugin_one_error_says_so_and_the_script_is_idle(start_orthanc: StartOrthanc) -> None:
    here = start_orthanc(SCRIPT, {"AutoForwardDicomweb": {}})
    here.wait_for_log("is idle until this is corrected")
    [line] = [line for line in here.log.splitlines() if line.startswith("E")]
    assert (
        "AutoForwardDicomweb.Destinations: these are servers of Orthanc's DICOMweb plugin, which is not loaded" in line
    )
    status = here.request("GET", "/auto-forward-dicomweb/status").json()
    assert (status["State"], status["Reason"].partition(":")[0]) == (
        "misconfigured",
        "AutoForwardDicomweb.Destinations",
    )
    here.store(make_study())
    here.wait_until_stable()
    assert here.request("GET", "/auto-forward-dicomweb/deliveries").status_code == 503


def test_what_came_while_the_plugin_was_not_loaded_is_sent_when_it_is(
    start_orthanc: StartOrthanc, there: OrthancServer
) -> None:
    here = start_orthanc(SCRIPT, {**to(there), "Plugins": [str(python_plugin())]})
    here.wait_for_log("is idle until this is corrected")
    here.store(make_study(instances=2))
    here.stop()
    here.configuration |= PLUGINS
    here.start()
    here.wait_until(lambda: states(here) == ["done"], timeout=60, what="deliver")
    assert instances(there) == instances(here)


def test_the_root_of_the_plugin_is_where_the_configuration_says(
    start_orthanc: StartOrthanc, there: OrthancServer
) -> None:
    configuration = to(there)
    configuration["DicomWeb"]["Root"] = "/web/"
    here = start_orthanc(SCRIPT, configuration)
    here.store(make_study())
    here.wait_until(lambda: states(here) == ["done"], what="deliver")


def test_a_server_that_is_added_while_orthanc_runs_is_known_soon(
    start_orthanc: StartOrthanc, there: OrthancServer
) -> None:
    script = script_with(ROOT / "auto_forward_dicomweb.py", {**QUICK, "ASK_AGAIN_SECONDS": 0.5})
    here = start_orthanc(script, to())
    here.wait_until(lambda: here.get("/auto-forward-dicomweb/destinations") == {}, what="know none")
    url, user, password = server_of(there)
    here.put("/dicom-web/servers/LATER", {"Url": url, "Username": user, "Password": password})
    here.wait_until(lambda: "LATER" in here.get("/auto-forward-dicomweb/destinations"), what="know it")
    here.store(make_study())
    here.wait_until(lambda: states(here) == ["done"], what="deliver")
    assert instances(there) == instances(here)


def test_what_the_server_proved_to_have_is_deleted_here(start_orthanc: StartOrthanc, there: OrthancServer) -> None:
    here = start_orthanc(SCRIPT, to(there, **DELETES), aet="HERE")
    here.store_scu(make_study(series=2, instances=3))
    sent = instances(here)
    here.wait_until(lambda: states(here, "delete") == ["done"], what="delete")
    assert here.get("/instances") == here.get("/patients") == []
    assert instances(there) == sent
    here.wait_for_log("6 instances, which THERE proved to have")


def test_what_is_missing_there_stays_here_whatever_the_job_said(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    lua = tmp_path / "forgets.lua"
    lua.write_text(FORGETS)
    there = start_orthanc(None, {**PLUGINS, **USERS, "LuaScripts": [str(lua)]}, aet="THERE")
    here = start_orthanc(SCRIPT, to(there, **DELETES), aet="HERE")
    here.store_scu(make_study(instances=3))
    here.wait_for_log("THERE has not proved to have 1 of 3 instances. It will be asked again")
    assert len(instances(here)) == 3


def test_two_that_forward_to_each_other_and_both_delete_keep_one_copy(start_briefly: StartOrthanc) -> None:
    one = start_briefly(SCRIPT, {**PLUGINS, **USERS, "AutoForwardDicomweb": DELETES}, aet="ONE", start=False)
    two = start_briefly(SCRIPT, {**PLUGINS, **USERS, "AutoForwardDicomweb": DELETES}, aet="TWO", start=False)
    one.configuration["DicomWeb"] = {"Servers": {"TWO": server_of(two)}}
    two.configuration["DicomWeb"] = {"Servers": {"ONE": server_of(one)}}
    two.start()
    one.start()
    one.store_scu(make_study(instances=2))
    one.wait_until(lambda: states(one, "delete") == ["done"], timeout=60, what="delete")
    two.wait_for_log("it came in by a plugin, as by DICOMweb")
    assert len(instances(two)) == 2


def test_a_server_that_leads_back_here_proves_nothing(start_orthanc: StartOrthanc) -> None:
    here = start_orthanc(SCRIPT, {**PLUGINS, "AutoForwardDicomweb": DELETES}, aet="HERE", start=False)
    here.configuration["DicomWeb"] = {"Servers": {"SELF": [f"{here.url}/dicom-web/"]}}
    here.start()
    here.store_scu(make_study(instances=2))
    here.wait_for_log("SELF leads back to this server")
    assert len(instances(here)) == 2


def test_a_server_that_leads_back_here_by_a_proxy_proves_nothing(start_briefly: StartOrthanc) -> None:
    here = start_briefly(SCRIPT, {**PLUGINS, "AutoForwardDicomweb": DELETES}, aet="HERE", start=False)
    with HttpNode(pass_on_to(here.url)) as proxy:
        here.configuration["DicomWeb"] = {"Servers": {"SELF": [f"{proxy.url}/dicom-web/"]}}
        here.start()
        here.store_scu(make_study(instances=2))
        here.wait_for_log("SELF leads back to this server, or shares its database")
        assert len(instances(here)) == 2
