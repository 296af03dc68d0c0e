# SPDX-License-Identifier: AGPL-3.0-or-later
"""Studies, jobs and destinations for the tests of auto_retries.py."""

from __future__ import annotations

import datetime
import functools
from pathlib import Path
from typing import Any

from testing.dicom import make_study
from testing.pytest_plugin import StoreScp
from testing.server import OrthancServer

SCRIPT = Path(__file__).parents[2] / "auto_retries.py"
QUICK = {"First": 1, "Longest": 2}


def knowing(*destinations: OrthancServer | StoreScp, **section: Any) -> dict[str, Any]:
    """The configuration of an Orthanc that knows these, as nodes and as peers."""
    return {
        "DicomModalities": {each.aet: each.as_modality() for each in destinations},
        "OrthancPeers": {each.aet: each.as_peer() for each in destinations if isinstance(each, OrthancServer)},
        "AutoRetries": {"Retry": QUICK, **section},
    }


def store_study(server: OrthancServer, **options: Any) -> str:
    """Store a generated study and give its identifier."""
    return str(server.store(make_study(**options))[0]["ParentStudy"])


def store_old_study(server: OrthancServer, **options: Any) -> str:
    """Store a study, and let a whole second pass: from then on it can be told that nothing came after a job."""
    study = store_study(server, **options)
    came = server.get(f"/studies/{study}")["LastUpdate"]
    server.wait_until(lambda: f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}" > came, what="let a second pass")
    return study


def send(server: OrthancServer, resource: str, to: str, route: str = "modalities", **options: Any) -> str:
    """Submit a store job, as a REST client does, and give its identifier."""
    body = {"Resources": [resource], "Synchronous": False, **options}
    return str(server.post(f"/{route}/{to}/store", body)["ID"])


def get(server: OrthancServer, path: str, **filters: Any) -> Any:
    """GET from a script, which may start a moment after Orthanc does."""
    server.wait_until(lambda: server.request("GET", path, params=filters).status_code != 503, what=f"start for {path}")
    return server.get(path, **filters)


def jobs(server: OrthancServer, **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = get(server, "/auto-retries/jobs", **filters)["Items"]
    return items


def states(server: OrthancServer) -> list[str]:
    return [item["State"] for item in jobs(server)]


def instances(server: OrthancServer) -> set[str]:
    return set(server.get("/instances"))


def failed(server: OrthancServer, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many jobs have failed, and give them."""
    server.wait_until(lambda: len(jobs(server)) == count, what=f"take {count} failed jobs")
    return jobs(server)


def has_succeeded(server: OrthancServer, job: str) -> bool:
    return bool(server.get(f"/jobs/{job}")["State"] == "Success")


def make_orthanc_forget_its_jobs(server: OrthancServer) -> None:
    """Run jobs of another type until the history (`JobsHistorySize` 1) holds nothing else."""
    study = server.get("/studies")[0]
    for _ in range(2):
        archive = server.post(f"/studies/{study}/archive", {"Asynchronous": True})["ID"]
        server.wait_until(functools.partial(has_succeeded, server, archive), what="make an archive")
