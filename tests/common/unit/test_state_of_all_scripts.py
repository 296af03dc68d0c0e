# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/state.py: in which folder a script keeps its state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn


@pytest.mark.parametrize(
    ("own", "configuration", "expected"),
    [
        (None, {}, "OrthancStorage"),
        (None, {"StorageDirectory": "S"}, "S"),
        (None, {"StorageDirectory": "S", "IndexDirectory": "I"}, "I"),
        (None, {"StorageDirectory": "S", "IndexDirectory": "I", "Scripts": {}}, "I"),
        (None, {"StorageDirectory": "S", "IndexDirectory": "I", "Scripts": {"StatePath": None}}, "I"),
        (None, {"StorageDirectory": "S", "IndexDirectory": "I", "Scripts": {"StatePath": "all"}}, "all"),
        ("own", {"StorageDirectory": "S", "IndexDirectory": "I", "Scripts": {"StatePath": "all"}}, "own"),
        ("/own", {"Scripts": {"StatePath": "/all"}}, "/own"),
        (None, {"Scripts": {"StatePath": "/all"}}, "/all"),
    ],
)
def test_the_folder_of_the_script_comes_first_then_that_of_all(
    source: Callable[[str], ModuleType],
    orthanc_standin: StandIn,
    tmp_path: Path,
    own: str | None,
    configuration: dict[str, Any],
    expected: str,
) -> None:
    (tmp_path / "orthanc.json").write_text("{}")
    orthanc_standin.returns["GetConfigurationPath"] = str(tmp_path / "orthanc.json")
    assert source("common.state").state_folder(own, configuration) == tmp_path / expected
