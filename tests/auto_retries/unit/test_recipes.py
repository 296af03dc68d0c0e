# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries without a server: a job is submitted again as what it was, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

LEVEL, STUDY = "0008,0052", "0020,000d"


@pytest.fixture(scope="module")
def recipes(source_for_module: Any) -> Any:
    return source_for_module("auto_retries.recipes")


def body(recipes: Any, kind: str, **content: Any) -> Any:
    return recipes.RECIPES[kind].body(content)


def test_a_retrieve_of_several_levels_is_not_submitted_as_one_of_a_single_level(recipes: Any) -> None:
    queries = [{LEVEL: "STUDY", STUDY: "1.2", "0010,0020": ""}, {LEVEL: "STUDY", STUDY: "1.3"}]
    assert body(recipes, "DicomGetScu", Query=queries, LocalAet="US", RemoteAet="PACS") == {
        "Level": "STUDY", "Resources": [{STUDY: "1.2"}, {STUDY: "1.3"}], "LocalAet": "US",
    }  # fmt: skip
    assert body(recipes, "DicomGetScu", Query=[*queries, {LEVEL: "SERIES", STUDY: "1.2"}]) is None
    assert body(recipes, "DicomGetScu", Query=[*queries, {STUDY: "1.2"}]) is None
    assert body(recipes, "DicomGetScu", Query=[{STUDY: "1.2"}]) is None
    assert body(recipes, "DicomGetScu", Query=[]) is None
    assert body(recipes, "DicomGetScu") is None


def test_a_move_that_does_not_say_where_to_is_not_submitted_again(recipes: Any) -> None:
    """Orthanc would take its own AE title: the images would come here."""
    query = [{LEVEL: "STUDY", STUDY: "1.2"}]
    assert body(recipes, "DicomMoveScu", Query=query, TargetAet="WS")["TargetAet"] == "WS"
    contents: list[dict[str, str]] = [{}, {"TargetAet": ""}]
    for content in contents:
        assert body(recipes, "DicomMoveScu", Query=query, **content) is None


@pytest.mark.parametrize("kind", ["DicomModalityStore", "OrthancPeerStore"])
def test_a_store_that_does_not_say_what_is_not_submitted_again(recipes: Any, kind: str) -> None:
    assert body(recipes, kind, ParentResources=["a1"]) == {"Resources": ["a1"]}
    contents: list[dict[str, list[str]]] = [{}, {"ParentResources": []}]
    for content in contents:
        assert body(recipes, kind, **content) is None


def test_a_store_is_submitted_with_its_options(recipes: Any) -> None:
    given = {
        "LocalAet": "US",
        "MoveOriginatorAET": "WS",
        "MoveOriginatorID": 7,
        "StorageCommitmentTransactionUID": "2.25.1",
    }
    assert body(recipes, "DicomModalityStore", ParentResources=["a1"], **given) == {
        "Resources": ["a1"], "LocalAet": "US", "MoveOriginatorAet": "WS", "MoveOriginatorID": 7, "StorageCommitment": True,
    }  # fmt: skip
    assert body(recipes, "OrthancPeerStore", ParentResources=["a1"], Compress=True, Transcode="1.2", Peer=["x"]) == {
        "Resources": ["a1"], "Compress": True, "Transcode": "1.2",
    }  # fmt: skip


def test_a_stow_whose_instances_are_not_all_there_is_submitted_by_its_resources(recipes: Any) -> None:
    found = {"Instances": ["1", "2"], "Studies": ["a1"]}
    assert body(recipes, "DicomWebStowClient", Resources=found) == {"Resources": ["1", "2"]}
    assert body(recipes, "DicomWebStowClient", Resources=found, InstancesCount="2") == {"Resources": ["1", "2"]}
    assert body(recipes, "DicomWebStowClient", Resources=found, InstancesCount="3") == {"Resources": ["1", "2", "a1"]}
    assert body(recipes, "DicomWebStowClient", Resources={"Studies": ["a1"]}) == {"Resources": ["a1"]}
    assert body(recipes, "DicomWebStowClient", Resources={}) is None


def test_a_job_goes_to_the_destination_that_it_named_and_to_no_other(recipes: Any) -> None:
    data = {"Type": "DicomModalityStore", "Names": ["PACS"], "Target": "AET"}
    here = {"AET": "AET", "Host": "a", "Port": 104}
    assert recipes.name_of(data, {"PACS": here, "X": {**here, "AET": "Y"}}) == "PACS"
    assert recipes.name_of(data, {"renamed": here}) == "renamed"
    with pytest.raises(recipes.Unclear, match="Orthanc does not know PACS; known are: X"):
        recipes.name_of(data, {"X": {**here, "AET": "Y"}})
    assert not recipes.is_target("cloud", {"Url": "cloud2"}, "cloud2", recipes.RECIPES["DicomWebStowClient"])
