# SPDX-License-Identifier: AGPL-3.0-or-later
"""Jobs that name whole series: what Orthanc sends for them is what their rows hold, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

SCRIPTS = Path(__file__).parents[2]
IMAGES = 60


def rows(server: OrthancServer, route: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get(f"{route}/deliveries")["Items"]
    return found


@pytest.mark.parametrize(
    ("script", "nodes", "entry"),
    [
        ("auto_forward_modality", "DicomModalities", "as_modality"),
        ("auto_forward_peer", "OrthancPeers", "as_peer"),
    ],
)
def test_a_job_names_the_series_of_its_row_and_the_row_its_instances(
    start_orthanc: StartOrthanc, script: str, nodes: str, entry: str
) -> None:
    node = start_orthanc(aet="NODE")
    source = start_orthanc(
        script_with(SCRIPTS / f"{script}.py", QUICK), {nodes: {"NODE": getattr(node, entry)()}, "JobsHistorySize": 100}
    )
    source.store(make_study(patient_id="MANY", instances=IMAGES // 2, series=2))
    source.store(make_study(patient_id="FEW", instances=2))
    route = f"/{script.replace('_', '-')}"
    source.wait_until(lambda: [row["State"] for row in rows(source, route)] == ["done"] * 2, what="deliver both")
    assert set(node.get("/instances")) == set(source.get("/instances"))
    named = sorted(len(job["Content"]["ParentResources"]) for job in source.get("/jobs?expand"))
    assert named == [2, 2]  # two series, and two instances
    many = max(rows(source, route), key=lambda row: row["Instances"])
    study = source.get(f"/studies/{many['Resource']}")
    [job] = [job for job in source.get("/jobs?expand") if job["ID"] == many["Job"]]
    assert sorted(job["Content"]["ParentResources"]) == sorted(study["Series"])
    assert job["Content"]["InstancesCount"] == IMAGES
    assert len(source.get(f"{route}/deliveries/{many['ID']}")["InstanceIDs"]) == IMAGES


def test_late_images_of_a_series_that_was_sent_go_alone(start_orthanc: StartOrthanc) -> None:
    with AwkwardNode("NODE") as node:
        source = start_orthanc(
            script_with(SCRIPTS / "auto_forward_modality.py", QUICK), {"DicomModalities": {"NODE": node.as_modality()}}
        )
        images = make_study(instances=2 * IMAGES)
        for number, some in enumerate((images[:IMAGES], images[IMAGES:]), start=1):
            source.store(some)
            source.wait_until(lambda: len(node.received) >= number * IMAGES, what="deliver")  # noqa: B023 - called here
        source.wait_until(
            lambda: [row["State"] for row in rows(source, "/auto-forward-modality")] == ["done"] * 2, what="end"
        )
        assert len(node.received) == len({image for image, _ in node.received}) == 2 * IMAGES


def test_what_came_from_the_node_meanwhile_is_not_sent_back_with_its_series(start_orthanc: StartOrthanc) -> None:
    with AwkwardNode("NODE") as node:
        nodes = {"DicomModalities": {"NODE": node.as_modality()}}
        source = start_orthanc(script_with(SCRIPTS / "auto_forward_modality.py", QUICK), nodes)
        images = make_study(instances=IMAGES + 1)
        source.post("/auto-forward-modality/destinations/NODE/pause")
        source.store(images[:IMAGES])
        source.wait_until_stable()
        source.wait_until(lambda: rows(source, "/auto-forward-modality"), what="add its row")
        source.store_scu(images[IMAGES:], aet="NODE")
        source.post("/auto-forward-modality/destinations/NODE/resume")
        source.wait_until(
            lambda: [row["State"] for row in rows(source, "/auto-forward-modality")] == ["done"], what="deliver"
        )
        source.wait_until_stable()
        assert len(node.received) == len({image for image, _ in node.received}) == IMAGES
