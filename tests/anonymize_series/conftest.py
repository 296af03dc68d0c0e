# SPDX-License-Identifier: AGPL-3.0-or-later
"""An Orthanc with pydicom's own files, for a module."""

from __future__ import annotations

import pytest

from testing.dicom import pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.anonymize_series.helpers import SCRIPT, section


@pytest.fixture(scope="module")
def archive(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """A server without rules, with pydicom's files in it."""
    server = start_orthanc_for_module(SCRIPT, {**section(ReIdentify=True), "StableAge": 3600})
    for path in pydicom_files(cstore=False):
        server.request("POST", "/instances", data=path.read_bytes())
    return server
