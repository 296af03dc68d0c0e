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


def test_a_script_that_keeps_files_where_others_have_a_database_says_so_once(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "orthanc.json").write_text("{}")
    orthanc_standin.returns["GetConfigurationPath"] = str(tmp_path / "orthanc.json")
    state, configuration = source("common.state"), {"Scripts": {"Database": "postgresql://u:pa55@host/db"}}
    state.state_folder("own", configuration, "x")
    state.state_folder(None, configuration)
    state.state_folder(None, {}, "x")
    assert orthanc_standin.logs == []
    for _ in range(2):
        state.state_folder(None, configuration, "x")
    [(level, text)] = orthanc_standin.logs
    assert level == "warning"
    assert text.startswith("x: its state is in files of this server, not in Scripts.Database")


def test_reconcile_has_no_effect_with_a_database_and_a_line_says_so(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn
) -> None:
    found = source("common.database").shared_database_of
    configuration = {"Scripts": {"Database": "postgresql://u:pa55@host/db", "Server": "A"}}
    assert found(configuration, "own", reconcile=False, section="S") is None
    assert found({}, None, reconcile=False, section="S") is None
    assert found(configuration, None, reconcile=True, section="S").server == "A"
    assert orthanc_standin.logs == []
    assert found(configuration, None, reconcile=False, section="S").server == "A"
    orthanc_standin.assert_logged("S.Reconcile is false, and has no effect with Scripts.Database", "warning")
