# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script on the stand-in, and Orthancs with pydicom's own files, for a module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from testing.dicom import pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.series_thumbnail.helpers import ROOT, SCRIPT


@pytest.fixture
def script() -> Iterator[ModuleType]:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        try:
            yield importlib.import_module("series_thumbnail")
        finally:
            sys.path.remove(str(ROOT))
            sys.modules.pop("series_thumbnail", None)


@pytest.fixture(scope="module")
def gallery(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """All that pydicom carries, and no configuration at all; nothing becomes stable."""
    server = start_orthanc_for_module(SCRIPT, {"StableAge": 3600})
    server.store(pydicom_files())
    return server
