# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stores all files of a folder when Orthanc starts: `"UploadAtStart": {"Folder": "/var/lib/incoming"}`.

A file that Orthanc has taken is moved to the folder `done` in there, one that it refused to `refused`: a restart uploads
nothing again, and nothing is deleted. Needs event_dispatcher.py beside it.
"""

import json
import logging
from pathlib import Path
from typing import Any

import orthanc

from event_dispatcher import create_session, register_event_handlers

SECTION = json.loads(orthanc.GetConfiguration()).get("UploadAtStart")
FOLDER = Path(SECTION["Folder"]) if isinstance(SECTION, dict) and SECTION.keys() == {"Folder"} else None


def upload(event: Any, session: Any) -> None:
    """One file at a time; on a thread of event_dispatcher's own, so that Orthanc receives meanwhile."""
    assert FOLDER is not None
    for path in sorted(each for each in FOLDER.iterdir() if each.is_file()):
        answer = session.post("/instances", content=path.read_bytes())
        if answer.status_code >= 500:
            logging.error("%s stays where it is: %s", path.name, answer.text)
            continue
        target = FOLDER / ("done" if answer.is_success else "refused") / path.name
        target.parent.mkdir(exist_ok=True)
        while target.exists():  # one of that name came before
            target = target.with_name(f"{target.name}.again")
        path.rename(target)
        logging.warning("%s: %s", path.name, "stored" if answer.is_success else "no DICOM, refused")


if FOLDER is None:  # an exception here would end Orthanc
    orthanc.LogError('UploadAtStart: allowed is {"Folder": "PATH"} alone. Nothing is uploaded until this is corrected.')
else:
    register_event_handlers({orthanc.ChangeType.ORTHANC_STARTED: upload}, orthanc, create_session(orthanc))
