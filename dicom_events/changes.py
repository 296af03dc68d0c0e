# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/changes.py: edit that, never this file.
"""The changes that Orthanc reports, the setting that switches the event of each, and its type."""

from __future__ import annotations

import orthanc

from .events import LEVELS

CHANGES = {
    **{f"STABLE_{level.upper()}": (f"stable_{level.lower()}", f"dicom.{level.lower()}.stable") for level in LEVELS[:3]},
    **{f"NEW_{level.upper()}": (f"new_{level.lower()}", f"dicom.{level.lower()}.new") for level in LEVELS[:3]},
    "UPDATED_METADATA": ("updated_metadata", "metadata-updated"),
    "UPDATED_ATTACHMENT": ("updated_attachment", "attachment-updated"),
    "JOB_SUCCESS": ("job_success", "orthanc.job.succeeded"),
    "JOB_FAILURE": ("job_failure", "orthanc.job.failed"),
    "ORTHANC_STARTED": ("orthanc_started", "orthanc.started"),
    "ORTHANC_STOPPED": ("orthanc_stopped", "orthanc.stopped"),
    "UPDATED_MODALITIES": ("updated_modalities", "orthanc.modalities.updated"),
    "UPDATED_PEERS": ("updated_peers", "orthanc.peers.updated"),
}
KNOWN_CHANGES = {int(getattr(orthanc.ChangeType, name)): name for name in (*CHANGES, "DELETED")}
