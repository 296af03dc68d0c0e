# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes the tags of each image that is stored as JSON to a folder: `"DumpStored": {"Folder": "/var/lib/orthanc/dump"}`.

What stands in such a file belongs to a patient: it is readable by Orthanc's user alone.
"""

import json
import os
from pathlib import Path
from typing import Any

import orthanc

FOLDER = Path(json.loads(orthanc.GetConfiguration())["DumpStored"]["Folder"])


def on_stored_instance(dicom: Any, instance: str) -> None:
    """Orthanc calls it inside the store, which waits for it: a small file is all there is time for.

    Ask Orthanc nothing here (no `RestApiGet`): what is wanted of the image is in `dicom`, which is valid during the call.
    """
    part = FOLDER / f"{instance}.part"
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            file.write(dicom.GetInstanceSimplifiedJson())
        part.replace(FOLDER / f"{instance}.json")  # whoever looks finds it whole
    except OSError as error:  # a full disk is no reason to refuse an image
        orthanc.LogError(f"dump_stored: {instance} could not be written: {error}")


orthanc.RegisterOnStoredInstanceCallback(on_stored_instance)
