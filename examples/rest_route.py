# SPDX-License-Identifier: AGPL-3.0-or-later
"""A REST route of one's own: `GET /patients-of-today` lists the patients whose studies are of today.

    curl http://127.0.0.1:8042/patients-of-today

A route answers JSON, other methods get 405. Reading is one `/tools/find`, whatever the size of the archive.
"""

import datetime
import json
from typing import Any

import orthanc


def patients_of_today(output: Any, uri: str, **request: Any) -> None:
    """Their PatientIDs, each once."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    today = datetime.datetime.now().astimezone().strftime("%Y%m%d")  # the server's local time, as in DICOM
    query = {"Level": "Study", "Query": {"StudyDate": today}, "Expand": True}
    studies = json.loads(orthanc.RestApiPost("/tools/find", json.dumps(query)))
    patients = sorted({study["PatientMainDicomTags"].get("PatientID", "") for study in studies})
    output.AnswerBuffer(json.dumps(patients), "application/json")


# The function has a name: one that nothing but Orthanc refers to (a lambda) crashes 1.12.7 and later when they stop.
orthanc.RegisterRestCallback("/patients-of-today", patients_of_today)
