# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of the tests of purge_old_studies.py."""

from __future__ import annotations

from types import ModuleType

import pytest

from testing.standin import StandIn
from tests.purge_old_studies.helpers import SCRIPT


@pytest.fixture
def script(orthanc_standin: StandIn) -> ModuleType:
    return orthanc_standin.load(SCRIPT)
