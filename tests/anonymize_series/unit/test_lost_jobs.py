# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series without a server: which job of Orthanc is taken for the one that a row has lost."""

from __future__ import annotations

import types
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

JOB = {
    "ID": "job",
    "Type": "DicomModalityStore",
    "State": "Pending",
    "Content": {"RemoteAet": "PACS", "ParentResources": ["b", "a"]},
}
PEER_JOB = {**JOB, "Type": "OrthancPeerStore", "Content": {"Peer": ["http://p/", "me"], "ParentResources": ["a", "b"]}}


def found(
    source: Callable[[str], ModuleType], job: dict[str, Any], *, taken: str = "", other: str = "OTHER", **recipe: str
) -> Any:
    source("anonymize_series")
    sending, settings = source("anonymize_series.sending"), source("anonymize_series.settings")
    answers = {
        "/jobs?expand": [job],
        "/modalities?expand": {"node": {"AET": "PACS"}, "other": {"AET": other}},
        "/peers?expand": {"node": {"Url": "http://p/"}, "other": {"Url": other}},
    }
    one = sending.Sending.__new__(sending.Sending)
    one._loopback = types.SimpleNamespace(get=answers.__getitem__)
    one._work = types.SimpleNamespace(find=lambda _: [{"job": taken}, {"job": None}])
    return one._lost_job(settings.Recipe(**(recipe or {"modality": "node"})), ["a", "b"])


def test_the_unfinished_job_that_sends_the_copies_there_is_the_one(source: Callable[[str], ModuleType]) -> None:
    assert found(source, JOB) == "job"
    assert found(source, PEER_JOB, peer="node") == "job"


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({"State": "Success"}, {}),
        ({"State": "Failure"}, {}),
        ({"Type": "OrthancPeerStore"}, {}),
        ({"Content": {"RemoteAet": "PACS", "ParentResources": ["a"]}}, {}),
        ({"Content": {"RemoteAet": "OTHER", "ParentResources": ["a", "b"]}}, {}),
        ({}, {"taken": "job"}),
        ({}, {"other": "PACS"}),
        ({}, {"peer": "node"}),
        ({}, {"stow": "node"}),
    ],
)
def test_another_job_is_not(source: Callable[[str], ModuleType], change: dict[str, Any], how: dict[str, str]) -> None:
    assert found(source, {**JOB, **change}, **how) is None
