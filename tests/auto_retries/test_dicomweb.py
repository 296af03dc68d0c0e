# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries.py and jobs of the DICOMweb plugin: resubmitted, they leave out what they have read and succeed all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testing.dicom import make_study
from testing.dicomweb import DicomWebNode
from testing.installed import dicomweb_plugin, python_plugin
from testing.nodes import HttpAnswer, HttpRequest
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.auto_retries.helpers import SCRIPT, failed, instances, jobs, states

ROOT = "web"  # not the plugin's own: the script reads it


class Away(DicomWebNode):
    """A server that takes a request whole and gives no answer of DICOMweb, while it is away."""

    is_away = False

    def _respond(self, request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(503) if self.is_away else super()._respond(request)


@pytest.fixture
def node() -> Iterator[Away]:
    with Away() as found:
        yield found


@pytest.fixture
def here(start_briefly: StartOrthanc, node: Away) -> OrthancServer:
    """An Orthanc that is killed: 1.13.0 crashes if it is stopped while a job of the plugin is under way."""
    configuration: dict[str, Any] = {
        "Plugins": [str(python_plugin()), str(dicomweb_plugin())],
        "DicomWeb": {"Root": f"/{ROOT}/", "Servers": {"CLOUD": [node.url]}},
    }
    return start_briefly(SCRIPT, configuration, aet="HERE")


def push(server: OrthancServer, *resources: str) -> str:
    body = {"Resources": resources, "Synchronous": False, "Priority": 4}
    return str(server.post(f"/{ROOT}/servers/CLOUD/stow", body)["ID"])


def uids(server: OrthancServer) -> list[str]:
    return sorted(each["MainDicomTags"]["SOPInstanceUID"] for each in server.get("/instances?expand"))


def test_what_was_pushed_to_a_server_that_fails_after_it_was_read_arrives_whole_or_is_dead_and_says_why(
    here: OrthancServer, node: Away, orthanc_version: tuple[int, ...]
) -> None:
    stored = here.store(make_study(series=2, instances=3))
    node.is_away = True
    job = push(here, stored[0]["ParentStudy"])
    [item] = failed(here)
    assert (item["Type"], item["FirstJob"]) == ("DicomWebStowClient", job)
    if orthanc_version < (1, 11):  # its plugin shows neither where to nor what
        here.wait_until(lambda: states(here) == ["dead"], what="give up")
        assert "resubmitted it would leave out what it has read before" in jobs(here)[0]["Error"]
        assert node.taken == []
        return
    assert item["Destination"] == "CLOUD"
    here.wait_until(lambda: jobs(here)[0]["Attempts"] > 1, what="try in vain")
    node.is_away = False
    here.wait_until(lambda: states(here) == ["done"], what="send it again")
    assert node.uids() == uids(here)
    assert node.requests_of == [6]
    assert here.get(f"/jobs/{jobs(here)[0]['Job']}")["Priority"] == 4


def test_what_was_pushed_to_a_server_that_is_away_arrives_when_it_is_back(
    start_briefly: StartOrthanc, start_orthanc: StartOrthanc
) -> None:
    plugins = {"Plugins": [str(python_plugin()), str(dicomweb_plugin())]}
    there = start_orthanc(None, plugins, aet="THERE", start=False)
    servers = {"CLOUD": [f"{there.url}/dicom-web/"]}
    here = start_briefly(SCRIPT, {**plugins, "DicomWeb": {"Root": f"/{ROOT}/", "Servers": servers}}, aet="HERE")
    stored = here.store(make_study(instances=2))
    push(here, *(each["ID"] for each in stored))
    failed(here)
    here.wait_until(lambda: jobs(here)[0]["Attempts"] > 1, what="try in vain")
    there.start()
    here.wait_until(lambda: states(here) == ["done"], what="send it again")
    assert instances(there) == instances(here)


def test_a_person_who_resubmits_what_was_read_does_not_end_it(
    here: OrthancServer, node: Away, orthanc_version: tuple[int, ...]
) -> None:
    """Orthanc calls an empty request a success."""
    stored = here.store(make_study(instances=2))
    node.is_away = True
    job = push(here, stored[0]["ParentStudy"])
    failed(here)
    here.wait_until(lambda: here.get(f"/jobs/{job}")["State"] == "Failure", what="fail")
    node.is_away = False
    here.post(f"/jobs/{job}/resubmit", {})
    if orthanc_version < (1, 11):
        here.wait_until(lambda: states(here) == ["dead"], what="give up")
        return
    here.wait_until(lambda: states(here) == ["done"], what="send it again")
    assert node.uids() == uids(here)
