# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lists of series as Orthanc gives them, with the private tags of each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from common.parameters import Flag, WholeNumber

from .values import decoded_values

# Of ResponseContent in /tools/find: what /series?expand gives.
RESPONSE_CONTENT = ["MainDicomTags", "Metadata", "Parent", "Status", "IsStable", "Labels"]
SHOWN_METADATA = ("AnonymizedFrom", "LastUpdate", "ModifiedFrom")  # in /series?expand


@dataclasses.dataclass(frozen=True)
class Page:
    """What part of a list, and how."""

    since: int
    limit: int | None
    short: bool
    instances: bool


PAGE_OF_SERIES = {
    "since": WholeNumber(most=10**9 - 1),
    "limit": WholeNumber(least=1, most=10**9 - 1),
    "short": Flag(bare=True),
    "instances": Flag(bare=True),
    "expand": Flag(bare=True),  # as Orthanc's own lists; it changes nothing
}


def page_of(given: Mapping[str, Any]) -> Page:
    """Return what the parameters of a request ask for."""
    return Page(given.get("since", 0), given.get("limit"), given.get("short", False), given.get("instances", False))


def with_tags(series: dict[str, Any], values: Mapping[str, Any], instances: bool) -> dict[str, Any]:
    """Return a series as Orthanc gives it, with its private tags."""
    if not instances:
        series.pop("Instances", None)
    series["MainPrivateDicomTags"] = values
    return series


def found_with_tags(listing: bytes, name: str) -> bytes:
    """Return what `/tools/find` gave with `RESPONSE_CONTENT` as `/series?expand` gives it, with private tags.

    Those are in the metadata `name`.
    """
    return json.dumps([_expanded(series, name) for series in json.loads(listing)]).encode()


def _expanded(series: dict[str, Any], name: str) -> dict[str, Any]:
    metadata: Mapping[str, str] = series.pop("Metadata")
    expected = metadata.get("ExpectedNumberOfInstances", "")
    is_known = series["Status"] != "Unknown" and expected.isdecimal()
    series |= {key: metadata[key] for key in SHOWN_METADATA if key in metadata}
    series["ExpectedNumberOfInstances"] = int(expected) if is_known else None
    series["MainPrivateDicomTags"] = decoded_values(metadata.get(name))
    return series
