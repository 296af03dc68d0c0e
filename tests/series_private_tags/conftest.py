# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script on the stand-in, and an Orthanc that lists private tags, for a module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.series_private_tags.helpers import LISTED, ROOT, SCRIPT


@pytest.fixture
def script() -> Iterator[ModuleType]:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        try:
            yield importlib.import_module("series_private_tags")
        finally:
            sys.path.remove(str(ROOT))
            sys.modules.pop("series_private_tags", None)


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(SCRIPT, {**LISTED, "StableAge": 3600})
