# SPDX-License-Identifier: AGPL-3.0-or-later
"""An archive with studies of many dates, and purges that wait while a test says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from testing.dicom import make_study
from testing.server import OrthancServer

SCRIPT = Path(__file__).parents[2] / "purge_old_studies.py"

# Dates as archives have them: the empty one and those that are no days sort before 20000101 as text.
DATES = ["19981231", "19991231", "20000101", "20000102", "20240101", "", "1999", "1999.12.31", "19991301", "20000231"]


def fill(server: OrthancServer, dates: list[str]) -> None:
    for number, date in enumerate(dates):
        server.store(make_study(patient_id=f"P{number}", study_date=date, instances=2))


def dates_left(server: OrthancServer) -> list[str]:
    return sorted(study["MainDicomTags"].get("StudyDate", "") for study in server.get("/studies?expand"))


LIMITS = {"LimitFindResults": 1, "LimitFindInstances": 1}  # they cut what Orthanc answers to a search


def changed(**constants: float) -> str:
    """The script with other constants; it waits before each deletion while there is a file `hold`, and tells by `held`."""
    source = SCRIPT.read_text()
    for name, value in constants.items():
        source, count = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value}", source)
        assert count == 1
    return source + WAITING


WAITING = """
def _held(delete):
    folder = Path(orthanc.GetConfigurationPath()).parent

    def held(*arguments):
        while (folder / "hold").exists():
            (folder / "held").touch()
            time.sleep(0.01)
        return delete(*arguments)

    return held


Archive.delete = _held(Archive.delete)
Archive.delete_in_pieces = _held(Archive.delete_in_pieces)
"""


def job(server: OrthancServer, number: int) -> dict[str, Any]:
    return dict(server.get(f"/purge-old-studies/jobs/{number}"))


def ended(server: OrthancServer, number: int) -> dict[str, Any]:
    return dict(server.wait_until(lambda: (found := job(server, number))["Ended"] and found, what="end the purge"))


def deleted_in_history(server: OrthancServer) -> list[str]:
    lines = server.get("/purge-old-studies/history", limit=1000)["Items"]
    return sorted(line["ID"] for line in lines if line["Event"] == "deleted")
