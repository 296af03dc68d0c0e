# SPDX-License-Identifier: AGPL-3.0-or-later
"""Of a large image the callback copies nothing: that would hold up all of Python, and take as much memory again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn

VIDEO, PDF, CT = "77.1.4.1", "104.1", "2"


@pytest.mark.parametrize("kind", [VIDEO, PDF, CT])
def test_a_large_image_is_not_copied(source: Any, orthanc_standin: StandIn, kind: str) -> None:
    lines: list[str] = []
    intake = source("dicom_events.intake").Intake.__new__(source("dicom_events.intake").Intake)
    intake._write_down, intake._wants_tags = lines.append, lambda _: False
    uids = {"SopClassUid": f"1.2.840.10008.5.1.4.1.1.{kind}", "RemoteIP": "", "ReceptionDate": ""}
    dicom = SimpleNamespace(
        GetInstanceSize=lambda: 2 << 30,
        GetInstanceMetadata=uids.get,
        GetInstanceData=lambda: pytest.fail("all of it was copied"),
        GetInstanceAdvancedJson=lambda *_: "{}",
        GetInstanceRemoteAet=lambda: "CAMERA",
        GetInstanceOrigin=lambda: 1,
    )
    intake.on_stored_instance(dicom, "i")
    assert len(lines) == 1
