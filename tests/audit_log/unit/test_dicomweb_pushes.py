# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log without a server: the lines of a DICOMweb push."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def test_a_push_has_a_line_for_each_study_with_the_name_of_its_server(source: Any, orthanc_standin: Any) -> None:
    events, lines = source("audit_log.events"), list[Any]()
    places = SimpleNamespace(
        find=lambda resource, _levels=(): {"Study": resource},
        of_instances=lambda instances: [{"Study": f"of {each}"} for each in instances],
    )
    writer = SimpleNamespace(add=lambda _at, event, place, **more: lines.append((event, place["Study"], more["To"])))
    content = {"Server": "CLOUD", "Resources": {"Studies": ["a", "a"], "Instances": ["1"]}}
    job = {"ID": "j", "Type": "DicomWebStowClient", "Content": content}
    events.EventLines(places, writer).on_job_end("now", job, success=True)
    assert lines == [("sent", "a", "CLOUD"), ("sent", "of 1", "CLOUD")]
