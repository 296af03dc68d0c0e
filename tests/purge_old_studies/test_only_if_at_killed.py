# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py by `OnlyIfAt`, killed while it deletes: no half of a study is left, and no other one is begun."""

from __future__ import annotations

import contextlib
import threading

import requests

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.purge_old_studies.helpers import changed, deleted_in_history, job

# The first request that deletes instances stops after some of them, until Orthanc is killed.
STOPS_HALFWAY = """
def _halfway(delete):
    folder = Path(orthanc.GetConfigurationPath()).parent

    def some(self, resources, who):
        if (folder / "halfway").exists():
            delete(self, resources[:5], who)
            (folder / "held").touch()
            time.sleep(600)
        delete(self, resources, who)

    return some


Archive._bulk_delete = _halfway(Archive._bulk_delete)
"""


def test_killed_while_it_deletes_it_leaves_no_half_study_and_begins_no_other(start_briefly: StartOrthanc) -> None:
    there = start_briefly(None, {"DicomAlwaysAllowFind": True}, aet="THERE")
    here = start_briefly(changed() + STOPS_HALFWAY, {"DicomModalities": {"THERE": there.as_modality()}}, aet="HERE")
    for number in range(3):
        files = make_study(patient_id=f"P{number}", study_date=f"2001010{number + 1}", instances=4)
        here.store_scu(files)
        there.store_scu(files)
    (here.folder / "halfway").touch()
    asked = {"since": "20200101", "dry-run": False, "only-if-at": ["THERE"], "proof": "C-FIND"}

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            here.request("POST", "/purge-old-studies", json=asked)

    caller = threading.Thread(target=ask)
    caller.start()
    here.wait_until(lambda: (here.folder / "held").exists(), what="delete some")
    assert len(here.get("/instances")) == 7
    here.kill()
    caller.join()
    (here.folder / "halfway").unlink()
    here.start()
    found = here.wait_until(lambda: (one := job(here, 1))["Ended"] and one, what="complete the record")
    assert (found["State"], found["Deleted"], found["Remaining"]) == ("interrupted", 2, 1)
    assert [one["PatientMainDicomTags"]["PatientID"] for one in here.get("/studies?expand")] == ["P2"]
    assert len(here.get("/instances")) == 4
    assert len(deleted_in_history(here)) == 2
