# SPDX-License-Identifier: AGPL-3.0-or-later
"""A state of src/common/ in a folder of the test's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn


@pytest.fixture
def common(orthanc_standin: StandIn) -> Iterator[Any]:
    names = ("state", "ledger", "worker", "inbox", "routes", "status")
    yield SimpleNamespace(**{name: importlib.import_module(f"common.{name}") for name in names})
    for name in [name for name in sys.modules if name.startswith("common.")]:
        del sys.modules[name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "script.sqlite"
